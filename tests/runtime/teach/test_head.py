"""The linear head: what it learns, how it is chosen, what is not tested, what is unknown to it."""

import dataclasses

import numpy as np
import pytest

from dvfl_runtime.clips.labelled import LabelledVideo, LabelledVideos
from dvfl_runtime.streams.scoring import softmax
from dvfl_runtime.teach.confidence import learn_confidence
from dvfl_runtime.teach.familiarity import Familiarity, units
from dvfl_runtime.teach.features import VideoFeatures
from dvfl_runtime.teach.head import MOST_FOLDS, STRENGTHS, Examples, fit_heads, teach_head

WIDTH = 12


def examples(
    counts: dict[str, int], groups: int = 4, spread: float = 0.5, mirrored: float = 0.0
) -> Examples:
    """Return clips of classes around a centre each; `mirrored` moves the mirror images away."""
    rng = np.random.default_rng(0)
    videos, features = [], []
    for k, (label, count) in enumerate(counts.items()):
        for n in range(count):
            windows = int(rng.integers(1, 4))
            plain = 3 * np.eye(WIDTH)[k] + rng.normal(scale=spread, size=(windows, WIDTH))
            other = np.roll(plain, 1, axis=1) if mirrored else plain
            videos.append(LabelledVideo(None, label, f"g{n % groups}"))
            features.append(VideoFeatures(plain.astype("f"), other.astype("f"), 3.0))
    return Examples.of(LabelledVideos(tuple(counts), tuple(videos), "x"), features)


def right(some: Examples, logits) -> float:
    means = some.video_means(np.asarray(logits, np.float64))
    return float((means.argmax(1) == some.class_of).mean())


def test_separate_classes_are_learnt_and_known_in_groups_that_were_left_out():
    some = examples({"a": 8, "b": 8, "c": 8})
    head, found = teach_head(some)
    assert head.weight.shape == (WIDTH, 3)
    assert right(some, head.logits(some.plain)) == 1
    assert right(some, found.logits) == 1
    assert found.tested.all()
    assert found.folds == 4


def test_without_a_cause_to_learn_the_scores_are_even():
    rng = np.random.default_rng(1)
    some = examples({"a": 20, "b": 20}, groups=10)
    noise = rng.normal(size=some.plain.shape).astype("f")
    some = dataclasses.replace(some, plain=noise, mirrored=noise)
    head, found = teach_head(some)
    assert softmax(head.logits(noise)).max(1).mean() < 0.65
    assert 0.2 < right(some, found.logits) < 0.8


@pytest.mark.parametrize("count", [2, 40])  # fewer windows than features, and more
def test_a_fit_is_the_ridge_solution(count):
    some = examples({"a": count, "b": 2})
    (head,) = fit_heads(some, np.array([0.1]), mirror=False)
    w, x = some.weights(), some.plain.astype(float)
    y = np.eye(2)[some.class_of[some.video]]
    mean, root = w @ x, np.sqrt(w)[:, None]
    z = (x - mean) / np.sqrt(w @ (x - mean) ** 2)
    # the same problem as least squares with further rows
    a = np.concatenate([root * z, np.sqrt(0.1) * np.eye(WIDTH)])
    b = np.concatenate([root * (y - w @ y), np.zeros((WIDTH, 2))])
    wanted = z @ np.linalg.lstsq(a, b, rcond=None)[0] + w @ y
    np.testing.assert_allclose(head.logits(some.plain), wanted, atol=1e-4)


def test_classes_weigh_the_same_and_videos_too_whatever_their_length():
    some = examples({"a": 20, "b": 2})
    weights = some.weights()
    truth = some.class_of[some.video]
    assert weights[truth == 0].sum() == pytest.approx(0.5)
    per_video = np.bincount(some.video, weights)
    np.testing.assert_allclose(per_video[some.class_of == 1], 0.25)


def test_mirror_images_are_learnt_only_where_they_help():
    # mirrored, each class looks like the next one
    sided = examples({"left": 8, "right": 8, "up": 8}, mirrored=1.0)
    assert not teach_head(sided)[1].mirror
    # each person was recorded from one side, so that the other one is known by mirror images alone
    plain = examples({"a": 8, "b": 8, "c": 8}, groups=2)
    left = plain.group_of[plain.video] == 1
    seen = np.where(left[:, None], np.roll(plain.plain, 6, axis=1), plain.plain)
    sides = dataclasses.replace(plain, plain=seen, mirrored=np.roll(seen, 6, axis=1))
    found = teach_head(sides)[1]
    assert found.mirror
    assert right(sides, found.logits) == 1


def test_a_class_in_one_group_is_learnt_and_not_tested():
    some = examples({"a": 6, "b": 6, "once": 1})
    head, found = teach_head(some)
    assert head.bias.shape == (3,)
    assert found.tested.tolist() == [True] * 12 + [False]


@pytest.mark.parametrize("counts", [{"a": 1, "b": 1}, {"a": 3, "b": 3}])
def test_where_nothing_can_be_left_out_nothing_is_claimed(counts):
    some = examples(counts, groups=1)
    head, found = teach_head(some)
    assert not found.tested.any()
    assert found.strength in STRENGTHS
    assert right(some, head.logits(some.plain)) == 1


def test_many_groups_are_left_out_several_at_a_time():
    some = examples({"a": 60, "b": 60}, groups=60)
    assert teach_head(some)[1].folds == MOST_FOLDS


def test_the_confidence_is_that_of_what_was_left_out():
    some = examples({"a": 40, "b": 40}, groups=40, spread=2.5)
    _, found = teach_head(some)
    answers = found.logits.argmax(1) == some.class_of[some.video]
    confidence = softmax(found.logits.astype("f")).max(1)
    assert abs(confidence.mean() - answers.mean()) < 0.06


def test_what_is_like_the_clips_is_familiar_and_the_rest_is_not():
    some = examples({"a": 30, "b": 30, "idle": 30}, groups=6, spread=0.3)
    _, validation = teach_head(some)
    familiarity, calibration = learn_confidence(some, validation)
    assert calibration.report["kept"] == pytest.approx(0.95, abs=0.02)
    assert calibration.report["videos"] == 90
    assert calibration.report["ece_after"] < 0.1
    assert (familiarity.share(some.plain) == 1).all()
    new = examples({"a": 30, "b": 30, "idle": 30}, groups=6, spread=0.3)
    near = new.plain + np.random.default_rng(5).normal(scale=0.05, size=new.plain.shape)
    assert (familiarity.share(near.astype("f")) == 1).mean() > 0.9
    strange = np.roll(new.plain, 6, axis=1)
    assert (familiarity.share(strange) == 0).mean() > 0.95
    even = np.full(3, 1 / 3, np.float32)
    assert calibration.is_unknown(even)


@pytest.mark.parametrize(
    ("counts", "groups"),
    [({"a": 4, "b": 4}, 4), ({"a": 20, "b": 20}, 1), ({"idle": 30}, 6)],
)
def test_without_enough_clips_to_leave_out_there_is_no_rule(counts, groups):
    some = examples(counts, groups)
    assert learn_confidence(some, teach_head(some)[1]) is None


def test_features_that_are_all_alike_and_features_of_zeros_divide_by_nothing():
    same = Familiarity(units(np.ones((3, WIDTH), np.float32)).T, 1.0)
    shares = same.share(np.stack([np.ones(WIDTH), np.zeros(WIDTH)]).astype("f"))
    np.testing.assert_allclose(shares, [[1], [0]], atol=1e-3)
