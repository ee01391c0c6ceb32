import numpy as np
import pytest
from artifacts import artifact, coloured, write_colour_model

from dvfl_runtime import Artifact, ArtifactError, FakeEngine, Recognizer, Smoothing
from dvfl_runtime.artifact import ConfidenceCalibration, fit_calibration
from dvfl_runtime.artifact.calibration import auroc, expected_calibration_error
from dvfl_runtime.results import to_json_row
from dvfl_runtime.streams.scoring import softmax

NAMES = ("idle", "wave", "bend")


def drawn(count, gain, seed=0, classes=3):
    """Return logits whose scores at temperature 1 are right as often as they say, times a gain."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (count, classes))
    scores = softmax(logits)
    truth = np.array([rng.choice(classes, p=row / row.sum()) for row in scores.astype(float)])
    return gain * logits, truth


@pytest.mark.parametrize("gain", [0.3, 1.0, 4.0])
def test_the_temperature_undoes_what_a_model_is_too_sure_of(gain):
    logits, truth = drawn(3000, gain)
    found = fit_calibration(logits, truth, NAMES)
    assert found.temperature == pytest.approx(gain, rel=0.1)
    assert found.report["ece_after"] < 0.03
    if gain != 1:
        assert found.report["ece_before"] > 2 * found.report["ece_after"]
    assert found.min_margin == 0


def test_a_model_without_a_mistake_may_not_be_as_sure_as_it_likes():
    truth = np.arange(12) % 3
    found = fit_calibration(np.eye(3)[truth] * 5, truth, NAMES)
    sure = softmax(np.array([[5.0, 0, 0]], np.float32), found.temperature).max()
    assert 0.8 < sure < 0.99


def test_what_the_model_does_not_know_is_unknown_and_the_actions_are_kept():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 3, 300)
    known = np.eye(3)[truth] * 6 + rng.normal(0, 0.5, (300, 3))
    foreign = rng.normal(0, 1, (400, 3))
    found = fit_calibration(known, truth, NAMES, foreign)
    assert found.report["kept"] == pytest.approx(0.95, abs=0.02)
    assert found.report["rejected"] > 0.95
    assert set(found.report["auroc"]) == {"margin", "max_softmax", "max_logit", "energy"}
    assert "warning" not in found.report
    scores = softmax(np.array([[0, 6, 0], [1, 1.5, 0]], np.float32), found.temperature)
    assert [found.is_unknown(row) for row in scores] == [False, True]


def test_negatives_that_hold_the_actions_and_too_few_of_them_give_a_warning_and_no_rule():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 3, 300)
    known = np.eye(3)[truth] * 6 + rng.normal(0, 0.5, (300, 3))
    same = fit_calibration(known[::2], truth[::2], NAMES, known[1::2])
    assert same.min_margin == 0
    assert "look like the actions" in same.report["warning"]
    few = fit_calibration(known, truth, NAMES, rng.normal(0, 1, (5, 3)))
    assert few.min_margin == 0
    assert "too few" in few.report["warning"]
    idle = fit_calibration(known, truth, NAMES, np.tile([5.0, 0, 0], (50, 1)))
    assert (idle.min_margin, idle.report["negatives_called_actions"]) == (0, 0)


@pytest.mark.parametrize(
    ("logits", "class_ids", "message"),
    [
        (np.zeros((5, 3)), np.zeros(5, int), "at least 10 held-back clips, got 5"),
        (np.zeros((12, 4)), np.zeros(12, int), r"must be \(12, 3\)"),
        (np.zeros((12, 3)), np.full(12, 3), "from 0 to 2, got 3"),
    ],
)
def test_what_cannot_be_fitted_is_one_error(logits, class_ids, message):
    with pytest.raises(ValueError, match=message):
        fit_calibration(logits, class_ids, NAMES)


def test_figures_by_hand():
    scores = [[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]]
    assert expected_calibration_error(scores, [0, 1, 0, 0]) == pytest.approx((0.4 + 0.4) / 2)
    assert auroc(np.array([2.0, 3]), np.array([1.0, 2])) == pytest.approx(3.5 / 4)


def test_a_calibration_travels_in_the_file_and_a_file_without_it_is_as_before():
    plain = artifact()
    assert "confidence_calibration" not in plain.to_json()
    calibration = ConfidenceCalibration(2.0, 1.5, {"clips": 20})
    made = artifact(confidence_calibration=calibration)
    assert Artifact.from_json(made.to_json()) == made
    assert made.format_version == plain.format_version
    for bad in ('"temperature": 2.0', '"min_margin": 1.5'):
        with pytest.raises(ArtifactError, match="metadata is wrong"):
            Artifact.from_json(made.to_json().replace(bad, bad.split(":")[0] + ": -1"))
    with pytest.raises(ValueError, match="a ConfidenceCalibration"):
        artifact(confidence_calibration={"temperature": 2})


def test_scores_are_calibrated_and_unknown_is_a_decision_that_leaves_them(tmp_path):
    labels = ("red", "green", "unknown")
    clip = np.full((4, 8, 8, 3), (120, 100, 0), np.uint8)
    path = tmp_path / "m.onnx"
    with Recognizer(write_colour_model(path, labels=labels), num_threads=1) as r:
        plain = r.predict(clip)
    with Recognizer(
        write_colour_model(
            path, labels=labels, confidence_calibration=ConfidenceCalibration(2.0, 1.5)
        ),
        num_threads=1,
    ) as r:
        found = r.predict(clip)
        sure = r.predict(np.full((4, 8, 8, 3), (250, 5, 5), np.uint8))
        whole = r.classify(coloured(("red", 20)))
    wanted = softmax(np.log(plain.scores), 2.0)
    np.testing.assert_allclose(found.scores, wanted, atol=1e-6)
    assert (found.label, found.class_id, found.unknown) == ("unknown", -1, True)
    assert found.confidence == pytest.approx(1 - found.scores.max())
    assert found.top[0][0] == "red"
    assert '"unknown": true' in to_json_row(found)
    assert (sure.label, sure.unknown, plain.unknown) == ("red", False, False)
    assert whole.label == "red"


def test_an_unknown_window_begins_no_action_and_cuts_none_short():
    def scores(clips):
        level = clips[:, 0, 0, 0, 0].astype(float) / 255
        return np.stack([1 - level, level, np.zeros_like(level)], axis=1)

    described = artifact(labels=NAMES, confidence_calibration=ConfidenceCalibration(1.0, 2.2))
    grey = [(30, 20), (150, 10), (250, 10), (150, 10), (30, 20), (150, 20)]
    frames = [np.full((16, 16, 3), level, np.uint8) for level, count in grey for _ in range(count)]
    with Recognizer(described, engine=FakeEngine(scores)) as r:
        rule = Smoothing(enter=0.5, leave=0.5)
        found = list(r.segments(frames, smoothing=rule, fps=10, hop_s=0.25))
    assert [s.label for s in found] == ["idle", "wave", "idle", "unknown"]
    assert found[1].end_s - found[1].start_s == pytest.approx(3, abs=0.3)
