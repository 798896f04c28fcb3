"""Tensors read by ranges of a file, local or behind a URL: nothing is mapped, and nothing but what is asked for is read.

A mapped file that another program cuts short kills its reader by a signal; a read that comes back short is an error like any other.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from precalign.analysis.readers.address import Place, Remote, entries, file_system, reading
from precalign.analysis.readers.base import damaged, printable
from precalign.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

BLOCK_BYTES = 32 << 20
"""Most bytes of one read."""
LOCAL_GAP_BYTES, REMOTE_GAP_BYTES = 4096, 1 << 20
"""Runs of wanted bytes that lie no further apart are read together: a page costs nothing more, a request costs a round trip."""


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
            self._gap = REMOTE_GAP_BYTES
        else:
            self._handle, self.size = _opened(place)
            self._fetch_range = self._pread
            self._gap = LOCAL_GAP_BYTES

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
            raise damaged(
                self.place, "the file has become shorter while it was read", "is it still being written? wait for that"
            )
        return held

    def array(self, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> RangedArray:
        """Return a tensor that is read when it becomes an array; (offset, shape) must have been checked against the size."""
        strides = tuple(dtype.itemsize * prod(shape[axis + 1 :]) for axis in range(len(shape)))
        return RangedArray(self, offset, shape, strides, dtype)

    def runs(self, starts: NDArray[np.int64], length: int) -> Iterator[memoryview]:
        """Yield `length` bytes at each of the ascending `starts`; what lies close together is read at once."""
        far = np.flatnonzero(np.diff(starts) - length > self._gap) + 1
        for near in np.split(starts, far):
            begin = 0
            while begin < len(near):
                first = int(near[begin])
                end = max(begin + 1, int(np.searchsorted(near, first + BLOCK_BYTES - length, side="right")))
                block = memoryview(self.read(first, int(near[end - 1]) + length - first))
                for start in near[begin:end].tolist():
                    yield block[start - first : start - first + length]
                begin = end

    def _pread(self, start: int, end: int) -> bytes:
        assert self._handle is not None  # noqa: S101 - a local file is open
        pieces = []
        try:
            while start < end and (piece := os.pread(self._handle, end - start, start)):  # 2 GiB a call at most
                pieces.append(piece)
                start += len(piece)
        except OSError as error:
            raise InputError(f"{printable(self.place)}: cannot be read: {error.strerror or error}") from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Close the file."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _opened(path: Path) -> tuple[int, int]:
    try:
        handle = os.open(path, os.O_RDONLY)
        return handle, os.fstat(handle).st_size
    except OSError as error:
        raise InputError(f"{printable(path)}: cannot be read: {error.strerror or error}") from error


def _remote(place: Remote) -> tuple[int, Callable[[int, int], bytes]]:
    size = entries(place).get("size")
    if not isinstance(size, int):
        raise InputError(f"{printable(place)}: the store does not tell its size", hint="fetch it and give the file")
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
    file : RangedFile
    offset : int
        Of the first element, bytes.
    shape, strides : tuple of int
        Strides in bytes; 0 on an axis of length 1 that the file does not have.
    dtype : numpy.dtype
    """

    file: RangedFile
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
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        # In the order in which the file holds them; axes that it does not have come first.
        order = sorted(range(len(self.shape)), key=lambda axis: (self.strides[axis] != 0, -self.strides[axis], axis))
        run, outer = self.dtype.itemsize, len(order)
        while outer and self.strides[order[outer - 1]] in {run, 0}:
            run *= self.shape[order[outer - 1]]
            outer -= 1
        starts = np.array([self.offset], np.int64)
        for axis in order[:outer]:
            starts = (starts[:, None] + np.arange(self.shape[axis], dtype=np.int64) * self.strides[axis]).ravel()
        held = np.empty((len(starts), run), np.uint8)
        for row, piece in zip(held, self.file.runs(starts, run), strict=True):
            row[:] = np.frombuffer(piece, np.uint8)
        stored = held.reshape(-1).view(self.dtype).reshape([self.shape[axis] for axis in order])
        return stored.transpose(np.argsort(order))
