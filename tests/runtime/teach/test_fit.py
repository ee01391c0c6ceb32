"""dvfl-teach fit on real videos: the file, what is printed, and bad input."""

import csv
import json
import os
import re
import sys

import cv2
import numpy as np
import onnx
import pytest
from artifacts import artifact, colour_graph, coloured, save, write_colour_model
from onnx import helper, numpy_helper
from shared import DATA, needs_shared
from videos import write_video

from dvfl_runtime import Recognizer
from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.recognizer import BUNDLED_MODEL
from dvfl_runtime.teach import cli, features
from dvfl_runtime.teach.features import cut_windows

SPEC = ClipSpec(num_frames=4, size=(8, 8), resize=8, window_s=1.0)


def linear_model(path):
    """Write a model whose features are the mean colours of a clip."""
    model = colour_graph(SPEC)
    weight = numpy_helper.from_array(np.eye(3, dtype=np.float32) / 10, "w")
    model.graph.initializer.append(weight)
    model.graph.node[-1].CopyFrom(helper.make_node("MatMul", ["mean", "w"], ["logits"]))
    return save(model, path, {"dvfl": artifact(spec=SPEC).to_json()})


def clip(path, colour, frames=38, seed=0):
    """Write a video of one colour with a little noise, 1.5 s long."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng([seed, frames]).integers(-4, 5, (frames, 1, 1, 3))
    images = np.clip(np.stack(coloured((colour, frames), height=16, width=16)) + noise, 0, 255)
    return write_video(path, list(images.astype(np.uint8)), pix_fmt="yuv444p")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model and clips of two actions by three persons."""
    folder = tmp_path_factory.mktemp("teach")
    linear_model(folder / "m.onnx")
    for k, label in enumerate(("red", "green")):
        for n, person in enumerate(("anna", "anna", "ben", "cy")):
            clip(folder / "clips" / label / f"{person}_{n}.mp4", label, seed=10 * k + n)
    clip(folder / "street" / "long.mp4", "blue", frames=150)
    clip(folder / "street" / "short.mp4", "blue")
    return folder


@pytest.fixture
def fit(place, tmp_path, capsys, monkeypatch):
    """Run the command; return status, standard output and error."""
    monkeypatch.chdir(tmp_path)

    def call(folder=place / "clips", *args, model=place / "m.onnx", engine="onnxruntime"):
        words = ["fit", folder, "-o", "mine.onnx", "--model", model, "--engine", engine, *args]
        try:
            status = cli.main(list(map(str, words)))
        except SystemExit as err:
            status = err.code
        return status, *capsys.readouterr()

    return call


def test_a_folder_of_clips_becomes_a_model_that_knows_them(fit, place):
    status, out, err = fit(place / "clips", "--confusion", "c.png")
    assert (status, err) == (0, "")
    assert "2 actions from 8 clips of 3 groups (by the beginning of the file names)\n" in out
    assert "no action is called idle" in out
    assert "left out in turn: 100.0% of 8 clips (95 % interval 67.6% to 100.0%)\n" in out
    assert "confused" not in out
    assert "dvfl-recognize 0 --model mine.onnx" in out
    with Recognizer("mine.onnx", engine="onnxruntime") as recognizer:
        assert recognizer.labels == ("green", "red")
        assert recognizer.classify(place / "clips/red/ben_2.mp4").label == "red"
        found = recognizer.artifact
    assert (found.name, found.features, found.precision) == ("mine", "mean", "fp32")
    assert found.training["videos"] == {"green": 4, "red": 4}
    assert found.training["accuracy"]["cross_validated"]["clips"] == 8
    assert found.training["parent"]["name"] == "colours"
    assert found.parity["head"]["max_difference"] < 1e-3
    assert found.parity["parent"] == {}
    assert cv2.imread("c.png").shape[2] == 3


def test_what_was_never_seen_is_unknown(fit, place, tmp_path):
    own = tmp_path / "own"
    for k, label in enumerate(("red", "green")):
        for n in range(6):
            clip(own / label / f"{'abc'[n % 3]}_{n}.mp4", label, seed=10 * k + n)
    status, out, err = fit(own)
    assert (status, err) == (0, "")
    assert re.search(r"^confidence: .* before it was calibrated$", out, re.MULTILINE)
    assert "\nunknown: what is unlike all of these clips; " in out
    with Recognizer("mine.onnx", engine="onnxruntime") as recognizer:
        known = [recognizer.classify(path) for path in sorted(own.glob("*/*.mp4"))]
        street = list(recognizer.stream(place / "street/long.mp4"))
        black = recognizer.predict(np.zeros((4, 8, 8, 3), np.uint8))
    assert [p.label for p in known] == 6 * ["green"] + 6 * ["red"]
    assert {(p.label, p.class_id) for p in [*street, black]} == {("unknown", -1)}
    report = recognizer.artifact.confidence_calibration.report
    assert report["videos"] == 12
    assert {"ece_before", "ece_after", "kept", "least"} <= set(report)


def test_too_few_clips_for_a_rule_is_one_line(fit):
    _, out, _ = fit()
    assert "confidence: not calibrated, and nothing is called unknown: it takes 10 clips" in out
    assert ModelFile("mine.onnx").artifact.confidence_calibration is None


def test_negatives_become_a_class_of_their_own(fit, place):
    status, out, _ = fit(place / "clips", "--negatives", place / "street")
    assert status == 0
    assert ModelFile("mine.onnx").artifact.labels == ("green", "idle", "red")
    assert "3 actions from 10 clips" in out
    assert "no action is called idle" not in out
    fit(place / "clips", "--negatives", place / "street", "--negative-label", "nobody")
    assert ModelFile("mine.onnx").artifact.labels == ("green", "nobody", "red")


def test_a_second_run_reads_no_video(fit, place, monkeypatch):
    assert fit()[0] == 0
    first = ModelFile("mine.onnx")
    read = []
    monkeypatch.setattr(
        features, "cut_windows", lambda path, spec: read.append(path) or cut_windows(path, spec)
    )
    assert fit()[0] == 0
    assert read == []
    assert ModelFile("mine.onnx").content == first.content
    # another file, model or focus is read
    os.utime(place / "clips/red/ben_2.mp4", (1, 1))
    assert fit()[0] == 0
    assert [path.name for path in read] == ["ben_2.mp4"]
    assert fit(place / "clips", "--focus", "motion")[0] == 0
    assert len(read) == 1 + 8
    assert ModelFile("mine.onnx").artifact.spec.focus == "motion"


def test_an_index_tells_the_groups(fit, place):
    rows = [["file", "label", "group"]]
    paths = sorted((place / "clips").glob("*/*.mp4"))
    rows += [[str(path), path.parent.name, path.stem[0]] for path in paths]
    with open("index.csv", "w", newline="") as out:
        csv.writer(out).writerows(rows)
    status, out, _ = fit("index.csv")
    assert status == 0
    assert "3 groups (by the column group)" in out


def copies(place, to, *names):
    """Copy clips of the place; "red/x.mp4" is a clip of red."""
    for n, name in enumerate(names):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        sources = sorted((place / "clips" / name.split("/")[0].lower()).glob("*.mp4"))
        (to / name).write_bytes(sources[n % len(sources)].read_bytes())
    return to


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["red/a_1.mp4", "red/b_1.mp4", "green/a_1.mp4"], "'green' has one clip, so it is learnt"),
        (
            ["red/1.mp4", "red/2.mp4", "green/3.mp4", "green/4.mp4"],
            "nothing tells which clips are of one person",
        ),
    ],
)
def test_what_is_not_tested_is_one_warning(fit, place, tmp_path, caplog, names, says):
    status, _, _ = fit(copies(place, tmp_path / "own", *names))
    assert status == 0
    assert [record.message.count(says) for record in caplog.records].count(1) == 1


def test_a_class_of_one_person_is_one_warning(fit, place, tmp_path, caplog):
    rows = ["file,label,person"]
    for path in sorted((place / "clips").glob("*/*.mp4")):
        label, person = path.parent.name, path.stem[0]
        rows.append(f"{path},{label},{'a' if label == 'green' else person}")
    (tmp_path / "index.csv").write_text("\n".join(rows))
    status, out, _ = fit(tmp_path / "index.csv")
    assert status == 0
    (record,) = caplog.records
    assert "'green' has 4 clips of one group" in record.message
    assert "of another person" in record.message
    assert "of 4 clips" in out


def test_one_clip_of_each_is_learnt_and_not_measured(fit, place, tmp_path):
    status, out, _ = fit(copies(place, tmp_path / "own", "red/x.mp4", "green/x.mp4"))
    assert status == 0
    assert "accuracy: not measured" in out
    assert ModelFile("mine.onnx").artifact.training["accuracy"] == {}


def test_short_and_damaged_clips_are_one_warning_each(fit, place, tmp_path, caplog):
    names = [f"{label}/{person}.mp4" for label in ("red", "green") for person in "abc"]
    own = copies(place, tmp_path / "own", *names)
    clip(own / "red" / "d.mp4", "red", frames=10)
    (own / "green" / "d.mp4").write_bytes(b"no video at all")
    status, out, _ = fit(own)
    assert status == 0
    damaged, short = (record.message for record in caplog.records)
    assert "1 of 7 clips are shorter than the 1 s" in short
    assert "d.mp4, has 0.4 s: record longer ones" in short
    assert "green/d.mp4 is left out: " in damaged
    assert "7 clips" in out


def test_videos_outside_of_the_class_folders_are_named(fit, place, tmp_path, caplog):
    own = tmp_path / "own"
    clip(own / "loose.mp4", "red")
    status, _, err = fit(own)
    assert status == 2
    assert "are in no folder of a class; move those of each class into a folder" in err
    copies(place, own, *(f"{label}/{person}.mp4" for label in ("red", "green") for person in "ab"))
    status, out, _ = fit(own)
    assert status == 0
    assert "2 actions from 4 clips" in out
    assert any("in no folder of a class: 'loose.mp4'" in r.message for r in caplog.records)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["red/x.mp4"], "has one class, 'red'; add another class, or --negatives FOLDER"),
        (["red/x.mp4", "Red/x.mp4"], "differ in case or punctuation alone"),
        (["red/x.mp4", "green/x.txt"], "there is no video in the class folder 'green'"),
        ([], "there is no video in"),
    ],
)
def test_bad_folders_are_one_error(fit, place, tmp_path, names, says):
    (tmp_path / "own").mkdir()
    status, out, err = fit(copies(place, tmp_path / "own", *names))
    assert (status, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("dvfl-teach fit: error: ")
    assert says in line
    assert not (tmp_path / "mine.onnx").exists()


def test_one_video_in_place_of_a_folder_is_one_error(fit, place):
    status, _, err = fit(place / "clips" / "red" / "ben_2.mp4")
    assert status == 2
    assert "ben_2.mp4 is one video; give the folder that has a folder of videos for each" in err


def test_a_class_of_damaged_clips_alone_is_an_error(fit, place, tmp_path):
    own = copies(place, tmp_path / "own", "red/a.mp4", "red/b.mp4")
    (own / "green").mkdir()
    (own / "green" / "a.mp4").write_bytes(b"no video")
    status, _, err = fit(own)
    assert status == 2
    assert "no video of the class 'green' can be read" in err.splitlines()[-1]
    assert not (tmp_path / "mine.onnx").exists()


def test_other_bad_input_is_one_error(fit, place, tmp_path):
    write_colour_model(tmp_path / "mul.onnx")
    for result, says in (
        (fit(place / "nothing"), "there is no"),
        (fit(model=tmp_path / "nothing.onnx"), "cannot read model"),
        (fit(model=tmp_path / "mul.onnx"), "the head of this model is no linear layer"),
        (fit(place / "clips", "--confusion", "mine.onnx"), "both name mine.onnx"),
        (fit(place / "clips", "-o", "mine.txt"), "-o must end in .onnx, got mine.txt"),
        (fit(place / "clips", "--negatives", "nothing"), "--negatives: there is no nothing"),
        (fit(engine="abacus"), "unknown engine 'abacus'"),
    ):
        status, out, err = result
        assert (status, out) == (2, "")
        assert says in err
        assert len(err.splitlines()) == 1
    assert not (tmp_path / "mine.onnx").exists()


def test_without_onnx_the_error_names_it(fit, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    status, _, err = fit()
    assert status == 2
    assert "needs" in err
    assert "pip install" in err
    assert "onnx" in err


def test_windows_lie_as_those_of_a_stream_do(place):
    clips, length_s = cut_windows(place / "street/long.mp4", SPEC)
    assert length_s == pytest.approx(6.0, abs=0.01)
    assert len(clips) == 16
    assert clips[0].shape == (4, 8, 8, 3)
    clips, _ = cut_windows(place / "clips/red/ben_2.mp4", SPEC)
    assert len(clips) == 4  # 1.52 s: every quarter of a second, the last one at the end


@needs_shared
@pytest.mark.slow
def test_the_bundled_features_know_actions_of_other_persons(fit):
    status, out, _ = fit(DATA / "weizmann4" / "index.csv", model=BUNDLED_MODEL)
    assert status == 0
    assert "left out in turn: 100.0% of 28 clips" in out
    with Recognizer("mine.onnx", engine="onnxruntime") as recognizer:
        assert recognizer.artifact.confidence_calibration.report["ece_after"] < 0.05
        yoga = [recognizer.classify(path) for path in sorted((DATA / "yoga").glob("*.mp4"))[::12]]
        known = [recognizer.classify(path) for path in sorted((DATA / "weizmann4").glob("*.mp4"))]
    assert {answer.label for answer in yoga} == {"unknown"}
    assert sum(answer.unknown for answer in known) <= 1


def test_the_metadata_is_json(fit):
    fit()
    model = onnx.load("mine.onnx")
    (text,) = (entry.value for entry in model.metadata_props if entry.key == "dvfl")
    assert json.loads(text)["training"]["grouped_by"] == "the beginning of the file names"
