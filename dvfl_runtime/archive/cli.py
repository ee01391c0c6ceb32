"""dvfl-archive: one row for each video of an archive, whatever dies."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dvfl_runtime.archive.options import (
    make_export_parser,
    make_parser,
    make_status_parser,
)
from dvfl_runtime.archive.process import Settings, model_sha256
from dvfl_runtime.archive.videos import Reading, Row
from dvfl_runtime.arguments import run_command
from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.console.terminal import CountProgress
from dvfl_runtime.engines.cpus import usable_cpus
from dvfl_runtime.errors import DvflError, OutputError
from dvfl_runtime.interrupts import Requests
from dvfl_runtime.recognizer import BUNDLED_MODEL

if TYPE_CHECKING:
    from dvfl_runtime.archive.cluster import Cluster
    from dvfl_runtime.archive.folder import Folder, Part
    from dvfl_runtime.archive.part_worker import Job


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["status"]:
        return _status(words[1:])
    if words[:1] == ["export"]:
        return _export(words[1:])
    parser = make_parser()
    args = parser.parse_args(words)
    return run_command(parser, lambda requests: _archive(args, requests))


def _archive(args: argparse.Namespace, requests: Requests) -> int:
    """Recognise what has no row yet, and tell what the archive has."""
    from dvfl_runtime.archive.cluster import Cluster
    from dvfl_runtime.archive.folder import Folder
    from dvfl_runtime.archive.manifest import read_manifest
    from dvfl_runtime.archive.part_worker import Job
    from dvfl_runtime.archive.status import lines_of, status_of

    if args.gpus and not args.ray:
        raise DvflError("--gpus is about the processes of a Ray cluster; pass --ray ADDRESS too")
    cluster = Cluster(args.ray, args.processes, args.gpus) if args.ray else None
    processes = args.processes or usable_cpus()
    manifest = read_manifest(args.manifest)
    settings = _settings(args, processes)
    folder = Folder(args.output)
    made_with = {"model": settings.sha256, "precision": args.precision, "focus": args.focus}
    folder.prepare({**made_with, **asdict(settings.reading)})
    with folder.locked():
        folder.clean()
        folder.add_new(manifest, processes)
        root = str(folder.about().get("root", manifest.root))
        job = Job(settings, root, args.timeout_s, args.tries, args.again)
        try:
            _complete(folder, job, cluster, processes)
        except BaseException as err:
            requests.hold()
            if cluster is None:  # its actors may still be at their end
                _publish(folder)
            if isinstance(err, OutputError):
                text = f"{err}. No row is lost: mend that, and run the same command again"
                raise OutputError(text) from err
            raise
        for line in lines_of(status_of(folder)):
            print(line)
    return 0


def _complete(folder: Folder, job: Job, cluster: Cluster | None, processes: int) -> None:
    parts = folder.parts()
    complete = set() if job.again else folder.complete()
    todo = [part for part in parts if part not in complete]
    if not todo:
        return
    begun = sum(len(_begun_rows(folder, part)) for part in folder.in_progress())
    done = sum(parts[part] for part in complete) + begun
    seen: Counter[str] = Counter()
    with CountProgress(sum(parts.values()), done, "videos") as progress:

        def report(row: Row) -> None:
            seen[row["status"]] += 1
            bad = seen.total() - seen["ok"]
            progress.add(f"{bad} not ok" if bad else "")

        if cluster is None:
            from dvfl_runtime.archive.pool import run_here

            run_here(folder, todo, job, processes, report)
        else:
            from dvfl_runtime.archive.cluster import run_on_ray

            run_on_ray(folder, todo, job, cluster, report)


def _begun_rows(folder: Folder, part: Part) -> dict[str, Any]:
    from dvfl_runtime.archive.journal import Journal

    return Journal(folder.journal(part)).rows


def _publish(folder: Folder) -> None:
    """Write the rows of the parts that are not complete; where that fails, journals keep them."""
    from dvfl_runtime.archive.part_worker import publish

    with suppress(OutputError):
        for part in sorted(folder.in_progress()):
            publish(folder, part)


def _settings(args: argparse.Namespace, processes: int) -> Settings:
    ModelFile(args.model or BUNDLED_MODEL)  # its error comes before any work
    threads = 1 if args.ray else max(1, usable_cpus() // processes)
    return Settings(
        model=args.model,
        sha256=model_sha256(args.model),
        engine=args.engine,
        device=args.device,
        threads=args.threads or threads,
        precision=args.precision,
        focus=args.focus,
        reading=Reading(args.window_s, args.hop_s, args.windows),
    )


def _status(words: Sequence[str]) -> int:
    parser = make_status_parser()
    args = parser.parse_args(words)

    def work(_: Requests) -> int:
        from dvfl_runtime.archive.folder import Folder
        from dvfl_runtime.archive.status import lines_of, status_of

        status = status_of(Folder(args.folder))
        if args.json:
            print(json.dumps({**vars(status), "rows": status.rows}))
        else:
            print("\n".join(lines_of(status)))
        return 0

    return run_command(parser, work)


def _export(words: Sequence[str]) -> int:
    parser = make_export_parser()
    args = parser.parse_args(words)

    def work(_: Requests) -> int:
        from dvfl_runtime.archive.export import export
        from dvfl_runtime.archive.folder import Folder

        videos = export(Folder(args.folder), args.out, windows=args.windows)
        print(f"{videos} videos in {args.out}")
        return 0

    return run_command(parser, work)


if __name__ == "__main__":
    sys.exit(main())
