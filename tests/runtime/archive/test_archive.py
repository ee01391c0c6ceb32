"""dvfl-archive on one host: processes that hang and die, kills, new files, and what is read."""

import json
import os
import signal
import subprocess
import time
from contextlib import suppress

import pyarrow.csv as pv
import pyarrow.parquet as pq
import pytest
from archives import (
    DAMAGE,
    check_complete,
    command,
    recognisers,
    rows_of,
    run,
    write_damaged,
    write_good,
)
from artifacts import write_colour_model

from dvfl_runtime.archive.cli import main

TRAPS = """
import multiprocessing, os, signal, time
import fsspec
class Trap(fsspec.AbstractFileSystem):
    protocol = "trap"
    def _open(self, path, mode="rb", **_):
        if "die" in path:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "fork" in path:
            child = multiprocessing.get_context("fork").Process(target=print)
            child.start()
            child.join()
            return open(os.environ["GOOD"], mode)
        time.sleep(60)
fsspec.register_implementation("trap", Trap)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_colour_model(tmp_path_factory.mktemp("model") / "m.onnx"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Ten good videos, and one of each kind of damage."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(10):
        write_good(folder / f"good{number}.mp4", ("red", "green", "blue")[number % 3])
    for kind in DAMAGE:
        write_damaged(folder / f"{kind}.mp4", folder / "good0.mp4", kind)
    return folder


@pytest.fixture
def options(model):
    return ["--model", model, "--engine", "onnxruntime", "--processes", "1"]


def archive(capsys, *words):
    status = main([str(word) for word in words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_every_video_has_a_row_and_a_second_run_does_nothing(videos, options, tmp_path, capsys):
    out = tmp_path / "rows"
    names = [*(path.name for path in videos.iterdir()), "missing.mp4"]
    listed = tmp_path / "list.csv"
    listed.write_text("path,camera\n" + "".join(f"{videos / name},{len(name)}\n" for name in names))
    status, said, _ = archive(capsys, listed, "-o", out, *options, "--windows")
    assert status == 0
    assert "18 of 18 videos (100.0%)" in said
    assert "10 ok, 2 damaged, 6 failed, 0 quarantined" in said
    rows = check_complete(out, [str(videos / name) for name in names])
    assert pq.read_table(out).num_rows == 18  # any tool reads the folder as one table
    for path, row in rows.items():
        assert row["camera"] == str(len(os.path.basename(path)))
        assert len(row["model"]) == 64
        assert (row["status"] in ("ok", "damaged")) == bool(row["segments"]) == bool(row["windows"])
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert archive(capsys, listed, "-o", out, *options, "--windows")[0] == 0
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before

    status, said, _ = archive(capsys, "status", out, "--json")
    assert (status, json.loads(said)["statuses"]) == (0, {"ok": 10, "damaged": 2, "failed": 6})
    for name in ("rows.csv", "rows.jsonl", "rows.parquet"):
        assert archive(capsys, "export", out, tmp_path / name)[0] == 0
    exported = pv.read_csv(tmp_path / "rows.csv")
    assert set(exported.column("path").to_pylist()) == rows.keys()
    assert exported.num_rows == sum(len(row["segments"]) or 1 for row in rows.values())
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert {line["path"]: line["segments"] for line in lines} == {
        path: row["segments"] for path, row in rows.items()
    }
    assert pq.read_table(tmp_path / "rows.parquet").num_rows == 18
    assert archive(capsys, "export", out, tmp_path / "rows.csv", "--windows")[0] == 0
    assert pv.read_csv(tmp_path / "rows.csv").num_rows > exported.num_rows


def test_new_videos_are_added_and_failed_or_changed_ones_redone_only_on_request(
    options, tmp_path, capsys
):
    videos, out = tmp_path / "videos", tmp_path / "rows"
    videos.mkdir()
    write_good(videos / "a.mp4", "red")
    (videos / "b.mp4").write_bytes(b"")
    arguments = [videos, "-o", out, *options]
    assert archive(capsys, *arguments)[0] == 0
    first = rows_of(out)
    assert {path: row["status"] for path, row in first.items()} == {
        "a.mp4": "ok",
        "b.mp4": "failed",
    }

    status, _, said = archive(capsys, "export", out, tmp_path / "rows.csv", "--windows")
    assert (status, "are made without windows" in said) == (2, True)
    write_good(videos / "a.mp4", "green")
    write_good(videos / "b.mp4", "green")
    write_good(videos / "c.mp4", "blue")
    assert archive(capsys, *arguments)[0] == 0
    second = rows_of(out)
    assert {**second, "c.mp4": None} == {**first, "c.mp4": None}
    assert second["c.mp4"]["segments"][0]["label"] == "blue"

    assert archive(capsys, *arguments, "--again")[0] == 0
    third = check_complete(out, ["a.mp4", "b.mp4", "c.mp4"])
    assert [third[name]["segments"][0]["label"] for name in sorted(third)] == [
        *("green", "green", "blue")
    ]
    assert third["c.mp4"] == second["c.mp4"]


def test_a_video_that_hangs_or_kills_its_process_goes_to_quarantine(videos, options, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(TRAPS)
    listed, out = tmp_path / "list.txt", tmp_path / "rows"
    paths = ["trap://die.mp4", "trap://fork.mp4", "trap://hang.mp4"]
    listed.write_text("\n".join(paths))
    more = {"PYTHONPATH": str(tmp_path / "site"), "GOOD": str(videos / "good0.mp4")}
    environment = {**os.environ, **more}
    words = [listed, "-o", out, *options, "--timeout-s", "2", "--tries", "2"]
    done = run(*words, env=environment)
    assert done.returncode == 0, done.stderr
    assert "0 failed, 2 quarantined" in done.stdout
    died, good, hung = (check_complete(out, paths)[path] for path in paths)
    assert good["status"] == "ok"  # though a library forks, which must not wait for the parent
    assert (died["status"], died["error_class"]) == ("quarantined", "ProcessDied")
    assert died["error"] == "2 times; the last time its process was killed by SIGSEGV"
    assert (hung["status"], hung["error_class"]) == ("quarantined", "Hung")
    assert "brought nothing new for 2 s" in hung["error"]


def start(*words):
    return subprocess.Popen(
        command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_rows(out, count, driver):
    """Wait until a journal has so many rows."""
    give_up_s = time.monotonic() + 60
    while time.monotonic() < give_up_s and driver.poll() is None:
        written = len(list(out.glob("part-*.parquet")))
        for path in out.glob("_work/*.jsonl"):
            with suppress(FileNotFoundError):  # its rows have become a part meanwhile
                written += path.read_bytes().count(b'{"row"')
        if written >= count:
            return
        time.sleep(0.01)
    pytest.fail(f"no {count} rows: {driver.communicate()}")


def test_kills_of_a_process_and_of_the_driver_lose_no_row_and_double_none(
    videos, model, options, tmp_path
):
    out = tmp_path / "rows"
    names = sorted(path.name for path in videos.iterdir())
    driver = start(videos, "-o", out, *options)
    wait_for_rows(out, 2, driver)
    for number in recognisers(model):
        os.kill(number, signal.SIGKILL)
    wait_for_rows(out, 5, driver)
    driver.kill()
    driver.communicate()
    before = rows_of(out)
    assert len(before) < len(names)
    done = run(videos, "-o", out, *options)
    assert done.returncode == 0, done.stderr
    rows = check_complete(out, names)
    assert {path: rows[path] for path in before} == before


def test_ctrl_c_ends_after_the_video_at_hand_and_keeps_all_rows(videos, options, tmp_path):
    out = tmp_path / "rows"
    driver = start(videos, "-o", out, *options)
    wait_for_rows(out, 3, driver)
    driver.send_signal(signal.SIGINT)
    _, errors = driver.communicate(timeout=60)
    assert driver.returncode == 130, errors
    assert "Traceback" not in errors
    assert 2 <= len(rows_of(out)) < 17  # all that is known is in parts
    assert run(videos, "-o", out, *options).returncode == 0
    check_complete(out, sorted(path.name for path in videos.iterdir()))


def test_a_full_disk_is_one_error_and_loses_nothing(videos, options, tmp_path):
    out = tmp_path / "rows"
    words = command(videos, "-o", out, *options)
    limited = ["bash", "-c", 'ulimit -f 6; exec "$@"', "bash", *words]  # KiB of any file
    done = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "cannot write" in line
    assert "File too large" in line
    assert line.endswith("No row is lost: mend that, and run the same command again")
    journals = list(out.glob("_work/*.jsonl"))
    assert any(b'{"row"' in path.read_bytes() for path in journals)
    assert run(videos, "-o", out, *options).returncode == 0
    check_complete(out, sorted(path.name for path in videos.iterdir()))


def test_an_output_folder_that_goes_away_is_one_error_and_loses_nothing(videos, options, tmp_path):
    out = tmp_path / "rows"
    driver = start(videos, "-o", out, *options)
    wait_for_rows(out, 3, driver)
    out.rename(tmp_path / "elsewhere")
    _, errors = driver.communicate(timeout=60)
    assert driver.returncode == 2
    (line,) = errors.splitlines()
    assert "No such file or directory" in line
    (tmp_path / "elsewhere").rename(out)
    before = rows_of(out)
    assert run(videos, "-o", out, *options).returncode == 0
    rows = check_complete(out, sorted(path.name for path in videos.iterdir()))
    assert {path: rows[path] for path in before} == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["none", "-o", "rows"], "none: No such file or directory"),
        (["videos", "-o", "none/rows"], "cannot write none/rows: No such file"),
        (["videos", "-o", "videos"], "holds other things than an archive"),
        (["videos", "-o", "rows", "--model", "videos/a.mp4"], "cannot use model"),
        (["videos", "-o", "rows", "--engine", "nonsense"], "nonsense"),
        (["videos", "-o", "rows", "--gpus", "1"], "pass --ray ADDRESS too"),
        (
            ["videos", "-o", "rows", "--ray", "auto", "--gpus", "1.5"],
            "--gpus must be a part of one",
        ),
        (["status", "videos"], "videos is no archive of dvfl-archive"),
        (["export", "videos", "rows.xls"], "names no format"),
        (["export", "videos", "rows.csv"], "videos is no archive"),
    ],
)
def test_bad_input_is_one_line(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").mkdir()
    write_good(tmp_path / "videos" / "a.mp4")
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


NOT_A_PATH = "must be a path on a disk, not an address, got '"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["videos", "-o", "s3://bucket/rows"], NOT_A_PATH),
        (["s3://bucket/list.csv", "-o", "rows"], NOT_A_PATH),
        (["status", "gs://bucket/rows"], NOT_A_PATH),
        (["export", "rows", "memory://rows.csv"], NOT_A_PATH),
        (["videos", "-o", "rows", "--ray", ""], "--ray: is empty; give auto, local or HOST:PORT"),
    ],
)
def test_a_wrong_option_is_one_line(words, says, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(words)
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
