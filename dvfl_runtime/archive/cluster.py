"""A cluster: Ray Data hands out the parts, actors complete them.

Ray decides where and when, and tries a part again when a node dies. That each video has one row is
not left to it: a part has one name and is written whole, whoever writes it, and how often.
"""

from __future__ import annotations

import json
import logging
import platform
import re
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvfl_runtime.archive.folder import Folder, Part
from dvfl_runtime.archive.part_worker import Job, PartWorker
from dvfl_runtime.archive.videos import Row
from dvfl_runtime.errors import DvflError, OutputError
from dvfl_runtime.errors.packages import needed

LOCAL = "local"
ADDRESS = re.compile(r"(?:ray://)?([^/]+):([0-9]{1,5})")
CONNECT_S = 10.0


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster, and what is taken of it.

    Attributes:
        address: "auto" for the cluster that this host belongs to, HOST:PORT, ray://HOST:PORT, or
            "local" for one that is started here and ended with the command.
        actors: at most so many at the same time; `None` for as many as there is room for.
        gpus: of each actor; a part of one is enough for several.
    """

    address: str
    actors: int | None = None
    gpus: float = 0.0


def run_on_ray(
    folder: Folder,
    parts: Sequence[Part],
    job: Job,
    cluster: Cluster,
    report: Callable[[Row], None],
) -> None:
    """Complete parts with the actors of a Ray cluster.

    Args:
        folder: of the archive; all nodes see it at the same path.
        parts: that are not complete.
        job: what to do with each.
        cluster: where, and with how many actors.
        report: called with the status of each new row, when its part is complete.

    Raises:
        DvflError: if there is no such cluster, no video can be recognised, or the folder cannot be
            written.
    """
    with needed("running on a Ray cluster", "ray", "pandas"):
        import ray
        import ray.data
    _connect(cluster.address)
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        items = [{"listing": part.listing, "group": part.group} for part in parts]
        done = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            _PartActor,
            batch_size=1,
            fn_constructor_args=(str(folder.path.resolve()), folder.about()["token"], job),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=cluster.actors),
            num_cpus=job.settings.threads,
            num_gpus=cluster.gpus or None,
        )
        for answer in done.iter_rows():
            if answer["error"]:
                raise OutputError(answer["error"])
            for status, count in json.loads(answer["statuses"]).items():
                for _ in range(count):
                    report({"status": status})
    except ray.exceptions.RayError as err:
        raise DvflError(f"Ray ended the work: {' '.join(str(err).split())[-500:]}") from err
    finally:
        ray.shutdown()


class _PartActor:
    """Completes the parts that Ray hands to it, with a process of its own.

    Errors are answers: Ray would wrap them into pages of text.
    """

    def __init__(self, folder: str, token: str, job: Job) -> None:
        self._folder = Folder(Path(folder))
        self._token = token
        self._statuses: Counter[str] = Counter()
        self._worker = PartWorker(self._folder, job, self._count)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        error = ""
        try:
            if self._folder.about().get("token") != self._token:
                raise OutputError(
                    f"{self._folder.path} on {platform.node()} is another folder than that of the "
                    "command; all nodes must see the same one at the same path"
                )
            for listing, group in zip(batch["listing"], batch["group"], strict=True):
                self._worker.complete(Part(int(listing), int(group)))
        except DvflError as err:
            error = str(err)
        statuses, self._statuses = json.dumps(self._statuses), Counter()
        return {"statuses": [statuses], "error": [error]}

    def _count(self, row: Row) -> None:
        self._statuses[row["status"]] += 1


def _connect(address: str) -> None:
    """Connect to a cluster.

    Raises:
        DvflError: if there is none.
    """
    import ray

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if found := ADDRESS.fullmatch(address):  # Ray itself would try it for minutes
            socket.create_connection((found[1], int(found[2])), CONNECT_S).close()
        if address == LOCAL:
            ray.init(address=LOCAL, include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except Exception as err:  # Ray raises that itself when a node does not start in time
        raise DvflError(
            f"cannot reach a Ray cluster at {address}: {' '.join(str(err).split())[:200]}; start "
            "one (ray start --head), or leave out --ray"
        ) from err
