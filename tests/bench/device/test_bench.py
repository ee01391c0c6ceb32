"""The command dvfl-bench: its findings, outputs, comparisons and refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from artifacts import artifact, colour_graph, coloured, save, write_colour_model
from bf16 import needs_bf16, on_a_cpu_without_bf16
from shared import ROOT
from videos import write_video

from dvfl_bench.baseline import compare
from dvfl_bench.cli import main
from dvfl_bench.device.streams import CameraTrial, find_most_cameras
from dvfl_bench.device.timing import WarmUp, drift, percentiles, times_in_turn
from dvfl_bench.device.videos import size_of
from dvfl_runtime import ClipSpec
from dvfl_runtime.recognizer import DEMO_CLIP

PAGE = ROOT / "docs" / "benchmarks.md"
SHORT = ["--seconds", "0.3", "--threads", "1"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """Run the whole command, as briefly as possible; return its result and its picture."""
    folder = tmp_path_factory.mktemp("bench")
    out, plot = folder / "out.json", folder / "plot.png"
    command = [*SHORT, "--engine", "onnxruntime", "--video", str(DEMO_CLIP)]
    assert main([*command, "--json", str(out), "--plot", str(plot)]) == 0
    return json.loads(out.read_text()), plot


def test_everything_is_measured(measured: tuple[dict[str, Any], Path]) -> None:
    result, plot = measured
    assert result["schema"] == 1
    assert result["machine"]["jetson"] is None
    assert result["video"] == size_of(DEMO_CLIP)
    assert result["sgemm"]["gflops"] > 1
    (run,) = result["runs"]
    assert run["engine"] == "onnxruntime"
    assert run["clip"] == [8, 64, 64]
    assert run["gmacs"] == pytest.approx(0.252, abs=0.001)
    found = run["inference"]
    assert 0 < found["p50_ms"] <= found["p90_ms"] <= found["p99_ms"] <= found["max_ms"]
    assert len(found["samples_ms"]) == found["n"] >= 5
    assert run["gflops"] == pytest.approx(2 * 1e3 * run["gmacs"] / found["p50_ms"], rel=0.02)
    assert run["over_floor"] == pytest.approx(result["sgemm"]["gflops"] / run["gflops"], rel=0.02)
    assert run["cold_start"]["peak_rss_mb"] > 30
    assert run["cold_start"]["device_memory_mb"] is None
    stages = run["end_to_end"]
    parts = sum(stages[name]["p50_ms"] for name in ("decode", "preprocess", "infer", "post"))
    assert stages["total"]["p50_ms"] == pytest.approx(parts, rel=0.5)
    assert run["stream"]["windows_per_s"] > 1
    assert run["live"]["one_camera"]["got"] >= 1
    assert run["live"]["most_cameras"] >= 1
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_the_guide_describes_every_field(measured: tuple[dict[str, Any], Path]) -> None:
    described = set(re.findall(r"`(\w+)`", PAGE.read_text(encoding="utf-8")))

    def names(value: Any) -> set[str]:
        if isinstance(value, dict):
            return set(value) | {name for v in value.values() for name in names(v)}
        if isinstance(value, list):
            return {name for v in value for name in names(v)}
        return set()

    result, _ = measured
    free = {"versions", "accuracy", "temperatures_c"}  # their names are data
    for part in (result, result["machine"], *result["runs"]):
        own = {k: {} if k in free else v for k, v in part.items() if k not in ("machine", "runs")}
        assert names(own) - described == set()


def test_a_baseline_that_was_faster_is_a_regression(
    measured: tuple[dict[str, Any], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = json.loads(json.dumps(measured[0]))
    old["runs"][0]["inference"]["p50_ms"] /= 100
    old["machine"]["cpu"] = "another"
    baseline = tmp_path / "old.json"
    baseline.write_text(json.dumps(old))
    command = [*SHORT, "--engine", "onnxruntime", "--model-only", "--baseline", str(baseline)]
    assert main(command) == 1
    out = capsys.readouterr()
    assert "slower" in out.out
    assert "another machine: cpu 'another' then" in out.err
    assert main([*command, "--max-regression", "1000"]) == 0


def test_ratios_are_per_model_engine_and_precision() -> None:
    def result(*runs: tuple[str, float]) -> dict[str, Any]:
        common = {"model": "a.onnx", "precision": "fp32", "device": "cpu"}
        return {"runs": [{**common, "engine": e, "inference": {"p50_ms": t}} for e, t in runs]}

    rows = compare(result(("x", 10.0), ("y", 10.0)), result(("y", 11.6), ("x", 11.4)), 0.15)
    assert [(row["engine"], row["ratio"], row["regressed"]) for row in rows] == [
        ("y", 1.16, True),
        ("x", 1.14, False),
    ]


def test_several_files_are_plotted_with_their_accuracy(tmp_path: Path) -> None:
    files = []
    for name, top1 in (("a", 0.8), ("b", 0.9)):
        described = artifact(training={"accuracy": {"test": {"top1": top1, "clips": 10}}})
        files.append(save(colour_graph(), tmp_path / f"{name}.onnx", {"dvfl": described.to_json()}))
    out = tmp_path / "out.json"
    command = [*map(str, files), *SHORT, "--engine", "onnxruntime", "--model-only"]
    assert main([*command, "--json", str(out), "--plot", str(tmp_path / "p.png")]) == 0
    runs = json.loads(out.read_text())["runs"]
    assert [run["accuracy"]["test"]["top1"] for run in runs] == [0.8, 0.9]
    assert runs[0]["gmacs"] is runs[0]["over_floor"] is None  # the file does not tell
    assert (tmp_path / "p.png").stat().st_size > 10_000


class Steady:
    """A meter of 5 W."""

    name = "a sensor"

    def start(self) -> None:
        pass

    def stop(self) -> float:
        return 5.0


def test_accuracy_is_measured_in_the_same_run_and_joules_say_what_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shown = {"red/1": "red", "red/2": "red", "green/1": "green", "green/2": "blue"}
    for name, colour in shown.items():
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(data / f"{name}.mp4", coloured((colour, 10)))
    (data / "green/3.mp4").write_bytes(b"broken")
    monkeypatch.setattr("dvfl_bench.device.benchmark.find_meter", Steady)
    monkeypatch.setattr("dvfl_bench.device.benchmark.IDLE_S", 0.0)
    other = ClipSpec(num_frames=2, size=(16, 16), resize=16, window_s=1.0)
    files = [
        write_colour_model(tmp_path / "a.onnx"),
        write_colour_model(tmp_path / "b.onnx", spec=other),
    ]
    out = tmp_path / "out.json"
    command = [*map(str, files), *SHORT, "--engine", "onnxruntime", "--model-only"]
    outputs = ["--json", str(out), "--plot", str(tmp_path / "p.png")]
    assert main([*command, "--accuracy", str(data), *outputs]) == 0
    result = json.loads(out.read_text())
    assert result["test_set"] == "data"
    for run in result["runs"]:
        found = run["measured_accuracy"]
        assert (found["clips"], found["top1"], found["unreadable"]) == (4, 0.75, 1)
        assert found["ci95"][0] < 0.75 < found["ci95"][1]
        assert run["energy"]["scope"] == "rail, not wall"
    said = capsys.readouterr().out
    assert "accuracy on data, here" in said
    assert "energy (rail, not wall)" in said
    assert "75.0%" in said


@needs_bf16
def test_each_precision_is_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    colours = save(colour_graph(), tmp_path / "a.onnx", {"dvfl": artifact().to_json()})
    precisions = ["--precision", "file", "--precision", "bf16"]
    options = ["--engine", "openvino", "--model-only", "--json", str(out)]
    assert main([str(colours), *SHORT, *precisions, *options]) == 0
    runs = json.loads(out.read_text())["runs"]
    assert [(run["engine"], run["precision"]) for run in runs] == [
        *(("openvino", "fp32"), ("openvino", "bf16")),
    ]
    assert all(run["cold_start"]["first_clip_ms"] > 0 for run in runs)
    assert "a bf16 openvino" in capsys.readouterr().out


def test_videos_of_classes_that_a_model_does_not_know_are_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for label in ("red", "yellow"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.mp4").touch()
    model = write_colour_model(tmp_path / "a.onnx")
    assert main([str(model), "--accuracy", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "'yellow', which a.onnx does not know; its labels are red, green, blue" in err
    assert err.count("\n") == 1


def test_bf16_where_it_cannot_be_had_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_a_cpu_without_bf16(monkeypatch)
    assert main([*SHORT, "--precision", "bf16", "--model-only"]) == 2
    err = capsys.readouterr().err
    assert "AVX512_BF16 or AMX" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.onnx"], "cannot read model none.onnx"),
        ([str(DEMO_CLIP)], "not an ONNX file"),
        (["--engine", "tensorrt", "--model-only"], "tensorrt"),
        (["--device", "cuda", "--model-only"], "; openvino: openvino "),
        (
            ["--precision", "bf16", "--engine", "onnxruntime", "--model-only"],
            "pass --engine openvino, or --precision file",
        ),
        (["--video", "none.mp4", "--seconds", "0.3"], "none.mp4"),
        (["--accuracy", "none"], "there is no none"),
        (["--baseline", "none.json"], "cannot read the baseline none.json"),
        (["--baseline", str(DEMO_CLIP)], "cannot read the baseline"),
        (["--baseline", str(ROOT / "models/results/cost.json")], "not a result of dvfl-bench"),
        (["--plot", "out.jpg"], "--plot writes a .png, got out.jpg"),
        (["--json", "no/such/folder/out.json", "--model-only"], "no/such/folder"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [["--threads", "0"], ["--seconds", "-1"], ["--seconds", "nan"], ["--engine", "abc"]],
)
def test_numbers_out_of_range(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_old_result_stays_after_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old.json"
    old.write_text("kept")
    assert main(["--json", str(old), "none.onnx"]) == 2
    assert old.read_text() == "kept"
    assert "none.onnx" in capsys.readouterr().err


@pytest.mark.parametrize(("can", "guess"), [(0, 5), (1, 1), (3, 20), (7, 7), (9, 4), (16, 5)])
def test_the_search_for_the_most_cameras(can: int, guess: int) -> None:
    def run(streams: int) -> CameraTrial:
        return CameraTrial(streams, 1, 1, 0.0, 1.0, 1.0, 0.5, ok=streams <= can)

    found, trials = find_most_cameras(run, guess)
    assert len(trials) <= 5
    assert found <= can
    assert found >= can * 0.6  # a few trials find it, or nearly
    assert all(trial.ok == (trial.streams <= can) for trial in trials)


def test_times_are_taken_in_turn_and_none_is_thrown_away() -> None:
    order: list[str] = []
    times = times_in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 0.01)
    assert order[:4] == ["a", "b", "a", "b"]
    assert len(times["a"]) == len(times["b"]) == order.count("a")
    found = percentiles(np.array([1.0] * 99 + [50.0]))
    assert (found["p50_ms"], found["max_ms"], found["n"]) == (1.0, 50.0, 100)


def test_a_machine_that_gets_slower_is_noticed() -> None:
    assert drift(np.linspace(1.0, 2.0, 100)) > 1.5
    assert drift(np.ones(100)) == 1.0


def test_the_warm_up_ends_when_times_are_stable_or_time_is_up() -> None:
    values = iter([0.0] * 10_000)
    warm = WarmUp.of(lambda: next(values), 0.0)
    assert warm.clips in (5, 10)
