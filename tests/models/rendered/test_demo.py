"""Tests of the bundled demo clip and of the script that renders it."""

import contextlib
import itertools
from pathlib import Path

import av
import numpy as np
import pytest

import dvfl_runtime
from dvfl_models.rendered import demo
from dvfl_models.rendered.synthetic import ACTIONS
from dvfl_runtime.sources import open_source

CLIP = Path(dvfl_runtime.__file__).parent / "data" / "demo.mp4"
TOTAL_S = sum(seconds for _, seconds in demo.DEMO_TIMELINE)


def test_timeline_shows_every_action_and_rests_in_between() -> None:
    actions = [action for action, _ in demo.DEMO_TIMELINE]
    assert set(actions) == set(ACTIONS)
    assert all("idle" in pair and len(set(pair)) == 2 for pair in itertools.pairwise(actions))
    assert all(3.5 <= seconds <= 5 for _, seconds in demo.DEMO_TIMELINE)


def test_label_follows_the_timeline() -> None:
    assert [demo.demo_label(t) for t in (0.0, 3.49, 3.5)] == ["idle", "idle", "wave_one_hand"]
    assert demo.demo_label(TOTAL_S - 0.04) == demo.DEMO_TIMELINE[-1][0]


@pytest.mark.parametrize("time_s", [-0.1, TOTAL_S, float("nan")])
def test_label_outside_of_the_clip_is_an_error(time_s: float) -> None:
    with pytest.raises(ValueError, match="time_s must be >= 0 and <"):
        demo.demo_label(time_s)


def test_bundled_clip_is_small_and_is_what_the_script_renders() -> None:
    assert CLIP.stat().st_size <= 300_000
    with contextlib.closing(open_source(str(CLIP))) as source:
        decoded = list(source.frames())
    assert len(decoded) == TOTAL_S * demo.FPS
    np.testing.assert_allclose([f.time_s for f in decoded], np.arange(len(decoded)) / demo.FPS)
    # a person who differs moves or looks otherwise in one of them
    for k in (0, 40, 120, 500, 700):
        assert np.abs(decoded[k].image.astype(float) - demo.demo_frame(k / demo.FPS)).mean() < 3


def test_script_writes_a_complete_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo, "DEMO_TIMELINE", (("idle", 0.2), ("bend", 0.4)))
    out = tmp_path / "clip.mp4"
    demo.main([str(out), "--seed", "3"])
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
    with av.open(str(out)) as container:
        video = container.streams.video[0]
        assert (video.codec_context.name, video.format.name) == ("h264", "yuv420p")
        assert sum(1 for _ in container.decode(video)) == 15
