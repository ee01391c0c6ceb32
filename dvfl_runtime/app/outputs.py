"""The outputs of dvfl-recognize that all sources share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dvfl_runtime.app.event_recording import EventRecordings
from dvfl_runtime.app.on_event import EventCommand
from dvfl_runtime.app.plan import Plan
from dvfl_runtime.app.watchdog import Watchdog
from dvfl_runtime.console.output import (
    CsvSegments,
    EventWriter,
    JsonlWriter,
    JsonSegments,
    PredictionWriter,
    SegmentDocument,
    SegmentWriter,
    TableWriter,
    TimelineWriter,
    WholeTableWriter,
)
from dvfl_runtime.console.terminal import StandardOutput
from dvfl_runtime.files import RowFile
from dvfl_runtime.files.row_files import RowStream
from dvfl_runtime.interrupts import uninterrupted

if TYPE_CHECKING:
    from dvfl_runtime.serve.server import PageServer

PRE_ROLL_S, KEEP_GB = 3.0, 10.0  # of --record-events


@dataclass
class Outputs:
    """Everything that is written about all sources.

    Attributes:
        predictions: written for each prediction.
        segments: written for each segment, and finished at the end.
        events: written for each event.
        recordings: records the video of each event.
        page: shows all sources and predictions in browsers.
        watchdog: tells systemd that predictions come.
        texts: the streams that the text goes to: standard output, files and pipes.
        rows_on_terminal: whether a row of each prediction goes to standard output.
        lasting: whether there are outputs that are kept, and need no reader now.
    """

    predictions: list[PredictionWriter] = field(default_factory=list)
    segments: list[SegmentWriter] = field(default_factory=list)
    events: list[EventWriter] = field(default_factory=list)
    recordings: EventRecordings | None = None
    page: PageServer | None = None
    watchdog: Watchdog | None = None
    texts: list[RowStream] = field(default_factory=list)
    rows_on_terminal: bool = False
    lasting: bool = False

    @property
    def all_readers_gone(self) -> bool:
        """Whether everything that is still to be written would be lost."""
        gone = all(text.reader_gone for text in self.texts)
        return bool(self.texts) and not self.lasting and gone


def open_outputs(
    args: argparse.Namespace,
    plan: Plan,
    labels: Sequence[str],
    stack: ExitStack,
    report: Callable[[str], None],
) -> Outputs:
    """Open the files and streams that the options ask for, apart from the page.

    Args:
        args: the options.
        plan: made of them.
        labels: names of the classes.
        stack: closes the files.
        report: called with one line about what goes wrong while others go on.

    Raises:
        OutputError: if one of them cannot be written.
    """
    lasting = (
        args.overlay
        or args.serve
        or args.on_event
        or args.record_events
        or plan.segment_format in (".json", ".srt")
    )
    outputs = Outputs(lasting=bool(lasting))
    if args.output is not None:
        _add_text(args, plan, labels, outputs, _open_rows(args.output, args, stack))
    elif args.format or not args.serve:  # otherwise the page shows the predictions
        _add_text(args, plan, labels, outputs, StandardOutput())
    outputs.rows_on_terminal = args.output is None and not outputs.segments
    if plan.segment_format == ".csv":
        rows = _open_rows(args.segments, args, stack)
        outputs.segments.append(CsvSegments(rows, heads=not rows.continues))
        outputs.texts.append(rows)
    if plan.segment_format == ".json":
        with uninterrupted():  # otherwise a temporary file could be left behind
            document = SegmentDocument(args.segments, JsonSegments)
            outputs.segments.append(stack.enter_context(closing(document)))
    if args.events is not None:
        rows = _open_rows(args.events, args, stack)
        outputs.events.append(JsonlWriter(rows))
        outputs.texts.append(rows)
    if args.on_event is not None:
        command = EventCommand(args.on_event, report)
        outputs.events.append(stack.enter_context(closing(command)))
    if args.record_events is not None:
        pre_roll_s = PRE_ROLL_S if args.pre_roll is None else args.pre_roll
        keep_bytes = 1e9 * (args.keep_gb or KEEP_GB)
        recordings = EventRecordings(args.record_events, pre_roll_s, keep_bytes, report)
        outputs.recordings = stack.enter_context(closing(recordings))
        outputs.events.append(recordings)
    return outputs


def _open_rows(path: str, args: argparse.Namespace, stack: ExitStack) -> RowFile:
    return stack.enter_context(RowFile(path, append=args.append))


def _add_text(
    args: argparse.Namespace, plan: Plan, labels: Sequence[str], outputs: Outputs, out: RowStream
) -> None:
    """Add the text that goes to `-o` or standard output, in the form that the options ask for."""
    is_jsonl = args.format == "jsonl" or (
        args.format is None and Path(args.output or "").suffix.lower() == ".jsonl"
    )
    several = len(plan.tasks) > 1
    names = [*labels]
    for regions in (task.regions for task in plan.tasks):
        ids = regions if isinstance(regions, Mapping) else ["10"] * bool(regions)
        names += [f"{track_id}: {label}" for track_id in ids for label in labels]
    # a person at a terminal wants to know what happens when, not each window
    for_people = not (args.output or args.format or plan.together) and sys.stdout.isatty()
    outputs.texts.append(out)
    if is_jsonl:
        outputs.predictions.append(JsonlWriter(out))
    elif args.whole:
        outputs.predictions.append(WholeTableWriter(out, labels))
    elif args.demo or for_people:
        outputs.segments.append(TimelineWriter(out, names, named=several))
    else:
        named = not (plan.together and several)
        outputs.predictions.append(TableWriter(out, names, named=named))
