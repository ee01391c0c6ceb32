"""What dvfl-archive costs besides recognition, how that grows, and what an archive would take.

python -m dvfl_bench.comparisons.archive_growth [--most 100000] [--ids 1000000 ...] [--json FILE]

Links to an empty file are listed: each is a row that says so, which takes the whole way of a video
except its decoding and recognition. The memory is that of the first look at a list and that of a
last run, which finds all rows there; `--most 0` measures these alone.
The cost of large archives is computed from these rates and from that of the bundled clip. Linux
only.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dvfl_bench.comparisons.command import Result, comparison_parser, run_comparison
from dvfl_runtime.errors import DvflError
from dvfl_runtime.errors.packages import MEDIA, check_installed
from dvfl_runtime.recognizer import DEMO_CLIP

LEAST = 100  # videos
CORES = (2, 64, 1000)
LARGE = 1_000_000  # videos of a minute
PART = 100  # videos of each part of the archive whose last run is measured
# runs dvfl-archive, and tells what this process and those that it started have used
PROGRAM = """
import json, resource, sys
from dvfl_runtime.archive.cli import main
status = main(sys.argv[1:])
own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
cpu = [used.ru_utime + used.ru_stime for used in (own, others)]
print("USED " + json.dumps([status, *cpu, own.ru_maxrss / 1024]))
"""
# keeps a list in a folder, as dvfl-archive does it at first
FIRST_LOOK = """
import resource, sys
from pathlib import Path
from dvfl_runtime.archive.folder import Folder
from dvfl_runtime.archive.manifest import read_manifest
Folder(Path(sys.argv[2])).add_new(read_manifest(Path(sys.argv[1])), 1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def measure(folder: Path, *, most: int, ids: Sequence[int], clips: int) -> Result:
    """Measure bookkeeping, the memory of long lists, and what a minute of video takes.

    Args:
        folder: where everything goes.
        most: the largest number of videos; 0 for the memory alone.
        ids: of the archives whose memory is measured.
        clips: how often the bundled clip is recognised for the rate of a minute of video.

    Raises:
        DvflError: if a run fails.
    """
    check_installed("this comparison", "pyarrow", *MEDIA)
    runs = {"runs_over_long_lists": [_long_list(folder / f"list{count}", count) for count in ids]}
    if not most:
        return {"what": "dvfl-archive over long lists, which are looked at and found done", **runs}
    counts = [10**k for k in range(int(math.log10(LEAST)), int(math.log10(most)) + 1)]
    growth = [{"videos": count, **_empty_videos(folder / str(count), count)} for count in counts]
    rates = _rates(growth)
    minute_s = _minute_s(folder / "clips", clips)
    return {
        "what": "dvfl-archive without recognition: links to an empty file; one process",
        "growth": growth,
        **rates,
        **runs,
        "minute_of_video_cpu_s": round(minute_s, 3),
        "large_archive": [_on_paper(cores, minute_s, rates) for cores in CORES],
        "formula": "hours = videos * (minute_cpu_s + process_cpu_s) / cores / 3600, if that is "
        "more than videos * driver_cpu_s / 3600, what one driver needs",
    }


def _run(*words: str | Path) -> tuple[float, float, float]:
    """Run dvfl-archive; return the CPU time of it and of its processes, s, and its memory, MiB.

    Raises:
        DvflError: if it fails.
    """
    command = [sys.executable, "-c", PROGRAM, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    _, mark, used = done.stdout.rpartition("USED ")
    if not mark or json.loads(used)[0]:
        raise DvflError(f"dvfl-archive failed: {done.stderr[-300:]}")
    _, own_s, others_s, memory_mib = json.loads(used)
    return own_s, others_s, memory_mib


def _empty_videos(folder: Path, count: int) -> dict[str, float]:
    folder.mkdir()
    (folder / "empty.mp4").touch()
    (folder / "videos").mkdir()
    for number in range(count):
        os.symlink(folder / "empty.mp4", folder / "videos" / f"{number:07}.mp4")
    begin_s = time.perf_counter()
    own_s, others_s, memory_mib = _run(
        *(folder / "videos", "-o", folder / "rows"),
        *("--engine", "onnxruntime", "--processes", "1", "--threads", "1"),
    )
    return {
        "driver_cpu_s": round(own_s, 3),
        "process_cpu_s": round(others_s, 3),
        "driver_mib": round(memory_mib, 1),
        "elapsed_s": round(time.perf_counter() - begin_s, 2),
    }


def _rates(growth: Sequence[dict[str, float]]) -> dict[str, float]:
    """Fit the CPU time of driver and process: a start, and so much for each video."""
    counts = np.array([one["videos"] for one in growth])
    rates = {}
    for who in ("driver", "process"):
        times_s = np.array([one[f"{who}_cpu_s"] for one in growth])
        # relative errors count the same at all sizes
        slope, _ = np.polyfit(counts, times_s, 1, w=1 / times_s)
        rates[f"{who}_us_per_video"] = round(1e6 * float(slope), 1)
        last = times_s[-1] - times_s[-2]
        rates[f"{who}_us_per_video_last"] = round(1e6 * last / (counts[-1] - counts[-2]), 1)
    return rates


def _long_list(folder: Path, ids: int) -> dict[str, float]:
    """Measure the first look at a list, and a run that finds all rows there, as links to a part."""
    from dvfl_runtime.archive.folder import Folder, Part

    folder.mkdir()
    rows = folder / "rows"
    words: list[str | Path] = ["-o", rows, "--engine", "onnxruntime", "--processes", "1"]
    listed = folder / "list.txt"
    listed.write_text("\n".join(f"/none/{number:03}.mp4" for number in range(PART)))
    _run(listed, *words)
    first = Folder(rows)
    size = next(iter(first.parts().values()))
    (written, *others) = [first.part(part) for part in first.parts()]
    for path in others:
        path.unlink()
    kept = written.rename(folder / "part.parquet")
    first_list = rows / "_listed" / "0001.parquet"
    first_list.unlink()
    with listed.open("w") as file:
        for number in range(ids):
            file.write(f"/archive/camera-{number % 97:02}/{number:09}.mp4\n")
    look = [sys.executable, "-c", FIRST_LOOK, str(listed), str(rows)]
    first_mib = float(subprocess.run(look, capture_output=True, check=True).stdout)
    for part in first.parts():
        _link(kept, rows / f"{Part(part.listing, part.group).name}.parquet")
    begin_s = time.perf_counter()
    own_s, _, memory_mib = _run(listed, *words)
    return {
        "ids": ids,
        "parts": len(first.parts()),
        "rows_in_linked_part": size,
        "first_look_mib": round(first_mib),
        "last_run_mib": round(memory_mib),
        "last_run_cpu_s": round(own_s, 2),
        "last_run_s": round(time.perf_counter() - begin_s, 2),
    }


def _link(original: Path, path: Path) -> None:
    path.hardlink_to(original)


def _minute_s(folder: Path, clips: int) -> float:
    """Return the CPU time of a minute of video like the bundled clip, start-up apart."""
    folder.mkdir()
    times, length_s = [], 0.0
    for count in (1, 1 + clips):
        videos = folder / str(count)
        videos.mkdir()
        for number in range(count):
            os.symlink(DEMO_CLIP, videos / f"{number}.mp4")
        rows = folder / f"rows{count}"
        words = ("--engine", "onnxruntime", "--processes", "1", "--threads", "1")
        _, others_s, _ = _run(videos, "-o", rows, *words)
        times.append(others_s)
        length_s = _length_s(rows)
    return (times[1] - times[0]) / clips / length_s * 60


def _length_s(rows: Path) -> float:
    from dvfl_runtime.archive.folder import Folder
    from dvfl_runtime.archive.status import status_of

    status = status_of(Folder(rows))
    return status.videos_s / status.videos


def _on_paper(cores: int, minute_s: float, rates: dict[str, float]) -> dict[str, Any]:
    work_s = LARGE * (minute_s + rates["process_us_per_video"] / 1e6) / cores
    driver_s = LARGE * rates["driver_us_per_video"] / 1e6
    return {
        "cores": cores,
        "videos": LARGE,
        "video_s": 60,
        "hours": round(max(work_s, driver_s) / 3600, 2),
        "one_driver_hours": round(driver_s / 3600, 2),
        "first_limit": "cores" if work_s > driver_s else "driver",
        "videos_per_s": round(LARGE / max(work_s, driver_s), 1),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = comparison_parser("archive_growth", __doc__)
    add = parser.add_argument
    add("--most", type=int, default=100_000, help="videos; default: 100000, 0 for --ids alone")
    add("--ids", type=int, nargs="+", default=[1_000_000], help="of long lists; default: 1000000")
    add("--clips", type=int, default=20)
    args = parser.parse_args(argv)

    def measured() -> Result:
        if 0 != args.most < 10 * LEAST:
            raise DvflError(f"--most must be at least {10 * LEAST}, got {args.most}")
        with tempfile.TemporaryDirectory() as folder:
            return measure(Path(folder), most=args.most, ids=args.ids, clips=args.clips)

    return run_comparison(args, measured, threads=1)


if __name__ == "__main__":
    sys.exit(main())
