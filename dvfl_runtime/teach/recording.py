"""Records clips of actions, one after the other: a countdown, a clip, a look at what it shows."""

from __future__ import annotations

import math
import queue
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.errors import ArgumentError
from dvfl_runtime.errors.checks import check_number
from dvfl_runtime.record.recorder import Recorder, Recording
from dvfl_runtime.sources import Frame
from dvfl_runtime.sources.observed import ObservedSource
from dvfl_runtime.teach.clip_check import CheckedClip, check_clip
from dvfl_runtime.teach.clip_folder import ClipFolder

LONGER = 1.5  # than the model's window: several windows of a clip are learnt from
MAX_WAITING = 50  # clips that were asked for and are not yet recorded


@dataclass(frozen=True)
class ClipPlan:
    """What is recorded.

    Attributes:
        spec: of the model that the clips are for.
        seconds: length of a clip; by default half as long again as the model's window.
        countdown_s: before each clip, seconds.

    Raises:
        ArgumentError: if a number is out of its range.
    """

    spec: ClipSpec
    seconds: float = 0.0
    countdown_s: float = 3.0

    def __post_init__(self) -> None:
        if not self.seconds:
            object.__setattr__(self, "seconds", LONGER * self.spec.window_s)
        check_number("seconds", self.seconds, above=0, most=600)
        check_number("countdown_s", self.countdown_s, least=0, most=600)


@dataclass(frozen=True)
class Moment:
    """What happens now.

    Attributes:
        phase: waiting until a clip is asked for, counting down to it, recording or checking it.
        label: the action, "" while waiting.
        seconds_left: of the countdown.
    """

    phase: Literal["waiting", "counting", "recording", "checking"]
    label: str = ""
    seconds_left: int = 0

    @property
    def text(self) -> str:
        """One line for the person in front of the camera."""
        return {
            "waiting": "",
            "counting": f"{self.label}: get ready, {self.seconds_left}",
            "recording": f"{self.label}: now",
            "checking": f"{self.label}: thank you",
        }[self.phase]


@dataclass
class _Take:
    """A clip on its way."""

    folder: ClipFolder
    begin_s: float  # on the source's clock
    told: int = -1  # seconds left that the watchers know of
    recording: Recording | None = None
    stem: Path = field(default_factory=Path)


class ClipSession:
    """Records the clips that are asked for, from one source.

    `ask` may be called from any thread; `run` and `close` are for one thread alone.

    Args:
        source: live, not yet read.
        recorder: of the same source.
        folders: of the actions.
        plan: how the clips are.
        on_moment: called with each new moment, in the thread of `run`.
    """

    def __init__(
        self,
        source: ObservedSource,
        recorder: Recorder,
        folders: Sequence[ClipFolder],
        plan: ClipPlan,
        on_moment: Callable[[Moment], object],
    ) -> None:
        self._source = source
        self._recorder = recorder
        self._folders = {folder.label: folder for folder in folders}
        self._plan = plan
        self._on_moment = on_moment
        self._asked: queue.Queue[ClipFolder] = queue.Queue(MAX_WAITING)
        self._take: _Take | None = None

    def ask(self, label: str) -> None:
        """Ask for another clip of an action.

        Raises:
            ArgumentError: if there is no such action, or too many clips wait.
        """
        if label not in self._folders:
            raise ArgumentError(f"there is no action {label!r}")
        try:
            self._asked.put_nowait(self._folders[label])
        except queue.Full:
            raise ArgumentError(f"{MAX_WAITING} clips wait already; let them be recorded") from None

    def run(self) -> Iterator[CheckedClip | None]:
        """Yield each clip when it is complete, and `None` for each frame between.

        Raises:
            SourceError: if the source cannot be read.
            OutputError: if a clip cannot be written.
        """
        self._on_moment(Moment("waiting"))
        for frame in self._source.frames():
            yield self._step(frame)

    def close(self) -> None:
        """Give up the clip that is being recorded; those that are complete stay."""
        take, self._take = self._take, None
        if take is not None and take.recording is not None:
            take.recording.cancel()

    def _step(self, frame: Frame) -> CheckedClip | None:
        take = self._take or self._next_take(frame)
        if take is None:
            return None
        if take.recording is None:
            self._count_down(take, frame.time_s)
            return None
        if frame.time_s < take.begin_s + self._plan.seconds:
            return None
        self._on_moment(Moment("checking", take.folder.label))
        take.recording.end(take.begin_s + self._plan.seconds)
        take.recording.wait()
        return self._finish(take, take.recording)

    def _next_take(self, frame: Frame) -> _Take | None:
        try:
            folder = self._asked.get_nowait()
        except queue.Empty:
            return None
        self._take = _Take(folder, frame.time_s + self._plan.countdown_s)
        return self._take

    def _count_down(self, take: _Take, now_s: float) -> None:
        label, left = take.folder.label, math.ceil(take.begin_s - now_s)
        if now_s < take.begin_s:
            if left != take.told:
                take.told = left
                self._on_moment(Moment("counting", label, left))
            return
        take.begin_s, take.stem = now_s, take.folder.next_stem()
        take.recording = self._recorder.begin(take.stem, now_s)
        self._on_moment(Moment("recording", label))

    def _finish(self, take: _Take, recording: Recording) -> CheckedClip:
        """Return the clip; after an outage, the longest part of it."""
        self._take = None
        if recording.error is not None:
            raise recording.error
        path = max(recording.paths, key=lambda one: one.stat().st_size)
        clip = check_clip(path, take.folder.label, self._plan.seconds, self._plan.spec)
        if self._asked.empty():
            self._on_moment(Moment("waiting"))
        return clip
