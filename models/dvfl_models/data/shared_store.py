"""Arrays that all processes of a loader keep together, in one file."""

from __future__ import annotations

import logging
import multiprocessing
import os
import tempfile
from collections.abc import Iterable
from multiprocessing import reduction
from typing import Any

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

_AXES = 4  # of an array, at most
_ROW = 1 + _AXES  # of the table, per key: where its array begins, and the length of each axis
_NOT_KEPT, _BEING_WRITTEN = -1, -2  # in place of where it begins


class SharedStore:
    """A bounded store of arrays by key, which any process may read and add to.

    Arrays are never replaced: those of a training come round in turn, so that replacing old ones
    would lose each of them before it is needed again. They are in a nameless file in the folder for
    temporary files: in memory as long as the system has some to spare, and gone with the processes.

    Args:
        keys: all that arrays may be kept by.
        dtype: of the arrays.
        max_bytes: bound of the file.
    """

    def __init__(self, keys: Iterable[str], dtype: Any, max_bytes: int) -> None:
        self._rows = {key: row for row, key in enumerate(dict.fromkeys(keys))}
        self._dtype = np.dtype(dtype)
        self._max_bytes = max_bytes
        # the size of the file, then the rows
        self._table = multiprocessing.Array("q", [0] + [_NOT_KEPT] * (_ROW * len(self._rows)))
        with tempfile.TemporaryFile() as file:
            self._fd = os.dup(file.fileno())

    def __del__(self) -> None:
        if hasattr(self, "_fd"):  # not if there is no folder for temporary files
            os.close(self._fd)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a process gets that is not forked."""
        return {**vars(self), "_fd": reduction.DupFd(self._fd)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({**state, "_fd": state["_fd"].detach()})

    def __len__(self) -> int:
        """Return how many arrays are kept."""
        return sum(offset >= 0 for offset in self._table[1::_ROW])

    @property
    def size(self) -> int:
        """The size of the file, bytes."""
        return int(self._table[0])

    def has_room(self, size: int) -> bool:
        """Return whether so many bytes can be kept."""
        return self.size + size <= self._max_bytes

    def get(self, key: str) -> StoredArray | None:
        """Return the array of a key, which is not read yet; `None` if it is not kept."""
        first = 1 + _ROW * self._rows[key]
        offset, *axes = self._table[first : first + _ROW]
        if offset < 0:
            return None
        return StoredArray(self._fd, offset, self._dtype, tuple(n for n in axes if n >= 0))

    def put(self, key: str, array: NDArray[Any]) -> None:
        """Keep an array, unless there is one or no room for it."""
        first, data = 1 + _ROW * self._rows[key], np.ascontiguousarray(array, self._dtype)
        with self._table.get_lock():
            offset = self._table[0]
            if self._table[first] != _NOT_KEPT or offset + data.nbytes > self._max_bytes:
                return
            self._table[0], self._table[first] = offset + data.nbytes, _BEING_WRITTEN
        try:
            rest, at = memoryview(data.tobytes()), offset
            while rest:
                written = os.pwrite(self._fd, rest, at)
                rest, at = rest[written:], at + written
        except OSError as err:  # such as a full disk: the training can do without
            log.warning("decoded videos are not kept any more: %s", err)
            self._max_bytes = 0
            return
        axes = [*data.shape, *[-1] * (_AXES - data.ndim)]
        with self._table.get_lock():
            self._table[first : first + _ROW] = [offset, *axes]


class StoredArray:
    """An array in the file of a store.

    Attributes:
        shape: of the array.
    """

    def __init__(self, fd: int, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self._fd, self._offset, self._dtype, self.shape = fd, offset, dtype, shape

    def read(self, first: int, count: int) -> NDArray[Any]:
        """Return `count` rows of the first axis."""
        row_bytes = int(np.prod(self.shape[1:])) * self._dtype.itemsize
        data = os.pread(self._fd, count * row_bytes, self._offset + first * row_bytes)
        return np.frombuffer(data, self._dtype).reshape(count, *self.shape[1:])
