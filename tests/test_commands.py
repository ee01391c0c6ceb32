"""Behaviour that all commands have in common."""

import errno
import logging
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from dvfl_bench.cli import main as bench
from dvfl_bench.comparisons.family import main as family
from dvfl_bench.comparisons.forms import main as forms
from dvfl_bench.comparisons.naive import main as naive
from dvfl_bench.comparisons.precision import main as precision
from dvfl_export.cli import main as export
from dvfl_export.eval_cli import main as evaluate
from dvfl_export.own_actions.cli import main as train
from dvfl_models.studies.baselines import main as baselines
from dvfl_models.studies.cost import main as cost
from dvfl_models.studies.crossval import main as crossval
from dvfl_models.studies.scenes import main as scenes
from dvfl_models.training import command
from dvfl_runtime.app.cli import main as recognize
from dvfl_runtime.archive.cli import main as archive
from dvfl_runtime.arguments import Parser, log_lines
from dvfl_runtime.files import replacing
from dvfl_runtime.teach.cli import main as teach

Main = Callable[[Sequence[str]], int]


COMMANDS = [archive, bench, crossval, evaluate, export, recognize, teach, train]


@pytest.mark.parametrize("main", COMMANDS)
def test_a_wrong_argument_is_one_line(main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--nonsense", "1"])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "error: " in line


@pytest.mark.parametrize(
    ("main", "words"),
    [(train, ["order"]), (export, ["x.pth", "-o", "x.onnx"]), (evaluate, ["x.pth", "order"])],
)
def test_threads_of_pytorch_wait_without_spinning_unless_the_user_says_otherwise(
    main: Main, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str | None] = []

    def note(*_: object) -> int:
        seen.append(os.environ.get("OMP_WAIT_POLICY"))
        return 0

    monkeypatch.setattr(command, "run_command", note)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    main(words)
    monkeypatch.delenv("OMP_WAIT_POLICY")
    main(words)
    assert seen == ["active", "passive"]


@pytest.mark.parametrize(
    ("main", "words", "says"),
    [
        (export, ["", "-o", "x.onnx"], "argument checkpoint: is empty; give a path"),
        (train, ["order", "--out", ""], "argument --out: is empty; give a path"),
        (recognize, ["v.mp4", "--model", ""], "--model must be the path of a model file, got ''"),
        (recognize, ["v.mp4", "-o", ""], "cannot write '': the name is empty"),
    ],
)
def test_an_empty_name_is_one_line(
    main: Main, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status: object = main(words)
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("main", [archive, bench, evaluate, recognize, train])
def test_more_threads_than_libraries_take_are_one_line(
    main: Main, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--threads", "99999999999999"])
    assert ended.value.code == 2
    assert "--threads: must be a whole number from 1 to 1024" in capsys.readouterr().err


WORK = {  # the work of each command, after its places have been checked
    bench: "dvfl_bench.device.benchmark.measure",
    evaluate: "dvfl_export.evaluation.open_candidate",
    export: "dvfl_export.pipeline.export",
}


@pytest.mark.parametrize(
    ("main", "words"),
    [
        (bench, ["m.pth", "--json", "m.pth"]),
        (bench, ["m.pth", "--json", "."]),
        (bench, ["m.pth", "--plot", "none/p.png"]),
        (bench, ["m.pth", "--json", "a.png", "--plot", "./a.png"]),
        (evaluate, ["m.pth", "x", "--json", "loop"]),
        (evaluate, ["m.pth", "x", "--confusion", "m.pth"]),
        (export, ["m.pth", "-o", "none/m.onnx"]),
        (export, ["m.pth", "-o", "link.onnx"]),
        (export, ["m.pth", "-o", "m.onnx", "--report", "/"]),
    ],
)
def test_places_are_checked_before_the_work(
    main: Main,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.pth").write_text("weights")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "link.onnx").symlink_to("m.pth")
    monkeypatch.setattr(WORK[main], None)
    before = sorted(tmp_path.iterdir())
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot write" in line or "both name" in line
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "m.pth").read_text() == "weights"


@pytest.mark.parametrize(
    ("main", "words"),
    [
        (forms, ["--json"]),
        (family, ["--plot"]),
        (precision, ["speed", "--json"]),
        (naive, ["--json"]),
        (crossval, ["actions5", "--set-name", "x", "--group", "y", "--json"]),
        (baselines, ["actions5", "--set-name", "x", "--group", "y", "--json"]),
        (cost, ["femto", "--json"]),
        (scenes, ["none.csv", "--out"]),
    ],
)
def test_measurements_of_hours_check_their_places_first(
    main: Main, words: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert main([*words, str(tmp_path / "none" / "out.png")]) == 2
    (record,) = caplog.records
    assert "out.png: No such file or directory" in record.getMessage()


@pytest.mark.parametrize("request_to_end", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_end_leaves_nothing_half_written(
    request_to_end: signal.Signals,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def work(*_: object) -> None:
        with replacing(tmp_path / "m.onnx") as part:
            part.write_text("half")
            os.kill(os.getpid(), request_to_end)

    monkeypatch.setattr(WORK[export], work)
    assert export(["m.pth", "-o", str(tmp_path / "m.onnx")]) == 128 + request_to_end
    assert capsys.readouterr().err == "dvfl-export: stopped, nothing written\n"
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_for_temporary_files_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp/x/graph.onnx")

    monkeypatch.setattr(WORK[bench], work)
    assert bench([]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(
        "cannot write /tmp/x/graph.onnx: No space left on device; make room for it"
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full.json").symlink_to("/dev/full")
    monkeypatch.setattr(WORK[bench], lambda *_: {})
    assert bench(["--json", str(tmp_path / "full.json")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "full.json: No space left on device" in line


def test_warnings_are_told_from_progress_and_speak_of_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    command = Parser(prog="dvfl-train")
    command.add_argument("--device")
    log_lines(command)
    log = logging.getLogger("dvfl_models.training.trainer")
    monkeypatch.setattr(log, "level", logging.INFO)
    log.info("step %d", 1)
    log.warning("step %d is skipped; pass device='cpu'", 2)
    progress, warning = capsys.readouterr().err.splitlines()
    assert progress == "dvfl-train: step 1"
    assert warning == "dvfl-train: WARNING: step 2 is skipped; pass --device cpu"
