"""Memory: global buffers used in place, shared memory per block, local memory per thread.

Addresses are those of a 64-bit generic address space with a window for shared and one for local memory. Between any two
buffers lies a gap that nobody may touch, so an access beyond the end of one never lands in another.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from precalign.gpu.ptx.program import Variable

Array = Any
GLOBAL_BASE = 0x7000_0000_0000
SHARED_WINDOW = 0x0001_0000_0000
LOCAL_WINDOW = 0x0002_0000_0000
WINDOW_BYTES = 1 << 30
PARAM_BASE = 0x0004_0000_0000
_BUFFER_ALIGN = 256  # what cudaMalloc promises
_RED_ZONE = 4096


class BadAccess(Exception):  # noqa: N818 - not an error yet: the machine turns it into a KernelFault with a place
    """An access that a checker refuses.

    Parameters
    ----------
    kind, message : str
    position : int
        Which of the addresses given.
    """

    def __init__(self, kind: str, message: str, position: int) -> None:
        super().__init__(message)
        self.kind, self.message, self.position = kind, message, position


@dataclass
class Segment:
    """One buffer of global or constant memory.

    Attributes
    ----------
    octets : ndarray[uint8]
        The caller's own memory.
    written : ndarray[bool] or None
        Which bytes hold a value; None where all do.
    """

    name: str
    base: int
    octets: NDArray[np.uint8]
    read_only: bool = False
    written: NDArray[np.bool_] | None = None
    views: dict[Any, Array] = field(default_factory=dict)

    @property
    def end(self) -> int:
        """First address after it."""
        return self.base + self.octets.size

    def view(self, dtype: np.dtype[Any]) -> Array:
        """Return the buffer as numbers of one type; a last part number is left out."""
        if dtype not in self.views:
            whole = self.octets.size // dtype.itemsize * dtype.itemsize
            self.views[dtype] = self.octets[:whole].view(dtype)
        return self.views[dtype]


class GlobalMemory:
    """All buffers of a launch."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []
        self._bases: list[int] = []
        self._next = GLOBAL_BASE

    def place(
        self, name: str, octets: NDArray[np.uint8], *, read_only: bool = False, uninitialised: bool = False
    ) -> Segment:
        """Give a buffer an address aligned to 256 bytes."""
        shadow = np.zeros(octets.size, np.bool_) if uninitialised else None
        segment = Segment(name, self._next, octets, read_only, shadow)
        self.segments.append(segment)
        self._bases.append(segment.base)
        self._next = -(-(segment.end + _RED_ZONE) // _BUFFER_ALIGN) * _BUFFER_ALIGN
        return segment

    def _at(self, address: int) -> Segment | None:
        index = bisect.bisect_right(self._bases, address) - 1
        return self.segments[index] if index >= 0 and address < self.segments[index].end else None

    def _groups(self, addresses: Array, width: int) -> list[tuple[Segment, Any]]:
        """Split an access by buffer; checks bounds. Positions None stands for all."""
        low, high = int(addresses.min()), int(addresses.max())
        segment = self._at(low)
        if segment is not None and high + width <= segment.end:
            return [(segment, None)]
        index = np.searchsorted(np.array(self._bases, np.int64), addresses, side="right") - 1
        groups = []
        for i in np.unique(index):
            positions = np.nonzero(index == i)[0]
            if i < 0:
                self._fail(addresses, int(positions[0]), width)
            outside = addresses[positions] + width > self.segments[i].end
            if outside.any():
                self._fail(addresses, int(positions[np.argmax(outside)]), width)
            groups.append((self.segments[i], positions))
        return groups

    def near(self, address: int) -> Segment | None:
        """Return the buffer that was probably meant by an address."""
        return min(self.segments, key=lambda s: max(s.base - address, address - s.end, 0), default=None)

    def outside(self, address: int, width: int) -> str:
        """Say where an access out of bounds went."""
        near = self.near(address)
        if near is None or not near.base - _RED_ZONE <= address <= near.end + _RED_ZONE:
            return f"{width} bytes at address 0x{address & (1 << 64) - 1:x}, in no buffer"
        return f"{width} bytes at byte {address - near.base} of {near.name}, which has {near.octets.size} bytes"

    def _fail(self, addresses: Array, position: int, width: int) -> NoReturn:
        raise BadAccess("out-of-bounds", self.outside(int(addresses[position]), width), position)

    def load(self, addresses: Array, dtype: np.dtype[Any]) -> Array:
        """Read one number per address; addresses are aligned to it."""
        width = dtype.itemsize
        groups = self._groups(addresses, width)
        if len(groups) == 1:
            return self._load_from(groups[0][0], addresses, dtype)
        result = np.empty(addresses.shape, dtype)
        for segment, positions in groups:
            result[positions] = self._load_from(segment, addresses[positions], dtype)
        return result

    def _load_from(self, segment: Segment, addresses: Array, dtype: np.dtype[Any]) -> Array:
        offsets = addresses - segment.base
        if segment.written is not None:
            known = np.logical_and.reduce([segment.written[offsets + i] for i in range(dtype.itemsize)])
            if not known.all():
                position = int(np.argmin(known))
                place = f"byte {int(offsets[position])} of {segment.name}"
                raise BadAccess("uninitialised", f"read of {place}, which nobody wrote", position)
        return segment.view(dtype).take(offsets >> (dtype.itemsize.bit_length() - 1))

    def store(self, addresses: Array, values: Array) -> None:
        """Write one number per address."""
        dtype = values.dtype
        for segment, positions in self._groups(addresses, dtype.itemsize):
            if segment.read_only:
                position = 0 if positions is None else int(positions[0])
                raise BadAccess("read-only", f"write to {segment.name}, which is constant", position)
            offsets = (addresses if positions is None else addresses[positions]) - segment.base
            chosen = values if positions is None else values[positions]
            segment.view(dtype)[offsets >> (dtype.itemsize.bit_length() - 1)] = chosen
            if segment.written is not None:
                for i in range(dtype.itemsize):
                    segment.written[offsets + i] = True


def lay_out(variables: list[Variable], dynamic_bytes: int) -> tuple[dict[str, int], dict[str, int], int]:
    """Place variables at exactly their declared alignment: at odd multiples of it, so no better by luck.

    Parameters
    ----------
    variables : list of Variable
        Of shared or local memory.
    dynamic_bytes : int
        Size of an `extern __shared__` array.

    Returns
    -------
    offsets, sizes : dict
        By name.
    total : int
        Bytes, gaps included.
    """
    offsets, sizes, at = {}, {}, 0
    for variable in sorted(variables, key=lambda v: v.external):  # dynamic memory comes last, as on a GPU
        sizes[variable.name] = dynamic_bytes if variable.external else variable.size_bytes
        step = 2 * variable.align
        offset = -(-(at + 16 - variable.align) // step) * step + variable.align
        offsets[variable.name] = offset
        if not variable.external:
            at = offset + sizes[variable.name]
    total = max([at, *(offsets[n] + sizes[n] for n in offsets)]) + 16
    return offsets, sizes, -(-total // 64) * 64


_OUTSIDE, _EMPTY, _WRITTEN = 0, 1, 2


class PrivateMemory:
    """Shared memory of blocks or local memory of threads: `n_owners` copies of the same variables.

    Parameters
    ----------
    offsets, sizes : dict
        Of `lay_out`.
    total : int
    n_owners : int
    what : str
        "shared" or "local", for messages.
    """

    def __init__(self, offsets: dict[str, int], sizes: dict[str, int], total: int, n_owners: int, what: str) -> None:
        self.octets = np.zeros(n_owners * total, np.uint8)
        self.stride, self.what = total, what
        self.offsets, self.sizes = offsets, sizes
        state = np.zeros(total, np.uint8)
        for name, offset in offsets.items():
            state[offset : offset + sizes[name]] = _EMPTY
        self.state = np.tile(state, n_owners)

    def _index(self, offsets: Array, owners: Array, width: int) -> Array:
        if int(offsets.min()) < 0 or int(offsets.max()) + width > self.stride:
            bad = (offsets < 0) | (offsets + width > self.stride)
            position = int(np.argmax(bad))
            raise BadAccess("out-of-bounds", self.describe(int(offsets[position]), width), position)
        return owners * self.stride + offsets

    def describe(self, offset: int, width: int) -> str:
        """Return "4 bytes at byte 8 of shared tile, which has 64"."""
        names = [n for n, o in self.offsets.items() if o <= offset]
        if not names:
            return f"{width} bytes before the {self.what} variables"
        name = max(names, key=lambda n: self.offsets[n])
        return (
            f"{width} bytes at byte {offset - self.offsets[name]} of {self.what} {name}, which has {self.sizes[name]}"
        )

    def check(self, offsets: Array, owners: Array, width: int, *, for_read: bool) -> Array:
        """Check bounds (and, for reads, that the bytes were written); return places in `octets`."""
        places = self._index(offsets, owners, width)
        piece = min(width, 8)
        for step in range(0, width, piece):
            self._check_piece(offsets + step if step else offsets, places + step if step else places, piece, for_read)
        return places

    def _check_piece(self, offsets: Array, places: Array, width: int, for_read: bool) -> None:  # noqa: FBT001 - private
        dtype = np.dtype(f"u{width}")
        state = self.state.view(dtype).take(places >> (width.bit_length() - 1))
        good = state == dtype.type(int.from_bytes(bytes([_WRITTEN]) * width, "little"))
        if good.all():
            return
        outside = (np.ascontiguousarray(state).view(np.uint8).reshape(-1, width) == _OUTSIDE).any(axis=1)
        if outside.any():
            position = int(np.argmax(outside))
            raise BadAccess("out-of-bounds", self.describe(int(offsets[position]), width), position)
        if for_read:
            position = int(np.argmin(good))
            place = self.describe(int(offsets[position]), width)
            raise BadAccess("uninitialised", f"read of {place}, which nobody wrote", position)

    def load(self, places: Array, dtype: np.dtype[Any]) -> Array:
        """Read at places that `check` returned."""
        return self.octets.view(dtype).take(places >> (dtype.itemsize.bit_length() - 1))

    def store(self, places: Array, values: Array) -> None:
        """Write at places that `check` returned."""
        width = values.dtype.itemsize
        index = places >> (width.bit_length() - 1)
        self.octets.view(values.dtype)[index] = values
        written = int.from_bytes(bytes([_WRITTEN]) * width, "little")
        self.state.view(f"u{width}")[index] = written
