"""Runs that are asked to end, and processes of theirs that die."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dvfl_models import read_checkpoint
from dvfl_models.data.loader import plain_worker_errors
from dvfl_models.recipe.recipe import Recipe, recipe_from, tomllib
from dvfl_models.training import cli
from dvfl_models.training.launch import TrainOptions
from dvfl_models.training.stopping import Stopped
from dvfl_models.training.trainer import Trainer
from dvfl_runtime.errors import SourceError

RESUME = TrainOptions(resume=True)
TOML = """
name = "tiny"
labels = ["idle", "bend"]
test_every = 2
checkpoint_every = 4
model = {variant = "femto", init = "xavier", drop_path = 0.2}
clip = {num_frames = 2, size = [32, 32], crop = "letterbox"}
train = [{kind = "synthetic"}]
test = [{kind = "synthetic", clips = 1, first_seed = 1_000_000_000}]
optim = {steps = 4, batch_size = 2, ema = 0.5, optimizer = "sgd", lr = 0.01}
"""


def tiny() -> Recipe:
    return recipe_from(tomllib.loads(TOML), "tiny")


def ask(*numbers: signal.Signals, apart_s: float = 0.005) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)
        time.sleep(apart_s)


def asking(method: Callable, when: int, *numbers: signal.Signals) -> Callable:
    """The method, asked to end within its call number `when`."""
    calls = 0

    def wrapped(*arguments: object, **more: object) -> object:
        nonlocal calls
        calls += 1
        if calls == when:
            ask(*numbers)
        return method(*arguments, **more)

    return wrapped


def test_a_run_that_is_asked_to_end_again_and_again_ends_as_an_uninterrupted_one(
    tmp_path: Path,
) -> None:
    Trainer(tiny(), tmp_path / "whole").run(workers=0, progress=False)
    run, stops = tmp_path / "parts", []
    for name, when, *numbers in (
        (
            "learner._compute_gradients",
            1,
            signal.SIGINT,
            signal.SIGINT,
            signal.SIGINT,
        ),  # in the first step
        ("evaluation._share_work", 1, signal.SIGHUP, signal.SIGINT),  # while it is tested
        ("learner._compute_gradients", 1, signal.SIGINT),  # in a step between two tests
        ("_save_last", 1, signal.SIGINT, signal.SIGTERM),  # while it is saved
    ):
        options = TrainOptions(resume=run.exists())
        trainer = Trainer(tiny(), run, options)
        *owner, method = name.split(".")
        holder = getattr(trainer, *owner) if owner else trainer
        setattr(holder, method, asking(getattr(holder, method), when, *numbers))
        with pytest.raises(Stopped, match=r"at step \d of 4, kept in .*last\.pth; go on with"):
            trainer.run(workers=0, progress=False)
        stops.append((trainer.step, read_checkpoint(run / "last.pth").trainer["step"]))
    assert stops == [(1, 1), (2, 2), (3, 3), (4, 4)]
    Trainer(tiny(), run, RESUME).run(workers=0, progress=False)
    for file in ("final.pth", "best.pth", "last.pth"):
        wanted, found = (read_checkpoint(folder / file) for folder in (tmp_path / "whole", run))
        assert all(torch.equal(found.state_dict[k], v) for k, v in wanted.state_dict.items())
    rows = []
    for folder in (tmp_path / "whole", run):
        with (folder / "metrics.csv").open() as file:
            every = csv.DictReader(file)
            rows.append([(row["step"], row["train_accuracy"], row["synthetic"]) for row in every])
    assert rows[0] == rows[1]
    assert [row[0] for row in rows[0]] == [*"1234"]


def test_a_run_whose_time_is_up_ends_after_a_step_and_can_be_kept(tmp_path: Path) -> None:
    run = tmp_path / "run"
    trainer = Trainer(tiny(), run, TrainOptions(until_s=time.monotonic() - 1))
    with pytest.raises(Stopped, match="at step 1 of 4, kept in") as stopped:
        trainer.run(workers=0, progress=False)
    assert stopped.value.number == 0
    assert list(trainer.keep("stopped.pth")) == ["synthetic"]
    kept = read_checkpoint(run / "stopped.pth")
    assert kept.training["steps"] == 1
    assert "synthetic" in kept.training["accuracy"]
    # the average is still half of the first weights, so those of the last step are kept
    trained = trainer.learner.network.state_dict()
    assert all(torch.equal(value, trained[key]) for key, value in kept.state_dict.items())
    Trainer(tiny(), run, RESUME).run(workers=0, progress=False)
    assert read_checkpoint(run / "final.pth").training["steps"] == 4


def test_the_command_says_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.toml").write_text(TOML)
    command = [str(tmp_path / "tiny.toml"), "--out", str(tmp_path / "run"), "--workers", "0"]
    monkeypatch.setattr(Trainer, "_find_leaks", asking(Trainer._find_leaks, 1, signal.SIGINT))
    assert cli.main(command) == 130
    said = capsys.readouterr().err
    assert said == "dvfl-train: stopped before the first step; there is nothing to keep\n"
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(Trainer, "_train_step", asking(Trainer._train_step, 2, signal.SIGTERM))
    assert cli.main(command) == 143
    last = tmp_path / "run" / "last.pth"
    said = capsys.readouterr().err
    assert said == f"dvfl-train: stopped at step 2 of 4, kept in {last}; go on with --resume\n"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_killed_process_that_makes_clips_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TOML.replace("steps = 4", "steps = 4000"))
    run = tmp_path / "run"
    command = [
        *(sys.executable, "-m", "dvfl_models.training.cli", str(tmp_path / "tiny.toml")),
        *("--out", str(run), "--cpu", "--workers", "1", "--set", "test_every=4000"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    makes_clips = wait_for_steps(process, run / "metrics.csv", 2)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(makes_clips, number)  # as to all of a group: it goes on
    wait_for_steps(process, run / "metrics.csv", 6)
    os.kill(makes_clips, signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2, said
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("dvfl-train: error")]
    assert "a process that makes clips was ended" in line


def wait_for_steps(process: subprocess.Popen[str], rows: Path, steps: int) -> int:
    """Return the number of the process that makes clips once `rows` has so many steps."""
    while not rows.exists() or len(rows.read_text().splitlines()) <= steps:
        assert process.poll() is None
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[-1])


def test_an_error_of_a_process_that_makes_clips_has_no_traceback() -> None:
    told = (
        "Caught SourceError in DataLoader worker process 0.\nOriginal Traceback (most recent call "
        "last):\n  ...\ndvfl_runtime.errors.SourceError: data set 'v': not one\ncan be read\n"
    )
    with (
        pytest.raises(SourceError, match=r"^data set 'v': not one\ncan be read$"),
        plain_worker_errors(),
    ):
        raise SourceError(told)
    with pytest.raises(RuntimeError, match=r"^other$"), plain_worker_errors():
        raise RuntimeError("other")


@pytest.mark.slow
def test_two_processes_stop_at_one_step(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TOML.replace("steps = 4", "steps = 4000"))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [
        *(sys.executable, *launcher, "-m", "dvfl_models.training.cli", str(tmp_path / "tiny.toml")),
        *("--out", str(tmp_path / "run"), "--cpu", "--workers", "0", "--threads", "1"),
        *("--set", "test_every=4000"),
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    for more in ([], ["--resume"]):
        process = subprocess.Popen([*command, *more], env=env, stderr=subprocess.PIPE, text=True)
        rows = tmp_path / "run" / "metrics.csv"
        begun = len(rows.read_text().splitlines()) if rows.exists() else 0
        while not rows.exists() or len(rows.read_text().splitlines()) < begun + 5:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert said.count("dvfl-train: stopped at step") == 1
    assert read_checkpoint(tmp_path / "run" / "last.pth").trainer["step"] > 8
