"""The study of what the clips held back are worth, on runs that are done."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from videos import pictures, write_video

from dvfl_export.own_actions import worth
from dvfl_export.own_actions.worth import main, summary
from dvfl_models import build_model
from dvfl_models.network.checkpoint import save_checkpoint
from dvfl_runtime import ClipSpec

SPEC = ClipSpec(num_frames=2, size=(32, 32), crop="letterbox")


def test_finished_runs_are_tested_on_the_groups_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = ["file,label,person"]
    for number in range(8):
        label, person = "ab"[number % 2], number // 2
        images = [np.roll(image, 7 * number, 1) for image in pictures(4, 36, 40)]
        write_video(tmp_path / f"{number}.mp4", images)
        rows.append(f"{number}.mp4,{label},{person}")
    (tmp_path / "index.csv").write_text("\n".join(rows))

    def make(wanted: worth.OwnActions) -> None:
        listed = list(csv.DictReader(wanted.place.read_text().splitlines()))
        assert {row["group"] for row in listed}.isdisjoint("2" if "fold0" in str(wanted) else "3")
        about = {"variant": "femto", "labels": ["a", "b"], "spec": SPEC.to_dict(), "training": {}}
        for name in worth.WEIGHTS:
            (wanted.folder / name).mkdir(parents=True)
            torch.manual_seed(0)
            save_checkpoint(
                wanted.folder / name / "final.pth", build_model("femto", num_classes=2), about=about
            )
        found = {"tests": {"held_back": {"top1": {"value": 0.5, "clips": 2}}}}
        (wanted.folder / "measured" / "results.json").write_text(json.dumps(found))

    monkeypatch.setattr(worth, "make", make)
    out = tmp_path / "out.json"
    words = [str(tmp_path / "index.csv"), "--fold", "2", "--fold", "3", "--runs"]
    words += [str(tmp_path / "runs"), "--json", str(out)]
    assert main(words) == 0
    monkeypatch.setattr(worth, "make", shutil.rmtree)  # finished runs are not made again
    assert main(words) == 0
    found = json.loads(out.read_text())
    assert [run["fold"] for run in found["runs"]] == [["2"], ["3"]]
    assert found["all"] == found["measured"]
    assert (found["all"]["clips"], found["held_back"]["accuracy"]) == (4, 0.5)


def test_the_summary_is_a_mean_over_seeds_with_the_interval_of_one() -> None:
    def run(seed: int, right: float) -> dict:
        part = {"value": right / 10, "clips": 10}
        return {"seed": seed, "held_back": part, "measured": part, "all": part}

    found = summary([run(seed, right) for seed in (0, 1) for right in (6, 10)])
    assert found["all"]["accuracy"] == 0.8
    assert found["all"]["clips"] == 20
    assert found["all"]["ci95"] == pytest.approx([0.584, 0.919], abs=1e-3)
