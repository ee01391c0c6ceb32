"""Where the clips of an action go, and how they are called."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dvfl_runtime.errors import ArgumentError, OutputError
from dvfl_runtime.errors.checks import check_line
from dvfl_runtime.files import cannot_write
from dvfl_runtime.sources.folders import is_video


class ClipFolder:
    """The folder of one action; its clips are numbered, and numbering goes on where it stopped.

    Args:
        path: FOLDER/LABEL; made if it is missing.
        person: begins the names of the clips, so that all of one person are known to belong
            together; by default they begin with the label.

    Attributes:
        label: the action.

    Raises:
        OutputError: if it cannot be made, or another folder there has the same name in other
            letters.
    """

    def __init__(self, path: Path, person: str | None = None) -> None:
        self.label = path.name
        self._path = path
        self._prefix = person or self.label
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            names = [other.name for other in path.parent.iterdir() if other.is_dir()]
        except OSError as err:
            raise cannot_write(path, err) from err
        for name in names:
            if name != path.name and name.casefold() == path.name.casefold():
                raise OutputError(
                    f"{path.parent} has a folder {name!r} already, which differs from "
                    f"{path.name!r} in case alone; give the action one name"
                )
        self._made = not path.is_dir()
        try:
            path.mkdir(exist_ok=True)
        except OSError as err:
            raise cannot_write(path, err) from err

    def remove_if_empty(self) -> None:
        """Remove the folder again if it was made here, and no clip came into it."""
        if self._made:
            with suppress(OSError):  # it is not empty, or gone
                self._path.rmdir()

    def count(self) -> int:
        """Return how many clips there are."""
        try:
            return sum(is_video(path) for path in self._path.iterdir())
        except OSError as err:
            raise cannot_write(self._path, err) from err

    def next_stem(self) -> Path:
        """Return the path, without its suffix, of the next clip.

        Raises:
            OutputError: if the folder is gone.
        """
        pattern = re.compile(rf"{re.escape(self._prefix)}_([0-9]+)(?:-[0-9]+)?\.\w+")
        try:
            found = [pattern.fullmatch(path.name) for path in self._path.iterdir()]
        except OSError as err:
            raise cannot_write(self._path, err) from err
        last = max((int(match[1]) for match in found if match), default=0)
        return self._path / f"{self._prefix}_{last + 1:02}"


def clip_folders(places: Sequence[Path], person: str | None) -> list[ClipFolder]:
    """Return the folders of the actions that are recorded.

    Args:
        places: FOLDER/LABEL of each.
        person: who is recorded; `None` if that is not told.

    Raises:
        ArgumentError: if a place or the person cannot be one.
        OutputError: if a folder cannot be made.
    """
    for place in places:
        if len(place.parts) < 2 or place.name in ("", ".", ".."):
            raise ArgumentError(
                f"{place} is no FOLDER/LABEL; pass the folder of all clips and the name of the "
                f"action, such as clips/wave"
            )
        check_line("LABEL", place.name)
    if len({place.parent for place in places}) > 1:
        raise ArgumentError("all actions need the same FOLDER, such as clips/wave clips/clap")
    names = [place.name.casefold() for place in places]
    if len(set(names)) < len(names):
        raise ArgumentError("two actions have the same name; give them different ones")
    if person is not None and not re.fullmatch(r"\w[\w .-]*", person):
        raise ArgumentError(
            f"--person must be a name of letters and digits, to begin file names, got {person!r}"
        )
    return [ClipFolder(place, person) for place in places]
