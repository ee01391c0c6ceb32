"""What a file knows, added to it: the same answers to what is alike, and none to the rest."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from artifacts import artifact, colour_graph, coloured, save
from onnx import helper, numpy_helper
from videos import write_video

from dvfl_export.confidence.familiar import main
from dvfl_runtime import ClipSpec, Recognizer
from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.teach.graph import without_familiarity

SPEC = ClipSpec(num_frames=4, size=(32, 32), resize=32, window_s=1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of colours with a linear head, clips of two of them by three persons, and a third."""
    path = tmp_path_factory.mktemp("familiar")
    model = colour_graph(SPEC)
    model.graph.initializer.append(numpy_helper.from_array(np.eye(3, dtype=np.float32) / 20, "w"))
    model.graph.node[-1].CopyFrom(helper.make_node("MatMul", ["mean", "w"], ["logits"]))
    save(model, path / "m.onnx", {"dvfl": artifact(spec=SPEC).to_json()})
    for label in ("red", "green"):
        (path / "clips" / label).mkdir(parents=True)
        for person in ("anna", "ben", "cy"):
            place = path / "clips" / label / f"{person}_1.mp4"
            write_video(place, coloured((label, 38)), pix_fmt="yuv444p")
    write_video(path / "blue.mp4", coloured(("blue", 38)), pix_fmt="yuv444p")
    return path


def test_what_is_unlike_the_known_clips_is_unknown(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "knowing.onnx"
    words = [folder / "m.onnx", "-o", out, "--known", folder / "clips"]
    assert main([*map(str, words)]) == 0
    plain, knowing = ModelFile(folder / "m.onnx"), ModelFile(out)
    assert plain.artifact.confidence_calibration is None
    report = knowing.artifact.confidence_calibration.report["familiar"]
    assert report["known_windows"] == 6 * 4
    with Recognizer(out, engine="onnxruntime") as new, Recognizer(plain.path) as old:
        red, blue = folder / "clips/red/anna_1.mp4", folder / "blue.mp4"
        assert new.classify(red).label == "red"
        np.testing.assert_allclose(new.classify(red).scores, old.classify(red).scores, atol=1e-4)
        assert (old.classify(blue).label, new.classify(blue).label) == ("blue", "unknown")
    # another time it takes the place of the first one
    words[0], words[2] = out, tmp_path / "again.onnx"
    assert main([*map(str, words)]) == 0
    graph = onnx.load(words[2]).graph
    assert [w.name for w in graph.initializer].count("familiarity/references") == 1
    with Recognizer(words[2], engine="onnxruntime") as again:
        assert [again.classify(path).label for path in (red, blue)] == ["red", "unknown"]
    assert b"familiarity/" not in without_familiarity(out.read_bytes())


def test_drawn_people_are_known_too(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "knowing.onnx"
    assert main([str(folder / "m.onnx"), "-o", str(out), "--rendered", "20"]) == 0
    report = ModelFile(out).artifact.confidence_calibration.report["familiar"]
    assert report["known_windows"] == 20
    assert 0.9 < report["least"] <= 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["m.onnx", "-o", "o.onnx"], "nothing is known; give --known CLIPS, or --rendered N"),
        (["m.onnx", "-o", "o.onnx", "--known", "none"], "there is no"),
        (["none.onnx", "-o", "o.onnx", "--known", "clips"], "cannot read model none.onnx"),
        (["m.onnx", "-o", "m.onnx", "--known", "clips"], "m.onnx"),
    ],
)
def test_bad_input_is_one_line(folder, words, says, monkeypatch, capsys) -> None:
    monkeypatch.chdir(folder)
    assert main(words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert says in line
    assert not Path("o.onnx").exists()
