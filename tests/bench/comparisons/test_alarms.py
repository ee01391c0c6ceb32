"""The figures of each threshold, from known predictions, and clips that are joined to one video."""

import argparse
import json
from itertools import pairwise
from pathlib import Path

import pytest
from artifacts import coloured
from predictions import LABELS, waving
from videos import write_video

from dvfl_bench.comparisons.alarm_search import BLOCK, search
from dvfl_bench.comparisons.alarms import (
    STILL_S,
    Seen,
    Timed,
    draw,
    figures,
    join,
    main,
    shares_of,
)
from dvfl_bench.comparisons.segments import Span
from dvfl_export.confidence.alarms import Watched
from dvfl_models.recipe.recipe import read_recipe
from dvfl_runtime.clips.labelled import LabelledVideo
from dvfl_runtime.errors import RecipeError


def test_figures_follow_from_predictions(tmp_path: Path) -> None:
    calm = Watched([waving(*[0.1] * 20, 0.96, 0.96, 0.1)], [""])
    clips = Watched([waving(0.97, 0.97)], ["wave"])
    truth = [Span(0, 4.5, "idle"), Span(4.5, 8.5, "wave"), Span(8.5, 12, "idle")]
    video = Timed(truth, waving(*[0.1] * 4, 0.7, 0.93, 0.93, 0.7, 0.1, 0.1, 0.1))
    found = figures(LABELS, Seen(calm, clips, [video], [video], [video]))
    points = {point["enter"]: point for point in found["curve"]}
    assert points[0.9]["f1_joined"] == points[0.9]["f1_rendered"] == 1
    assert points[0.9]["time_to_decision_ms"] == {"median": 2500, "p90": 2500}
    assert (points[0.95]["missed"], points[0.95]["actions"]) == (1, 1)
    assert points[0.95]["time_to_decision_ms"]["median"] is None
    assert points[0.95]["f1_joined"] < 1
    assert found["default"] is points[0.9]
    draw({"model": "m", **found}, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_the_rule_is_chosen_on_one_half_and_measured_on_the_other() -> None:
    # 0.93: a ratio of 27 to each of the others, 0.95: of 38, so a margin of 3.4 parts them
    calm = Watched(
        [waving(*[0.1] * 9, 0.93, 0.93, 0.1) for _ in range(2 * BLOCK)], [""] * 2 * BLOCK
    )
    clips = Watched([waving(0.95, 0.95)], ["wave"])
    truth = [Span(0, 4.5, "idle"), Span(4.5, 8.5, "wave"), Span(8.5, 12, "idle")]
    video = Timed(truth, waving(*[0.1] * 4, 0.7, 0.95, 0.95, 0.7, 0.1, 0.1, 0.1))
    found = search(LABELS, Seen(calm, clips, [video], [video], [video, video]))
    rows = found["rows"]
    assert rows["default"]["chosen_on"]["alarms"] == BLOCK
    assert rows["enter"]["measured_on"]["alarms"] == BLOCK  # 0.95 in float32 is less
    assert (rows["margin"]["margin"], rows["margin"]["measured_on"]["alarms"]) == (3.4, 0)
    assert rows["margin"]["measured_on"]["recall"] == 1
    assert rows["margin"]["measured_on"]["f1_joined"] == 1
    assert list(found["margins_measured_on"]) == ["0.0", "3.0", "3.2", "3.4", "3.6", "4.0"]


@pytest.mark.parametrize("still", [False, True])
def test_clips_are_joined_and_their_times_known(tmp_path: Path, still: bool) -> None:
    videos = []
    for n, label in enumerate(["wave", "wave", "bend"]):
        path = write_video(tmp_path / f"{n}.mp4", coloured(("red", 25)))
        videos.append(LabelledVideo(path, label, ""))
    images, truth = join(videos, still=still, seed=0)
    assert len(images) == 75 + still * 3 * STILL_S * 25
    assert truth[0].start_s == 0
    assert truth[-1].end_s == len(images) / 25
    assert all(a.end_s == b.start_s for a, b in pairwise(truth))
    assert all(a.label != b.label for a, b in pairwise(truth))
    if still:
        assert [span.end_s - span.start_s for span in truth] == [3, 1] * 3


def test_each_run_is_shown_what_it_held_out(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for kind, label in (("clips", "bend"), ("others", "Bowling")):
            write_video(tmp_path / f"{kind}_{name}.mp4", coloured(("red", 9)))
            with (tmp_path / f"{kind}.csv").open("a", encoding="utf-8") as index:
                index.write("file,label,group\n" * (name == "a"))
                index.write(f"{kind}_{name}.mp4,{label},{name}\n")
    (tmp_path / "more").mkdir()
    write_video(tmp_path / "more" / "1.mp4", coloured(("red", 9)))
    recipe = read_recipe("bundled_last").model_dump(mode="json")
    for name in ("a", "b"):
        held_out = {"kind": "videos", "only": {"group": [name]}}
        clips = {"name": "clips", "index": str(tmp_path / "clips.csv"), **held_out}
        others = {"name": "others", "index": str(tmp_path / "others.csv"), **held_out}
        recipe["test"] = [clips, {**others, "rename": {"Bowling": "idle"}}]
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "recipe.json").write_text(json.dumps(recipe))
    args = argparse.Namespace(runs=tmp_path / "runs", negatives=[tmp_path / "more"], videos=3)
    first, second = shares_of(args)
    assert first.model == tmp_path / "runs" / "a" / "model.onnx"
    assert [(video.path.name, video.label) for video in first.clips] == [("clips_a.mp4", "bend")]
    assert [path.name for path in first.negatives] == ["others_a.mp4", "1.mp4"]
    assert [path.name for path in second.negatives] == ["others_b.mp4"]
    assert (len(first.seeds), len(second.seeds)) == (2, 1)
    with pytest.raises(RecipeError, match=r"no folder in it has a recipe\.json"):
        shares_of(argparse.Namespace(runs=tmp_path, negatives=[], videos=3))


def test_what_is_not_there_is_one_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = ["--clips", str(tmp_path / "none"), "--negatives", str(tmp_path)]
    assert main(words) == 2
    assert "there is no" in caplog.text
