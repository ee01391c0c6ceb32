"""Do memory, threads and open files stay where they are in streams that run for a long time?

    python -m dvfl_bench.comparisons.soak [SOURCE ...] [--loop VIDEO] [--minutes 20] [--json FILE]

A SOURCE is an rtsp:// address or anything else that `stream` reads. The video plays for ever beside
it, as fast as the model lets it, and is opened again at each round.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dvfl_bench.comparisons.command import (
    Result,
    add_engine_options,
    comparison_parser,
    run_comparison,
)
from dvfl_bench.device.videos import LoopedVideo
from dvfl_runtime import Frame, Recognizer, Source
from dvfl_runtime.errors import DvflError
from dvfl_runtime.recognizer import DEMO_CLIP
from dvfl_runtime.sources import LiveSource, SourceLike, open_source
from dvfl_runtime.sources.observed import ObservedSource

log = logging.getLogger(__name__)

SAMPLE_S = 5.0
WARM_UP = 0.1  # share of the time after which everything must stay constant
MAX_GROWTH = 0.01  # of memory; allocators alone cause less in a long run


@dataclass(frozen=True)
class Sample:
    """What the process holds at one moment."""

    time_s: float
    rss_bytes: int
    threads: int
    files: int

    @classmethod
    def now(cls, begin_s: float) -> Sample:
        """Read the sample of now from /proc."""
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return cls(
            round(time.monotonic() - begin_s, 1),
            pages * os.sysconf("SC_PAGE_SIZE"),
            len(os.listdir("/proc/self/task")),
            len(os.listdir("/proc/self/fd")),
        )


class FrameOrder:
    """Count the frames of a source, and those that are out of order.

    Attributes:
        frames: all that came.
        wrong: frames whose time or number does not follow that of the frame before.
    """

    def __init__(self) -> None:
        self.frames = 0
        self.wrong = 0
        self._last_s = -1.0

    def check(self, frame: Frame) -> None:
        """Take the next frame."""
        self.wrong += frame.time_s <= self._last_s or frame.index != self.frames
        self._last_s = frame.time_s
        self.frames += 1


def soak(recognizer: Recognizer, sources: Sequence[SourceLike], seconds: float) -> dict[str, Any]:
    """Stream all sources together for so long, and close them.

    Returns:
        Ready for JSON: what each source gave, and memory, threads and files after the warm-up.

    Raises:
        DvflError: if the sources fail, or end before that time.
    """
    samples: list[Sample] = []
    windows: Counter[str] = Counter()
    wrong_windows = 0
    last_s: dict[str, float] = {}
    with ExitStack() as stack:
        opened = [stack.enter_context(closing(open_source(source))) for source in sources]
        orders = [FrameOrder() for _ in opened]
        observed = [
            ObservedSource(source, order.check)
            for source, order in zip(opened, orders, strict=True)
        ]
        begin_s = time.monotonic()
        for prediction in recognizer.stream(observed):
            name = prediction.source
            wrong_windows += prediction.start_s <= last_s.get(name, -1.0)
            last_s[name] = prediction.start_s
            windows[name] += 1
            if not samples or time.monotonic() - begin_s - samples[-1].time_s >= SAMPLE_S:
                samples.append(Sample.now(begin_s))
                log.info("%s %s", samples[-1], dict(windows))
            if time.monotonic() - begin_s >= seconds:
                samples.append(Sample.now(begin_s))  # here, while everything still runs
                break
        else:
            raise DvflError("the sources ended before the time was over; pass --loop")
        about = [
            {"windows": windows[source.name], "frames": order.frames, "out_of_order": order.wrong}
            | _facts(source)
            for source, order in zip(opened, orders, strict=True)
        ]
    return {"sources": about, "windows_out_of_order": wrong_windows, **_growth(samples, seconds)}


def _facts(source: Source) -> dict[str, Any]:
    """Return the kind of a source, and the counts that only this kind has."""
    if isinstance(source, LiveSource):
        return {"kind": "live", **dataclasses.asdict(source.stats)}
    return {"kind": "file", "rounds": source.rounds} if isinstance(source, LoopedVideo) else {}


def _growth(samples: list[Sample], seconds: float) -> dict[str, Any]:
    """Compare the first and the last fifth of the samples after the warm-up."""
    warm = [sample for sample in samples if sample.time_s >= seconds * WARM_UP]
    fifth = max(1, len(warm) // 5)
    first, last = warm[:fifth], warm[-fifth:]
    rss = [statistics.median(s.rss_bytes for s in part) for part in (first, last)]
    return {
        "seconds": samples[-1].time_s,
        "warm_up_s": round(seconds * WARM_UP, 1),
        "samples": len(warm),
        "rss_first_mb": round(rss[0] / 1e6, 2),
        "rss_last_mb": round(rss[1] / 1e6, 2),
        "rss_growth": round(rss[1] / rss[0] - 1, 5),
        "rss_highest_mb": round(max(s.rss_bytes for s in warm) / 1e6, 2),
        "threads": dict(sorted(Counter(str(s.threads) for s in warm).items())),
        "threads_first_last": [statistics.mode(s.threads for s in part) for part in (first, last)],
        "files": dict(sorted(Counter(str(s.files) for s in warm).items())),
        "files_first_last": [statistics.mode(s.files for s in part) for part in (first, last)],
        "rss_mb_over_time": [
            [s.time_s, round(s.rss_bytes / 1e6, 2)] for s in samples[:: max(1, len(samples) // 40)]
        ],
    }


def problems(result: dict[str, Any]) -> list[str]:
    """Return the faults that a result shows, one sentence each."""
    found = []
    if result["rss_growth"] >= MAX_GROWTH:
        found.append(f"memory grew by {result['rss_growth']:.2%}")
    for name in ("threads", "files"):
        first, last = result[f"{name}_first_last"]
        if first != last:
            found.append(f"{name} went from {first} to {last}")
    wrong = sum(source["out_of_order"] for source in result["sources"])
    if wrong or result["windows_out_of_order"]:
        found.append(f"{wrong} frames, {result['windows_out_of_order']} windows out of order")
    return found


def measure(args: argparse.Namespace) -> Result:
    """Stream what the command line asks for; return the result."""
    options = {"engine": args.engine, "precision": args.precision, "num_threads": args.threads}
    with Recognizer(args.model, **options) as recognizer:
        result = soak(recognizer, [*args.sources, LoopedVideo(args.loop)], args.minutes * 60)
        info = recognizer.info
    return {
        "what": "memory, threads, open files and order of frames of streams that run together",
        "model": Path(info.model).name,
        "engine": f"{info.engine} {info.versions[info.engine]}",
        "precision": info.precision,
        **result,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status, 1 if something was not constant."""
    parser = comparison_parser("soak", __doc__)
    parser.add_argument("sources", nargs="*", metavar="SOURCE")
    parser.add_argument("--loop", type=Path, default=DEMO_CLIP)
    parser.add_argument("--model", type=Path)
    add_engine_options(parser)
    parser.add_argument("--minutes", type=float, default=20.0)
    args = parser.parse_args(argv)

    def judge(result: Result) -> int:
        found = problems(result)
        for problem in found:
            log.error("not constant: %s", problem)
        return int(bool(found))

    return run_comparison(args, partial(measure, args), threads=args.threads, then=judge)


if __name__ == "__main__":
    sys.exit(main())
