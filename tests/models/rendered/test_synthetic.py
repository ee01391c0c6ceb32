"""Tests of the renderer of synthetic actions."""

import numpy as np
import pytest

from dvfl_models.rendered import synthetic
from dvfl_models.rendered.figures import Person, body_points
from dvfl_models.rendered.poses import pose_angles
from dvfl_models.rendered.synthetic import ACTIONS, render_clip, render_video

_TIMES = np.linspace(0.0, 5.0, 60)


def _joints(action: str, seed: int) -> dict[str, np.ndarray]:
    person = synthetic.Scene.sample(seed, action, clean=True).people[0]
    style = person.styles[ACTIONS.index(action)]
    return body_points(pose_angles(action, _TIMES, style), person)


@pytest.mark.parametrize("action", ACTIONS)
def test_clip_is_deterministic_and_seeds_differ(action: str) -> None:
    clip = render_clip(action, seed=3).images
    assert clip.shape == (8, 64, 64, 3)
    assert clip.dtype == np.uint8
    np.testing.assert_array_equal(clip, render_clip(action, seed=3).images)
    assert not np.array_equal(clip, render_clip(action, seed=4).images)


@pytest.mark.parametrize("window_s", [0.8, 2.0, 6.0])
def test_clip_takes_any_window_and_size(window_s: float) -> None:
    clip = render_clip("idle", seed=1, num_frames=3, window_s=window_s, size=(40, 56)).images
    assert clip.shape == (3, 40, 56, 3)


def test_empty_scenes_render() -> None:
    seed = next(s for s in range(100) if not synthetic.Scene.sample(s, "idle").people)
    assert render_clip("idle", seed=seed).images.shape == (8, 64, 64, 3)


def test_video_has_the_length_of_its_timeline() -> None:
    timeline = [("idle", 0.5), ("bend", 1.7), ("wave_one_hand", 0.33)]
    frames = list(render_video(timeline, seed=5, fps=10.0, size=(48, 64)))
    assert len(frames) == 25
    assert all(f.shape == (48, 64, 3) and f.dtype == np.uint8 for f in frames)
    again = render_video(timeline, seed=5, fps=10.0, size=(48, 64))
    np.testing.assert_array_equal(frames[0], next(again))


def test_video_label_changes_at_the_boundary() -> None:
    frames = list(render_video([("idle", 1.0), ("jumping_jack", 1.0)], seed=2, size=(48, 48)))
    change = np.abs(np.diff(np.stack(frames).astype(float), axis=0)).mean((1, 2, 3))
    assert change[:20].mean() * 2 < change[28:].mean()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: render_clip("dance", seed=0), "unknown action 'dance'; use one of idle"),
        (lambda: render_clip("idle", seed=0, num_frames=0), "num_frames is 0; use a positive"),
        (lambda: render_clip("idle", seed=0, window_s=-1.0), "window_s is -1.0"),
        (lambda: render_clip("idle", seed=0, size=(0, 64)), "height is 0"),
        (lambda: render_video([("idle", 0.0)], seed=0), "seconds is 0.0"),
        (lambda: render_video([("idle", 1.0)], seed=0, fps=0.0), "fps is 0.0"),
        (lambda: render_video([("jump", 1.0)], seed=0), "unknown action 'jump'"),
    ],
)
def test_errors_say_what_is_wrong(call: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()  # type: ignore[operator]


def test_motion_grows_from_idle_to_jumping_jack() -> None:
    def energy(action: str) -> float:
        total = 0.0
        for seed in range(5):
            timeline = [(action, 2.0)]
            clip = np.stack(list(render_video(timeline, seed=seed, fps=8.0, size=(48, 48))))
            total += float(np.abs(np.diff(clip.astype(float), axis=0)).mean())
        return total

    idle, wave, jack = (energy(a) for a in ("idle", "wave_one_hand", "jumping_jack"))
    assert idle < wave < jack


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("action", "arms"), [("wave_one_hand", 1), ("wave_two_hands", 2)])
def test_waving_raises_the_right_number_of_arms(action: str, arms: int, seed: int) -> None:
    points = _joints(action, seed)
    above = [
        (points[f"{s}_wrist"] - points[f"{s}_shoulder"])[:, 1].mean() > 0.02 for s in ("l", "r")
    ]
    assert sum(above) == arms


@pytest.mark.parametrize("seed", range(5))
def test_jumping_jack_opens_the_legs_and_lifts_the_arms(seed: int) -> None:
    points = _joints("jumping_jack", seed)
    apart = np.linalg.norm((points["l_ankle"] - points["r_ankle"])[:, [0, 2]], axis=1)
    assert apart.max() > 0.25
    assert apart.min() < 0.18
    for side in ("l", "r"):
        lift = (points[f"{side}_wrist"] - points[f"{side}_shoulder"])[:, 1]
        assert lift.max() > 0.1
        assert lift.min() < -0.1


@pytest.mark.parametrize("seed", range(5))
def test_bend_brings_the_head_down_to_the_hips(seed: int) -> None:
    points = _joints("bend", seed)
    gap = (points["head"] - points["l_hip"])[:, 1]
    assert gap.min() < 0.22
    assert gap.max() > 0.3
    reach = np.minimum(points["l_hand"][:, 1], points["r_hand"][:, 1])
    assert reach.min() < 0.4


@pytest.mark.parametrize("window_s", [0.8, 2.0, 4.0, 6.0])
def test_bend_clip_shows_bending(monkeypatch: pytest.MonkeyPatch, window_s: float) -> None:
    shown: list[np.ndarray] = []

    def record(pose: np.ndarray, person: Person) -> dict[str, np.ndarray]:
        points = body_points(pose, person)
        trunk = points["chest"] - (points["l_hip"] + points["r_hip"]) / 2
        shown.append(np.degrees(np.arctan2(np.hypot(trunk[:, 0], trunk[:, 2]), trunk[:, 1])))
        return points

    monkeypatch.setattr(synthetic, "body_points", record)
    for seed in range(12):
        shown.clear()
        render_clip("bend", seed=seed, window_s=window_s, size=(16, 16))
        assert (shown[0] > 45).sum() >= 2


def test_contact_sheet_has_a_row_per_clip() -> None:
    sheet = synthetic.contact_sheet(columns=3, rows_per_action=1, size=(32, 32))
    assert sheet.shape == (5 * 32, 110 + 3 * 32, 3)
