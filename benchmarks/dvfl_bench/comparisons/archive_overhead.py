"""What dvfl-archive costs over plain loops of a Recognizer, on one host and on a local Ray cluster.

python -m dvfl_bench.comparisons.archive_overhead [--videos 500] [--rounds 3] [--json FILE]

Each candidate recognises the same links to one short video, with as many processes and threads as
the others. The CPU time of all its processes counts, and start-up is left out: it is the
difference between a run over all videos and a run over a few, divided by the difference of these
numbers. Ray's own processes, and the command, take CPU time as long as a run lasts, which on a busy
machine is long; so their share is given apart, and what it comes to where nothing else runs. Linux
only.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np

from dvfl_bench.comparisons.command import Result, comparison_parser, run_comparison
from dvfl_bench.device.timing import in_turn, median_ratio
from dvfl_runtime.errors import DvflError
from dvfl_runtime.errors.packages import MEDIA, check_installed, needed
from dvfl_runtime.recognizer import DEMO_CLIP

FEW = 40  # videos of the run that shows what start-up costs
ALIKE = {"RAY_worker_niceness": "0"}  # all candidates get as much of a busy machine
RECOGNISE = (b"dvfl_runtime.archive.process\0", b"recognizer.segments(")  # in their words
POLL_S = 0.2  # between two looks at the CPU time of the processes
MAX_LINKS = 30_000  # to one file
ENGINE = "onnxruntime"  # which starts in the least time
Process: TypeAlias = tuple[int, int]  # its number, which comes again, and its start
Command: TypeAlias = Callable[[Path, Sequence[str], int], list[str]]  # (folder, paths, processes)
LOOP = """
import sys
from dvfl_runtime import Recognizer
with Recognizer(engine=sys.argv[1], num_threads=1) as recognizer:
    for path in open(sys.argv[2]).read().splitlines():
        list(recognizer.segments(path))
"""
LOOPS = """
import subprocess, sys
loops = [subprocess.Popen([sys.executable, "-c", *sys.argv[1:3], path]) for path in sys.argv[3:]]
sys.exit(max(loop.wait() for loop in loops))
"""


def measure(
    folder: Path, names: Sequence[str], *, videos: int, rounds: int, processes: int, seconds: float
) -> Result:
    """Run the candidates in turn.

    Args:
        folder: where videos and rows go.
        names: of the candidates.
        videos: how many.
        rounds: how often.
        processes: of each candidate, with one thread each.
        seconds: length of the video.

    Returns:
        CPU time per video of each, and the ratios to the plain loops of the same round.

    Raises:
        DvflError: if a candidate fails.
    """
    check_installed("this comparison", "pyarrow", *["ray"] * ("ray" in names), *MEDIA)
    original = short_clip(folder / "clip.mp4", seconds)
    paths = links(folder / "videos", original, videos)
    works = {
        name: partial(_per_video, command, folder, paths, processes)
        for name, command in CANDIDATES.items()
        if name in names
    }
    taken = in_turn(works, range(rounds))
    plain = [cost.cpu_s for cost in taken[names[0]]]
    return {
        "what": "CPU time per video of all processes, start-up apart; candidates in turn",
        "videos": videos,
        "video_s": seconds,
        "rounds": rounds,
        "processes": processes,
        "engine": ENGINE,
        "candidates": {
            name: {
                "cpu_ms_per_video": [round(1e3 * cost.cpu_s, 2) for cost in costs],
                f"over_{names[0].replace(' ', '_')}": [
                    round(cost.cpu_s / one, 3) for cost, one in zip(costs, plain, strict=True)
                ],
                "median": round(median_ratio([cost.cpu_s for cost in costs], plain), 3),
                "recognition_ms_per_video": [round(1e3 * cost.recognition_s, 2) for cost in costs],
                "rest_cores": [round(cost.rest_cores, 3) for cost in costs],
                "over_where_nothing_else_runs": [
                    round(cost.recognition_s * (1 + cost.rest_cores / processes) / one, 3)
                    for cost, one in zip(costs, plain, strict=True)
                ],
            }
            for name, costs in taken.items()
        },
    }


def short_clip(path: Path, seconds: float) -> Path:
    """Copy the beginning of the bundled clip, without encoding it again."""
    with needed("reading video files", *MEDIA):
        import av
    with av.open(str(DEMO_CLIP)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        assert stream.time_base is not None
        for packet in source.demux(stream):
            if packet.dts is None or packet.dts * stream.time_base >= seconds:
                break
            packet.stream = copy
            target.mux(packet)
    return path


def links(folder: Path, original: Path, count: int) -> list[str]:
    """Return the paths of so many links to a file."""
    folder.mkdir(parents=True)
    source, paths = original, []
    for number in range(count):
        path = folder / f"{number:07}{original.suffix}"
        if number and number % MAX_LINKS == 0:  # file systems limit the links to a file
            path.write_bytes(original.read_bytes())
            source = path
        else:
            path.hardlink_to(source)
        paths.append(str(path))
    return paths


def _per_video(command: Command, folder: Path, paths: Sequence[str], processes: int) -> _Cost:
    few, many = (
        np.array(_used(command(Path(tempfile.mkdtemp(dir=folder)), chosen, processes)))
        for chosen in (paths[:FEW], paths)
    )
    recognition_s, rest_s, wall_s = (float(more) for more in many - few)
    videos = len(paths) - FEW
    return _Cost((recognition_s + rest_s) / videos, recognition_s / videos, rest_s / wall_s)


@dataclass(frozen=True)
class _Cost:
    """CPU time per video: all, and that of the processes that recognise; and the cores of the rest.

    The rest takes CPU time as long as the run lasts, so that it is given per second of it.
    """

    cpu_s: float
    recognition_s: float
    rest_cores: float


def _loops(folder: Path, paths: Sequence[str], processes: int) -> list[str]:
    lists = []
    for number in range(processes):
        listed = folder / f"{number}.txt"
        listed.write_text("\n".join(paths[number::processes]))
        lists.append(str(listed))
    return [sys.executable, "-c", LOOPS, LOOP, ENGINE, *lists]


def _archive(folder: Path, paths: Sequence[str], processes: int) -> list[str]:
    listed = folder / "list.txt"
    listed.write_text("\n".join(paths))
    words = [str(listed), "-o", str(folder / "rows"), "--processes", str(processes)]
    words += ["--threads", "1", "--engine", ENGINE]
    return [sys.executable, "-m", "dvfl_runtime.archive.cli", *words]


def _on_ray(folder: Path, paths: Sequence[str], processes: int) -> list[str]:
    return [*_archive(folder, paths, processes), "--ray", "local"]


CANDIDATES: dict[str, Command] = {"plain loops": _loops, "one host": _archive, "ray": _on_ray}


def _used(command: Sequence[str]) -> tuple[float, float, float]:
    """Run a command; return the CPU time of what recognises, that of the rest, and the time, s.

    They are looked at again and again: what the kernel adds up for a parent is lost where a parent,
    such as Ray's, does not ask for it.

    Raises:
        DvflError: if it fails.
    """
    used: dict[Process, int] = {}
    recognising: set[Process] = set()
    begin_s = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=said, env={**os.environ, **ALIKE}
        ) as process:
            while process.poll() is None:
                _look(used, process.pid)
                recognising.update(filter(_recognises, used))
                time.sleep(POLL_S)
        while _look(used, 0):  # what it leaves behind ends soon
            time.sleep(POLL_S)
        said.seek(0)
        words = said.read().decode(errors="replace")
    if process.returncode:
        raise DvflError(f"a candidate ended with status {process.returncode}: {words[-300:]}")
    ticks = sum(used[process] for process in recognising), sum(used.values())
    recognition_s, cpu_s = (number / os.sysconf("SC_CLK_TCK") for number in ticks)
    return recognition_s, cpu_s - recognition_s, time.perf_counter() - begin_s


def _recognises(process: Process) -> bool:
    with suppress(OSError):
        words = Path("/proc", str(process[0]), "cmdline").read_bytes()
        return any(mark in words for mark in RECOGNISE)
    return False


def _look(used: dict[Process, int], first: int) -> bool:
    """Note the CPU time, in ticks, of a process and of all that descend from it.

    Returns whether one of them is alive.
    """
    alive: dict[int, Process] = {}
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError):
                words = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
                if words[0] != "Z":
                    number = int(entry)
                    alive[number] = number, int(words[19])
                    parents[number] = int(words[1])
                    ticks[number] = int(words[11]) + int(words[12])
    for number, process in sorted(alive.items()):  # parents come first
        if process in used or number == first or alive.get(parents[number]) in used:
            used[process] = ticks[number]
    return bool(used.keys() & alive.values())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = comparison_parser("archive_overhead", __doc__)
    add = parser.add_argument
    add("--videos", type=int, default=500)
    add("--rounds", type=int, default=3)
    add("--processes", type=int, default=2)
    add("--candidates", nargs="+", choices=CANDIDATES, default=list(CANDIDATES))
    add("--seconds", type=float, default=5.0, help="length of the video; default: 5")
    args = parser.parse_args(argv)

    def measured() -> Result:
        if args.videos <= FEW:
            raise DvflError(f"--videos must be more than {FEW}, got {args.videos}")
        with tempfile.TemporaryDirectory() as folder:
            return measure(
                Path(folder),
                args.candidates,
                videos=args.videos,
                rounds=args.rounds,
                processes=args.processes,
                seconds=args.seconds,
            )

    return run_comparison(args, measured, threads=1)


if __name__ == "__main__":
    sys.exit(main())
