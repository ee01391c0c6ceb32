import gc
import subprocess
import sys
import threading
import tracemalloc

import numpy as np
import pytest
from artifacts import LABELS, SPEC, artifact, colour_graph, coloured, save, write_colour_model
from frames import Watched
from videos import shared_clip, write_video

import dvfl_runtime
from dvfl_runtime import (
    ArtifactError,
    ClipError,
    DvflError,
    EngineUnavailable,
    FakeEngine,
    Recognizer,
    SourceError,
    recognizer,
)
from dvfl_runtime.clips import ring
from dvfl_runtime.streams.scoring import softmax


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_colour_model(tmp_path_factory.mktemp("model") / "m.onnx", labels=LABELS)


@pytest.fixture
def r(model):
    with Recognizer(model, num_threads=1) as opened:
        yield opened


def test_public_names():
    assert sorted(dvfl_runtime.__all__) == [
        *("ArgumentError", "Artifact", "ArtifactError", "ClipError", "ClipSpec", "DvflError"),
        *("EngineUnavailable", "Event", "FakeEngine", "Frame", "Grabbed", "Grabber", "Info"),
        *(
            "LiveOptions",
            "LiveSource",
            "OutputError",
            "Prediction",
            "Recognizer",
            "RtspGrabber",
            "Segment",
        ),
        *("Smoothing", "Source", "SourceError", "__version__"),
    ]
    assert all(hasattr(dvfl_runtime, name) for name in dvfl_runtime.__all__)


def test_import_is_slim():
    heavy = "{'torch', 'onnx', 'onnxruntime', 'cv2', 'av', 'openvino', 'tensorrt'}"
    code = f"import sys, dvfl_runtime, dvfl_runtime.app.cli; print({heavy} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_predict_knows_rgb_from_bgr(r):
    for colour in LABELS:
        clip = np.stack(coloured((colour, SPEC.num_frames), height=19, width=33))
        got = r.predict(clip, top_k=2)
        assert got.label == colour == r.labels[got.class_id]
        assert got.scores.dtype == np.float32
        assert got.scores.sum() == pytest.approx(1)
        assert got.confidence == got.scores[got.class_id] > 0.99
        assert got.top[0] == (colour, got.confidence)
        assert len(got.top) == 2
        assert got.latency_ms > 0
        assert (got.source, got.dropped_frames) == ("", 0)


def test_info_says_what_runs(model):
    r = Recognizer(model, engine="onnxruntime")
    info = r.info
    assert (info.model, info.name) == (str(model), "colours")
    assert (info.engine, info.provider, info.device) == (
        *("onnxruntime", "CPUExecutionProvider", "cpu"),
    )
    assert (info.precision, info.fused_ops) == ("fp32", ())
    assert info.versions["dvfl"] == dvfl_runtime.__version__
    assert "onnxruntime" in info.versions
    assert (r.spec, r.labels) == (SPEC, LABELS)


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (np.zeros((4, 9, 9, 3), np.float32), "uint8"),
        (np.zeros((9, 9, 3), np.uint8), "shape"),
        (np.zeros((4, 9, 9, 1), np.uint8), "RGB"),
        (np.zeros((0, 9, 9, 3), np.uint8), "takes 4 frames, got 0"),
        (np.zeros((5, 9, 9, 3), np.uint8), r"got 5; pick them with .* or stream\(\)"),
        ("clip", "numpy array"),
    ],
)
def test_wrong_clips_are_refused(r, clip, message):
    with pytest.raises(ClipError, match=message):
        r.predict(clip)


def test_stream_follows_the_colours_of_a_video(r, tmp_path):
    images = coloured(("red", 50), ("green", 50), ("blue", 50))
    path = write_video(tmp_path / "v.mp4", images, pix_fmt="yuv444p")
    got = list(r.stream(path, hop_s=0.5))
    assert [p.start_s for p in got] == pytest.approx(np.arange(11) / 2)
    assert [p.label[0] for p in got if p.end_s <= 2 or p.start_s >= 4] == list("rrrbbb")
    assert {p.source for p in got} == {str(path)}
    in_memory = list(r.stream(images, hop_s=0.5))
    assert max(np.abs(a.scores - b.scores).max() for a, b in zip(got, in_memory, strict=True)) < 0.2


def test_segments_cover_the_video_with_the_right_labels(r):
    found = list(r.segments(coloured(("red", 75), ("green", 75), ("red", 75))))
    assert [s.label for s in found] == ["red", "green", "red"]
    assert [s.start_s for s in found] == pytest.approx([0, 3, 6], abs=0.5)
    assert found[-1].end_s == pytest.approx(9, abs=0.3)
    assert found[0].source == "frames"


def test_a_short_video_gives_one_prediction(r):
    (only,) = r.stream(coloured(("blue", 3)))
    assert (only.label, only.start_s, only.end_s) == ("blue", 0.0, pytest.approx(0.12))


@pytest.mark.parametrize(("hop_s", "windows", "count"), [(0.05, 29, 52), (0.25, 7, 31)])
def test_each_frame_is_preprocessed_once_and_only_if_a_window_picks_it(
    r, monkeypatch, hop_s, windows, count
):
    calls = []
    real = ring.preprocess_frame
    monkeypatch.setattr(
        ring,
        "preprocess_frame",
        lambda image, spec, out: calls.append(image[0, 0, 0]) or real(image, spec, out=out),
    )
    images = [np.full((8, 8, 3), n, np.uint8) for n in range(60)]
    assert len(list(r.stream(images, hop_s=hop_s))) == windows
    # all of the first window, for a stream might end before it is full; then 4 a second
    assert calls == sorted(set(calls))
    assert len(calls) == count


def test_stream_is_lazy_and_releases_its_source(r):
    source = Watched(coloured(("red", 100)))
    predictions = r.stream(source)
    assert source.passes == 0
    next(predictions)
    assert (source.passes, source.ended) == (1, 0)
    predictions.close()
    assert (source.ended, source.closed) == (1, 0)  # who opened it closes it

    opened = []

    def once(images):
        try:
            yield from images
        finally:
            opened.append("ended")

    found = r.segments(once(coloured(("red", 40), ("blue", 400))))
    next(found)
    found.close()
    gc.collect()
    assert opened == ["ended"]


def test_a_failing_source_is_released_too(r):
    source = Watched([*coloured(("red", 30)), *[np.zeros((3, 3), np.uint8)] * 5])
    with pytest.raises(ClipError):
        list(r.stream(source))
    assert source.ended == 1


def test_memory_is_bounded_by_the_window(r):
    def endless(count):
        for n in range(count):
            yield np.full((200, 200, 3), n % 250, np.uint8)

    peaks = []
    for count in (100, 1500):
        tracemalloc.start()
        for _ in r.stream(endless(count)):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 300_000  # three frames of 1400


@pytest.mark.parametrize("use", ["stream", "segments"])
def test_sources_without_frames_are_refused(r, use):
    for source in (iter([]), [], Watched([])):
        with pytest.raises(SourceError, match="frames"):
            list(getattr(r, use)(source))
        with pytest.raises(SourceError, match="frames"):
            r.classify(source)


def test_numbers_out_of_range_are_refused_before_iteration(r):
    for bad in ({"window_s": 0}, {"hop_s": 0}, {"top_k": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))} must be"):
            r.stream([], **bad)
    with pytest.raises(ValueError, match="hop_s"):
        r.segments([], hop_s=-1)


def test_after_close_everything_raises(model):
    r = Recognizer(model)
    running = r.stream(coloured(("red", 100)))
    next(running)
    r.close()
    r.close()
    clip = np.zeros((4, 8, 8, 3), np.uint8)
    for call in (
        lambda: r.predict(clip),
        lambda: r.classify([clip[0]]),
        lambda: r.stream([clip[0]]),
        lambda: r.segments([clip[0]]),
        r.__enter__,
        lambda: next(running),
    ):
        with pytest.raises(DvflError, match="closed"):
            call()


def test_predict_from_several_threads(r):
    clips = {c: np.stack(coloured((c, SPEC.num_frames))) for c in LABELS}
    wrong = []

    def work(colour):
        wrong.extend(1 for _ in range(40) if r.predict(clips[colour]).label != colour)

    threads = [threading.Thread(target=work, args=(c,)) for c in LABELS * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_softmax_is_stable():
    assert softmax(np.array([1e30, -1e30, 0], np.float32)).tolist() == [1, 0, 0]
    got = softmax(np.array([1.0, 2.0, 3.0], np.float32))
    assert got == pytest.approx([0.09003057, 0.24472847, 0.66524096], rel=1e-6)
    assert got.dtype == np.float32


def test_labels_must_match_the_logits(tmp_path):
    path = write_colour_model(tmp_path / "m.onnx", labels=("a", "b"))
    with pytest.raises(ArtifactError, match="has 2 labels for 3 logits"):
        Recognizer(path)


def test_the_spec_must_match_the_graph(tmp_path):
    path = save(
        colour_graph(dvfl_runtime.ClipSpec(num_frames=5, size=(8, 8), resize=8)),
        tmp_path / "m.onnx",
        {"dvfl": artifact().to_json()},
    )
    with pytest.raises(ArtifactError, match=r"takes clips of shape .*5.* makes .*4"):
        Recognizer(path)


def test_answers_that_cannot_be_are_refused():
    clip = np.zeros((4, 8, 8, 3), np.uint8)
    with pytest.raises(ArtifactError, match="has 3 labels for 2 logits"):
        Recognizer(artifact(), engine=FakeEngine([0.5, 0.5]))
    engine = FakeEngine(lambda clips: [[0.5, 0.5]])
    with (
        Recognizer(artifact(), engine=engine) as r,
        pytest.raises(ArtifactError, match=r"logits of shape \(1, 2\)"),
    ):
        r.predict(clip)
    engine = FakeEngine(lambda clips: [[0.5, 0.5, np.nan]])
    with (
        Recognizer(artifact(), engine=engine) as r,
        pytest.raises(ArtifactError, match="not finite"),
    ):
        r.predict(clip)


def test_an_artifact_alone_cannot_run():
    with pytest.raises(ArtifactError, match="an Artifact has no graph"):
        Recognizer(artifact())


def test_a_missing_bundled_model_is_explained(monkeypatch, tmp_path):
    monkeypatch.setattr(recognizer, "BUNDLED_MODEL", tmp_path / "bundled.onnx")
    with pytest.raises(ArtifactError, match="bundled model is not part of this installation"):
        Recognizer()


def test_unknown_engines_and_devices_are_refused(model):
    with pytest.raises(EngineUnavailable, match="unknown engine"):
        Recognizer(model, engine="caffe")
    with pytest.raises(EngineUnavailable, match="unknown device"):
        Recognizer(model, device="npu")


@pytest.mark.parametrize(
    "name", ["mm_demo.mp4", "dvfl_golfswing.gif", "ucf_BaseballPitch.avi", "tc_av1_video.mkv"]
)
def test_real_clips(r, name):
    path = shared_clip(name)
    predictions = list(r.stream(path))
    whole = r.classify(path)
    assert predictions[0].start_s == whole.start_s == 0.0
    assert predictions[-1].end_s <= whole.end_s + 0.1
