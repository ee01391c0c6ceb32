"""Logits of a teacher on disk, so that a slow teacher runs once for each clip.

The key is a hash of the clip's pixels after augmentation and mixing, which depend on the video and
the seed of its augmentation. So a changed video, recipe or augmentation never finds the logits of
other pixels.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dvfl_runtime.errors import OutputError

log = logging.getLogger(__name__)

_ROW_BYTES = 40  # of the key and of SQLite's bookkeeping, beside the logits


class TeacherCache:
    """A bounded store of logits; several processes may share it.

    Stored logits are never replaced, and never computed again. The last bits of a network's output
    depend on the rest of the batch; reading them back lets a run that was killed go on exactly as
    if it had not been. A full store keeps its content: clips come round in turn, so that replacing
    old ones would lose each of them before it is needed again.

    Args:
        folder: of the file; there is one file per teacher.
        teacher: SHA-256 of its checkpoint.
        num_classes: width of the logits.
        max_mb: bound of the file's size, 1e6 bytes.

    Raises:
        OutputError: if the file cannot be written.
    """

    def __init__(self, folder: Path, teacher: str, num_classes: int, max_mb: float) -> None:
        self.path = folder / f"teacher_{teacher[:16]}.sqlite"
        self.num_classes = num_classes
        self.max_rows = int(max_mb * 1e6 / (4 * num_classes + _ROW_BYTES))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=60)
            self._db.execute("PRAGMA journal_mode=WAL")  # readers do not wait for the writer
            self._db.execute("CREATE TABLE IF NOT EXISTS seen (clip BLOB PRIMARY KEY, logits BLOB)")
        except (OSError, sqlite3.Error) as err:
            raise OutputError(
                f"cannot keep the teacher's logits in {self.path}: {err}; delete the file, or set "
                f"distill.cache_mb=0"
            ) from err
        self._full = False

    def __len__(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM seen").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def logits(self, clips: Tensor, teach: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the logits of clips, (B, T, 3, H, W) -> (B, num_classes): stored or of `teach`."""
        keys = [_key(clip) for clip in clips]
        stored = [self._stored(key) for key in keys]
        missing = [k for k, row in enumerate(stored) if row is None]
        if missing:
            computed = teach(clips[missing]).float().cpu().numpy()
            self._store([keys[k] for k in missing], computed)
            for k, row in zip(missing, computed, strict=True):
                stored[k] = row
        rows = [row for row in stored if row is not None]
        return torch.from_numpy(np.stack(rows)).to(clips.device)

    def _stored(self, key: bytes) -> NDArray[np.float32] | None:
        row = self._db.execute("SELECT logits FROM seen WHERE clip=?", (key,)).fetchone()
        return None if row is None else np.frombuffer(row[0], np.float32)

    def _store(self, keys: list[bytes], logits: NDArray[np.float32]) -> None:
        if self._full or len(self) + len(keys) > self.max_rows:
            if not self._full:
                log.warning("%s is full; further logits are not kept", self.path)
            self._full = True
            return
        rows = [(key, row.tobytes()) for key, row in zip(keys, logits, strict=True)]
        try:
            with self._db:  # one transaction: all of the batch or nothing
                self._db.executemany("INSERT OR IGNORE INTO seen VALUES (?, ?)", rows)
        except sqlite3.Error as err:  # such as a full disk: the training can do without
            log.warning("%s cannot be written (%s); further logits are not kept", self.path, err)
            self._full = True


def _key(clip: Tensor) -> bytes:
    pixels = np.ascontiguousarray(clip.detach().cpu().numpy())
    return hashlib.blake2b(
        pixels.data, digest_size=16, person=str(pixels.shape)[:16].encode()
    ).digest()
