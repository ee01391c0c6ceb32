"""A Ray cluster of two nodes on this machine, in a process of its own.

python ray_cluster.py prints the address, and ends the cluster at the end of its input.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

NODE = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 80_000_000}
TRIES = 4  # Ray gives a node 15 s to start, which a busy machine may not keep, and has no setting


@contextmanager
def two_nodes() -> Iterator[str]:
    """Yields the address of a cluster with one CPU and one supposed GPU on each of two nodes."""
    environment = {**os.environ, "RAY_worker_niceness": "0"}  # 15 would starve on a busy machine
    words = [sys.executable, __file__]
    for _ in range(TRIES):
        with subprocess.Popen(
            words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as run:
            assert run.stdin is not None
            assert run.stdout is not None
            address = next((line for line in run.stdout if line.startswith("ADDRESS ")), None)
            if address is None:
                continue
            try:
                yield address.split()[1]
            finally:
                run.stdin.close()
                run.wait(60)
            return
    raise AssertionError("the cluster has not started")


def main() -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    cluster.add_node(**NODE)
    cluster.wait_for_nodes()
    sys.stdout.write(f"ADDRESS {cluster.address}\n")
    sys.stdout.flush()
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main()
