"""Tensors read by ranges of a file, local, packed or behind a URL: nothing is mapped, and nothing but what is asked for is read.

A mapped file that another program cuts short kills its reader by a signal; a read that comes back short is an error like any other.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from precalign.analysis.readers.address import Place, Remote, entries, file_system, reading
from precalign.analysis.readers.base import damaged, shown
from precalign.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

BLOCK_BYTES = 32 << 20
"""Most bytes of one request to a store."""
SCRATCH_BYTES = 1 << 20
"""Most bytes of one read that is taken apart in memory: what a core's cache holds is faster than fewer calls."""
LOCAL_GAP_BYTES, REMOTE_GAP_BYTES = 4096, 1 << 20
"""Runs of wanted bytes that lie no further apart are read together: a page costs nothing more, a request costs a round trip."""
MAX_REPEATS = 1024
"""An array that repeats what is stored (a stride of 0) is at most this many times as large as the bytes it is made of, or `FREE_BYTES`."""
FREE_BYTES = 64 << 20


class Source(Protocol):
    """Bytes of which ranges are read.

    Attributes
    ----------
    size : int
        Bytes.
    gap : int
        Runs of wanted bytes that lie no further apart are read together.
    block : int
        Most bytes that are read together.
    """

    size: int
    gap: int
    block: int

    def read(self, start: int, length: int) -> bytes:
        """Return `length` bytes, fewer at the end; an `InputError` where they cannot be read."""

    def fill(self, start: int, buffer: memoryview) -> None:
        """Read as many bytes as a buffer takes; an `InputError` where there are fewer."""


class RangedFile:
    """A file of which ranges are read.

    Parameters
    ----------
    place : Path or Remote

    Raises
    ------
    InputError
        If it cannot be opened.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self._handle: int | None = None
        if isinstance(place, Remote):
            self.size, self._fetch_range = _remote(place)
            self.gap, self.block = REMOTE_GAP_BYTES, BLOCK_BYTES
        else:
            self._handle, self.size = _opened(place)
            self._fetch_range = self._pread
            self.gap, self.block = LOCAL_GAP_BYTES, SCRATCH_BYTES

    def read(self, start: int, length: int) -> bytes:
        """Return bytes.

        Raises
        ------
        InputError
            If the file has become shorter than it was, or the read fails.
        """
        end = min(start + length, self.size)
        held = self._fetch_range(start, end) if end > start else b""
        if len(held) != max(0, end - start):
            raise self._shorter()
        return held

    def fill(self, start: int, buffer: memoryview) -> None:
        """Read as many bytes as a buffer takes.

        Raises
        ------
        InputError
            If there are fewer, or the read fails.
        """
        if self._handle is None:
            held = self.read(start, len(buffer))
            if len(held) != len(buffer):
                raise self._shorter()
            buffer[:] = held
            return
        try:
            while len(buffer):
                count = os.preadv(self._handle, [buffer], start)  # 2 GiB a call at most
                if count == 0:
                    raise self._shorter()
                buffer, start = buffer[count:], start + count
        except OSError as error:
            raise self._unreadable(error) from error

    def _shorter(self) -> InputError:
        return damaged(
            self.place, "the file has become shorter while it was read", "is it still being written? wait for that"
        )

    def _unreadable(self, error: OSError) -> InputError:
        return InputError(f"{shown(self.place)}: cannot be read: {error.strerror or error}")

    def array(self, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> RangedArray:
        """Return a tensor that is read when it becomes an array; (offset, shape) must have been checked against the size."""
        return ranged(self, offset, shape, dtype)

    def _pread(self, start: int, end: int) -> bytes:
        assert self._handle is not None  # noqa: S101 - a local file is open
        pieces = []
        try:
            while start < end and (piece := os.pread(self._handle, end - start, start)):  # 2 GiB a call at most
                pieces.append(piece)
                start += len(piece)
        except OSError as error:
            raise self._unreadable(error) from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Close the file."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


@contextmanager
def opened(place: Place) -> Iterator[RangedFile]:
    """Open a file that stays open, unless what is done with it here fails."""
    file = RangedFile(place)
    try:
        yield file
    except BaseException:
        file.close()
        raise


def _opened(path: Path) -> tuple[int, int]:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe without a writer would wait for one
        status = os.fstat(handle)
    except OSError as error:
        raise InputError(f"{shown(path)}: cannot be read: {error.strerror or error}") from error
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise InputError(f"{shown(path)}: not a regular file", hint="pipes, devices and folders have no ranges to read")
    return handle, status.st_size


def _remote(place: Remote) -> tuple[int, Callable[[int, int], bytes]]:
    size = entries(place).get("size")
    if not isinstance(size, int):
        raise InputError(f"{shown(place)}: the store does not tell its size", hint="fetch it and give the file")
    fs, path = file_system(place.url)

    def read(start: int, end: int) -> bytes:
        with reading(place):
            held: bytes = fs.cat_file(path, start=start, end=end)
            return held

    return size, read


@dataclass(frozen=True)
class RangedArray:
    """A tensor in a file, or a part of it; like a NumPy view it is cut and transposed without reading.

    Attributes
    ----------
    file : Source
    offset : int
        Of the first element, bytes.
    shape, strides : tuple of int
        Strides in bytes; 0 on an axis of length 1 that the file does not have.
    dtype : numpy.dtype
    """

    file: Source
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]

    def transpose(self, order: list[int]) -> RangedArray:
        """Return the axes in another order."""
        shape, strides = (tuple(of[axis] for axis in order) for of in (self.shape, self.strides))
        return RangedArray(self.file, self.offset, shape, strides, self.dtype)

    def __getitem__(self, key: int | slice | tuple[int | slice, ...] | None) -> RangedArray:
        if key is None:
            return RangedArray(self.file, self.offset, (1, *self.shape), (0, *self.strides), self.dtype)
        keys = key if isinstance(key, tuple) else (key,)
        offset, shape, strides = self.offset, list[int](), list[int]()
        for wanted, size, stride in zip(keys, self.shape, self.strides, strict=False):
            if isinstance(wanted, slice):
                begin, end, step = wanted.indices(size)
                assert step == 1  # noqa: S101 - nobody here asks for more
                shape.append(max(0, end - begin))
                strides.append(stride)
            else:
                begin = range(size)[wanted]
            offset += begin * stride
        rest = len(keys)
        return RangedArray(
            self.file, offset, (*shape, *self.shape[rest:]), (*strides, *self.strides[rest:]), self.dtype
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:  # noqa: ANN401, FBT001 - NumPy's protocol
        del copy  # always a copy
        held = self._fetch()
        return held if dtype is None else held.astype(dtype, copy=False)

    def _fetch(self) -> NDArray[Any]:
        self._check_repeats()
        held = np.empty(self.shape, self.dtype)
        if held.size:
            # In the order in which the file holds them; an axis of one index has no stride.
            strides = [0 if size == 1 else stride for size, stride in zip(self.shape, self.strides, strict=True)]
            order = sorted(range(len(strides)), key=lambda axis: -strides[axis])
            one = held.transpose(order)[..., None]  # a last axis of one index, so that a row is always an array
            _Gather(self.file, held.itemsize).fill(self.offset, one, (*(strides[axis] for axis in order), 0))
        return held

    def _check_repeats(self) -> None:
        wanted = prod(self.shape) * self.dtype.itemsize
        stored = _span(self.shape, self.strides, self.dtype.itemsize)
        if wanted > max(FREE_BYTES, MAX_REPEATS * stored):
            raise InputError(
                f"a tensor of shape {self.shape} makes {wanted} bytes of {stored} that are stored",
                hint=f"what is stored once is repeated {MAX_REPEATS} times at most: dump the tensor before it is expanded",
            )


def ranged(file: Source, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> RangedArray:
    """Return a contiguous array of a source, in C order; (offset, shape) must have been checked against the size."""
    strides = tuple(dtype.itemsize * prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return RangedArray(file, offset, shape, strides, dtype)


def _span(shape: tuple[int, ...], strides: tuple[int, ...], item_bytes: int) -> int:
    """Return the bytes from the first element to the end of the last."""
    return item_bytes + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


class _Gather:
    """Fills arrays from where they lie in a file.

    What lies as it is wanted is read in place. What lies close together is read at once, up to the source's block, and taken apart in memory.
    Strides descend, so that reads do not go back and forth.
    """

    def __init__(self, file: Source, item_bytes: int) -> None:
        self._file, self._item_bytes = file, item_bytes
        self._scratch = np.empty(0, np.uint8)

    def fill(self, offset: int, held: NDArray[Any], strides: tuple[int, ...]) -> None:
        """Fill an array whose last axis has one index from an offset and strides in bytes."""
        if held.flags.c_contiguous and _same(held, strides):
            self._file.fill(offset, held.reshape(-1).view(np.uint8).data)
            return
        dense = _is_dense(held.shape, strides, self._item_bytes, self._file.gap)
        span = _span(held.shape, strides, self._item_bytes)
        if held.ndim == 1 or (dense and span <= self._file.block):
            self._take(offset, span, held, strides)
            return
        inner = _span(held.shape[1:], strides[1:], self._item_bytes)
        step = (self._file.block - inner) // strides[0] + 1 if dense and strides[0] else 1
        if step > 1:
            for begin in range(0, len(held), step):
                self.fill(offset + begin * strides[0], held[begin : begin + step], strides)
            return
        whole = inner <= self._file.block and _is_dense(held.shape[1:], strides[1:], self._item_bytes, self._file.gap)
        for index, row in enumerate(held):
            if whole:
                self._take(offset + index * strides[0], inner, row, strides[1:])
            else:
                self.fill(offset + index * strides[0], row, strides[1:])

    def _take(self, offset: int, span: int, held: NDArray[Any], strides: tuple[int, ...]) -> None:
        if len(self._scratch) < span:
            self._scratch = np.empty(span, np.uint8)
        self._file.fill(offset, self._scratch.data[:span])
        held[...] = np.ndarray(held.shape, held.dtype, self._scratch.data, strides=strides)


def _same(held: NDArray[Any], strides: tuple[int, ...]) -> bool:
    """Whether an array's own strides are those; an axis of one index has none."""
    return all(size == 1 or own == stride for size, own, stride in zip(held.shape, held.strides, strides, strict=True))


def _is_dense(shape: tuple[int, ...], strides: tuple[int, ...], item_bytes: int, gap: int) -> bool:
    span = item_bytes
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if stride - span > gap:
            return False
        span += (size - 1) * stride
    return True
