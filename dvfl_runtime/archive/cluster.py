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
from dvfl_runtime.errors import ArgumentError, DvflError, OutputError
from dvfl_runtime.errors.packages import needed

LOCAL = "local"
ADDRESS = re.compile(r"(?:ray://)?([^/]+):([0-9]{1,5})")
CONNECT_S = 10.0
LOCAL_TRIES = 3  # of a cluster on this machine: Ray gives its node 15 s, and has no setting for it
GPU_STEP = 1e-4  # Ray counts resources in steps of this

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster, and what is taken of it.

    Attributes:
        address: "auto" for the cluster that this host belongs to, HOST:PORT, ray://HOST:PORT, or
            "local" for one that is started here and ended with the command.
        actors: at most so many at the same time; `None` for as many as there is room for.
        gpus: of each actor; a part of one is enough for several.

    Raises:
        ArgumentError: if Ray cannot give so many GPUs to an actor.
    """

    address: str
    actors: int | None = None
    gpus: float = 0.0

    def __post_init__(self) -> None:
        whole = self.gpus == int(self.gpus)
        if not whole and not GPU_STEP <= self.gpus < 1:
            raise ArgumentError(
                f"gpus must be a part of one GPU from {GPU_STEP} on, or a whole number, got "
                f"{self.gpus:g}"
            )


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
        gpus = {"GPU": cluster.gpus} if cluster.gpus else {}
        _check_room({"CPU": job.settings.threads, **gpus})
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
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    failed = f"cannot reach a Ray cluster at {address}"
    advice = "start one (ray start --head), or leave out --ray"
    tries = 1
    if address == LOCAL:
        options["include_dashboard"] = False
        failed = "cannot start a Ray cluster here"
        advice = "leave out --ray, which does the same work, or try it when this host is less busy"
        tries = LOCAL_TRIES
    for left in reversed(range(tries)):
        try:
            if found := ADDRESS.fullmatch(address):  # Ray itself would try it for minutes
                socket.create_connection((found[1], int(found[2])), CONNECT_S).close()
            ray.init(address=address, **options)
            return
        except Exception as err:  # Ray raises that itself when a node does not start in time
            reason = " ".join(str(err).split())[:200].rstrip(".")
            if not left:
                raise DvflError(f"{failed}: {reason}; {advice}") from err
            logger.warning("Ray has not started here (%s); trying again", reason)


def _check_room(needed: dict[str, float]) -> None:
    """Check that an actor fits on a node: Ray would wait for one without end.

    Raises:
        DvflError: if there is none, and none that the cluster is known to add.
    """
    import ray

    known: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    nodes = [node["Resources"] for node in known if node["Alive"]] + _nodes_to_come()
    if not any(_has(node, needed) for node in nodes):
        wanted = _named(needed)
        there = ", ".join(sorted({_named({k: n.get(k, 0) for k in needed}) for n in nodes}))
        raise DvflError(
            f"no node of the Ray cluster has {wanted}, which each process asks for; there are "
            f"nodes with {there}: pass a smaller --threads or --gpus, or add such a node"
        )


def _nodes_to_come() -> list[dict[str, float]]:
    """Return what the nodes have that an autoscaling cluster may add, as Ray Data asks for it."""
    from ray._private.state import state

    config = state.get_cluster_config()
    groups = config.node_group_configs if config else ()
    return [dict(group.resources) for group in groups if group.max_count]


def _has(node: dict[str, float], needed: dict[str, float]) -> bool:
    return all(node.get(name, 0) >= value for name, value in needed.items())


def _named(resources: dict[str, float]) -> str:
    return " and ".join(f"{value:g} {name}" for name, value in resources.items())
