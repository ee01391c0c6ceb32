"""The study of how many clips own actions need, on videos of one colour each."""

import csv
import json
import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from artifacts import artifact, colour_graph, coloured, save
from onnx import helper, numpy_helper
from videos import write_video

from dvfl_bench.comparisons import own_actions, own_training, unknown
from dvfl_runtime.clips.labelled import LabelledVideo, LabelledVideos
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.teach.features import VideoFeatures
from dvfl_runtime.teach.head import Examples

SPEC = ClipSpec(num_frames=4, size=(8, 8), resize=8, window_s=1.0)


@pytest.fixture
def model(tmp_path):
    graph = colour_graph(SPEC)
    graph.graph.initializer.append(numpy_helper.from_array(np.eye(3, dtype=np.float32), "w"))
    graph.graph.node[-1].CopyFrom(helper.make_node("MatMul", ["mean", "w"], ["logits"]))
    return save(graph, tmp_path / "m.onnx", {"dvfl": artifact(spec=SPEC).to_json()})


@pytest.fixture
def coloured_set(tmp_path):
    """Return a folder of two classes of four persons."""
    for label in ("red", "green"):
        for person in ("anna", "ben", "cy", "di"):
            path = tmp_path / "set" / label / f"{person}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, coloured((label, 30), height=16, width=16), pix_fmt="yuv444p")
    return tmp_path / "set"


def test_each_method_learns_the_same_clips_and_is_tested_on_other_groups(
    tmp_path, model, coloured_set, caplog
):
    words = [coloured_set, "--model", model, "--draws", 2, "--json", tmp_path / "r.json"]
    assert own_actions.main([*map(str, words), "--plot", str(tmp_path / "r.png")]) == 0
    result = json.loads((tmp_path / "r.json").read_text())
    found = result["sets"]["set"]
    assert (found["classes"], found["clips"], found["groups"]) == (2, 8, 4)
    for count in ("2", "5", "12", "all"):
        rows = {method: row[count] for method, row in found["methods"].items()}
        assert {row["answers"] for row in rows.values()} == {4}  # a group of two clips, twice
        assert rows["network"]["accuracy"] == rows["one frame"]["accuracy"] == 1
        assert rows["dvfl-teach fit"]["accuracy"] == 1
        # no colour moves, and all files are alike
        assert rows["optical flow"]["accuracy"] == rows["metadata"]["accuracy"] == 0.5
        assert rows["motion"]["accuracy"] == 0.5
    assert "| set, 2 classes | dvfl-teach fit | 100.0% (51% to 100%)" in own_actions.table_of(
        result
    )
    assert cv2.imread(str(tmp_path / "r.png")) is not None
    again = [*words[:-1], tmp_path / "again.json", "--baselines", tmp_path / "r.json"]
    assert own_actions.main([*map(str, again)]) == 0
    assert json.loads((tmp_path / "again.json").read_text())["sets"] == result["sets"]
    again[4] = 3  # draws
    assert own_actions.main([*map(str, again)]) == 2
    assert "it has 2 draws, wanted 3" in caplog.text


def test_training_and_teaching_learn_the_same_clips_and_finished_draws_are_kept(
    tmp_path, model, coloured_set, monkeypatch
):
    index = tmp_path / "colours" / "index.csv"
    index.parent.mkdir()
    rows = [[path, path.parent.name, path.stem] for path in sorted(coloured_set.rglob("*.mp4"))]
    with index.open("w", newline="") as file:
        csv.writer(file).writerows([["file", "label", "group"], *rows])
    wanted = []

    def make(actions):  # the training itself takes minutes
        wanted.append(list(csv.DictReader(actions.place.read_text().splitlines())))
        shutil.copy(model, actions.output)
        return SimpleNamespace(stopped=None)

    monkeypatch.setattr(own_training, "make", make)
    words = [index, "--model", model, "--counts", 2, "--draws", 2, "--runs", tmp_path / "runs"]
    words += ["--json", tmp_path / "r.json"]
    for _ in range(2):
        assert own_training.main([*map(str, words)]) == 0
    assert len(wanted) == 2  # draws, once each
    assert all(
        len(learnt) == 4 and {row["group"] for row in learnt} == {"all"} for learnt in wanted
    )
    found = json.loads((tmp_path / "r.json").read_text())["sets"]["colours"]["learnt"]["2"]
    for row, learnt in zip(found["rows"], wanted, strict=True):
        videos = sorted(map(str, coloured_set.rglob("*.mp4")))
        assert {row["file"] for row in learnt}.isdisjoint(videos[v] for v in row["tested"])
    assert found["dvfl-teach fit"]["accuracy"] == found["dvfl-train FOLDER"]["accuracy"] == 1
    assert found["difference"]["difference"] == 0


def test_what_a_taught_head_calls_unknown_is_measured_by_both_rules():
    rng = np.random.default_rng(0)
    videos = [LabelledVideo(None, "abc"[n % 3], f"g{n % 8}") for n in range(72)]
    features = [
        VideoFeatures(*[(3 * np.eye(8)[n % 3] + rng.normal(0, 0.3, (2, 8))).astype("f")] * 2, 3.0)
        for n in range(72)
    ]
    found = LabelledVideos(("a", "b", "c"), tuple(videos), "x")
    strange = rng.normal(0, 1, (50, 8)).astype("f")
    result = unknown.measure_set(found, Examples.of(found, features), {"noise": strange}, draws=2)
    shares = result["called_unknown"]
    assert list(shares) == ["known", "noise", "a class left out"]
    assert shares["known"]["distance"] < 0.25
    assert shares["noise"]["distance"] > 0.8
    assert shares["a class left out"]["distance"] > 0.8
    assert result["ece_after"] < 0.1
    cards = unknown.test_cards(SPEC)
    assert {card.shape for card in cards} == {(4, 8, 8, 3)}
    assert len({card.tobytes() for card in cards}) == len(cards)


def test_flow_tells_where_what_moves_and_in_which_direction():
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 255, (64, 32), np.uint8).repeat(3).reshape(64, 32, 3)
    texture = cv2.GaussianBlur(texture, (0, 0), 2)
    before, after = (np.full((64, 64, 3), 90, np.uint8) for _ in range(2))
    before[:, :32] = texture
    after[:, 1:32] = texture[:, :-1]
    flow = own_actions.flow_of([(before, after)]).reshape(4, 4, 8)
    assert flow[:, :2].sum() > 5 * flow[:, 3:].sum()
    right, left = flow[:, :2, [0, 7]].sum(), flow[:, :2, [3, 4]].sum()
    assert right > 3 * left
