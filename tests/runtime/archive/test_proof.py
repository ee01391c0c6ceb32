"""Whatever dies, each video of the list has one row: many videos, many kills, one host and Ray."""

import os
import random
import shutil
import signal
import subprocess
import time
from contextlib import suppress

import pytest
from archives import (
    DAMAGE,
    check_complete,
    command,
    parent_of,
    recognisers,
    run,
    write_damaged,
    write_good,
)
from artifacts import write_colour_model
from ray_cluster import two_nodes

VIDEOS = 2000
DAMAGED = 0.05
KILLED_RUNS = 20
TOO_MUCH = (["--gpus", "2"], ["--threads", "2"])  # for the nodes of the cluster
READ_IN_PART = ("packets", "cut_tail")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_colour_model(tmp_path_factory.mktemp("model") / "m.onnx"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Return a list, and the status that each of its videos must have."""
    folder = tmp_path_factory.mktemp("videos")
    originals = [
        write_good(folder / f"{colour}.mp4", colour) for colour in ("red", "green", "blue")
    ]
    bad = {kind: write_damaged(folder / f"{kind}.mp4", originals[0], kind) for kind in DAMAGE}
    expected = {}
    for number in range(VIDEOS):
        path = folder / "all" / f"{number // 100:02}" / f"{number:05}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = DAMAGE[number // 20 % len(DAMAGE)] if number % round(1 / DAMAGED) == 0 else None
        original = bad[kind] if kind else originals[number % 3]
        if kind != "missing":
            shutil.copy(original, path)
        expected[str(path)] = (
            "ok" if kind is None else "damaged" if kind in READ_IN_PART else "failed"
        )
    listed = folder / "list.txt"
    listed.write_text("\n".join(expected))
    return listed, expected


def killed_run(words, out, model, chance, *, actors):
    """Run the command, kill processes at random times, and the command itself at the end.

    Returns whether it was still at work then.
    """
    before = count_rows(out)
    driver = subprocess.Popen(command(*words), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    give_up_s = time.monotonic() + 120
    while count_rows(out) == before and driver.poll() is None and time.monotonic() < give_up_s:
        time.sleep(0.05)
    for _ in range(chance.randrange(3)):
        time.sleep(chance.uniform(0, 0.5))
        numbers = recognisers(model)
        if numbers:
            with suppress(OSError):
                victim = chance.choice(numbers)
                os.kill(parent_of(victim) if actors and chance.random() < 0.5 else victim, 9)
    time.sleep(chance.uniform(0, 1))
    was_at_work = driver.poll() is None
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    return was_at_work


def count_rows(out):
    """Return a number that grows with the rows of an archive."""
    found = len(list(out.glob("part-*.parquet")))
    for path in out.glob("_work/*.jsonl"):
        with suppress(FileNotFoundError):  # its rows have become a part meanwhile
            found += path.stat().st_size
    return found


def prove(videos, model, out, seed, *options):
    listed, expected = videos
    words = [listed, "-o", out, "--model", model, "--engine", "onnxruntime", *options]
    chance = random.Random(seed)
    on_ray = "--ray" in options
    kills = [killed_run(words, out, model, chance, actors=on_ray) for _ in range(KILLED_RUNS)]
    assert sum(kills) > KILLED_RUNS / 2  # the others found nothing left to do
    done = run(*words)
    assert done.returncode == 0, done.stderr
    rows = check_complete(out, list(expected))
    found = {path: row["status"] for path, row in rows.items()}
    # a video that was at hand in three kills of its process is in quarantine, which is one row too
    wrong = [path for path in expected if found[path] not in (expected[path], "quarantined")]
    assert not wrong
    assert sum(status == "quarantined" for status in found.values()) <= 3
    before = {path: path.stat().st_mtime_ns for path in out.glob("part-*")}
    assert run(*words).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("part-*")} == before


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kills_on_one_host(videos, model, tmp_path):
    prove(videos, model, tmp_path / "rows", 1, "--processes", "2")


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_kills_on_a_cluster_of_two_nodes(videos, model, tmp_path):
    pytest.importorskip("ray")
    with two_nodes() as address:
        prove(videos, model, tmp_path / "rows", 2, "--ray", address)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_folder_goes_on_from_one_host_to_a_cluster(videos, model, tmp_path):
    pytest.importorskip("ray")
    _, expected = videos
    few = list(expected)[:800]  # more than one process does before it is killed
    short = tmp_path / "list.txt"
    short.write_text("\n".join(few))
    words = [short, "-o", tmp_path / "rows", "--model", model, "--engine", "onnxruntime"]
    killed_run(
        [*words, "--processes", "1"], tmp_path / "rows", model, random.Random(3), actors=False
    )
    with two_nodes() as address:
        refused = [run(*words, "--ray", address, *more) for more in TOO_MUCH]
        done = run(*words, "--ray", address, "--gpus", "0.5")
    assert done.returncode == 0, done.stderr
    check_complete(tmp_path / "rows", few)
    assert all("core_worker.cc" in line for line in done.stderr.splitlines())  # Ray's own
    for asked, said in zip(("1 CPU and 2 GPU", "2 CPU"), refused, strict=True):
        assert said.returncode == 2
        (line,) = said.stderr.splitlines()
        assert f"no node of the Ray cluster has {asked}" in line
        assert "there are nodes with 1 CPU" in line


@pytest.mark.slow
@pytest.mark.parametrize("address", ["auto", "127.0.0.1:1", "ray://127.0.0.1:1", "nonsense"])
def test_a_cluster_that_is_not_there_is_one_error(address, model, tmp_path):
    pytest.importorskip("ray")
    (tmp_path / "list.txt").write_text("none.mp4")
    words = [tmp_path / "list.txt", "-o", tmp_path / "rows", "--model", model]
    done = run(*words, "--ray", address)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"cannot reach a Ray cluster at {address}" in line
