"""Wrong arguments of the public API: each is one error that is a DvflError and a ValueError."""

import math

import numpy as np
import pytest
from artifacts import SPEC

from dvfl_runtime import (
    ArgumentError,
    Artifact,
    ClipSpec,
    DvflError,
    FakeEngine,
    Recognizer,
    Smoothing,
)
from dvfl_runtime.clips.evaluation import Views
from dvfl_runtime.clips.sampling import nearest, uniform_indices, window_targets
from dvfl_runtime.errors.checks import check_choice, check_number, check_whole
from dvfl_runtime.sources import LiveOptions, LiveSource, RtspGrabber, open_source
from dvfl_runtime.sources.jetson.pipelines import CsiCamera
from dvfl_runtime.streams.options import StreamOptions

ARTIFACT = Artifact(name="n", variant="v", labels=("a", "b"), spec=SPEC)
CLIPS = np.zeros((2, 8, 8, 3), np.uint8)
NO_NUMBERS = (10**400, math.nan, math.inf, -math.inf, -1, "1", "", b"1", [1], True, object())
NO_WHOLES = (*NO_NUMBERS[1:], None, 0, 1.0, np.float32(1))


class _Camera:
    def open(self): ...
    def read(self): ...
    def close(self): ...


def recognizer():
    return Recognizer(ARTIFACT, engine=FakeEngine([0.5, 0.5]))


def stream(**options):
    return recognizer().stream(CLIPS, **options)


def segments(**options):
    return recognizer().segments(CLIPS, **options)


def artifact(**values):
    return Artifact(**{"name": "n", "variant": "v", "labels": ("a",), "spec": SPEC, **values})


def live_source(**values):
    return LiveSource(**{"name": "door", "grabber": _Camera(), **values})


def rtsp(**values):
    return RtspGrabber(**{"url": "rtsp://h/p", **values})


def opened(**values):
    return open_source(**{"source": CLIPS, **values})


def windows(**values):
    return window_targets(**{"start_s": 0.0, "window_s": 1.0, "num_frames": 4, **values})


def indices(**values):
    return uniform_indices(**{"total_frames": 9, "num_frames": 4, "frame_interval": 1, **values})


TRIED = [
    (stream, "top_k", NO_WHOLES),
    (stream, "max_batch", [v for v in NO_WHOLES if v is not None]),
    *((stream, name, NO_NUMBERS) for name in ("window_s", "hop_s", "max_wait_ms")),
    (stream, "fps", (*NO_NUMBERS, 0)),
    (stream, "pad", ("", "Repeat", 0, False, ["repeat"])),
    (segments, "smoothing", (0, "strong", {})),
    (segments, "hop_s", NO_NUMBERS),
    *((Smoothing, name, (*NO_NUMBERS, None)) for name in Smoothing.__dataclass_fields__),
    *((ClipSpec, name, NO_WHOLES) for name in ("num_frames", "frame_interval")),
    (ClipSpec, "resize", (*NO_WHOLES[:-4], 0, 1.0, 223, 10**5000)),
    (ClipSpec, "size", (0, None, (0, 224), (224,), (224.0, 224.0), "22", (1, 2, 3), [0, 224])),
    (ClipSpec, "crop", (None, "", "middle", ["center"])),
    *((ClipSpec, name, (1, None, (1, 2), "abc", (1, 2, math.nan))) for name in ("mean", "std")),
    (ClipSpec, "std", ((1, 2, 0),)),
    (ClipSpec, "window_s", (*NO_NUMBERS, None, 0, 1e9)),
    (ClipSpec.from_dict, "values", (None, 5, {}, {"nonsense": 1})),
    *((artifact, name, (None, 1, [])) for name in ("name", "variant", "training", "spec")),
    (artifact, "labels", (None, (), ("a", "a"), ("",), (1, 2))),
    *((artifact, name, (None, "", "x", -1, 1.5)) for name in ("precision", "macs")),
    (FakeEngine, "scores", ("ab", None, ["a"], object(), [-1, 2])),
    *((LiveOptions, name, (*NO_NUMBERS, 0)) for name in LiveOptions.__dataclass_fields__),
    (LiveOptions, "longest_pause_s", (0.1,)),
    (live_source, "name", (None, 1)),
    (live_source, "grabber", (None, 0, "rtsp://h")),
    (live_source, "options", (1, {"stall_s": 1})),
    (rtsp, "url", (None, 5, b"rtsp://h/p")),
    (rtsp, "transport", (None, "", "TCP", 1)),
    (rtsp, "read_timeout_s", (*NO_NUMBERS, None, 0)),
    (opened, "source", (None, 1.5, {}, object())),
    (opened, "fps", (*NO_NUMBERS, 0)),
    (opened, "live", (1, "fast")),
    (Views.parse, "views", (0, -1, None, "4x2", "x", 1.0, [4, 3])),
    (CsiCamera, "fps", (*NO_NUMBERS, None)),
    *((CsiCamera, name, NO_WHOLES) for name in ("width", "height")),
    (CsiCamera, "flip", (8, -1, None, "0")),
    (windows, "num_frames", NO_WHOLES),
    (windows, "window_s", (*NO_NUMBERS, None, 0)),
    *((indices, name, NO_WHOLES) for name in ("total_frames", "num_frames", "num_views")),
    (indices, "view", (1, -1, None, 0.0)),
    *((Recognizer, name, (0, 1.5, object(), "nonsense")) for name in ("engine", "device")),
    (Recognizer, "num_threads", [v for v in NO_WHOLES if v is not None]),
    (Recognizer, "model", (5, object(), ["m.onnx"], b"m.onnx")),
    *((StreamOptions, name, ("1", math.nan)) for name in ("max_batch", "max_wait_ms")),
]


@pytest.mark.parametrize(
    ("call", "name", "values"), TRIED, ids=lambda part: getattr(part, "__name__", None)
)
def test_a_wrong_argument_is_named(call, name, values):
    for value in values:
        with pytest.raises(ArgumentError) as raised:
            call(**{name: value})
        message = str(raised.value)
        assert isinstance(raised.value, DvflError)
        assert isinstance(raised.value, ValueError)
        assert len(message) < 300
        assert "\n" not in message


@pytest.mark.parametrize("value", ["x", None, 0, -1, 1.5, True])
def test_a_wrong_argument_of_a_call_is_named(value):
    with recognizer() as opened:
        for call in (opened.predict, opened.classify):
            with pytest.raises(ArgumentError, match="top_k must be a whole number >= 1, got "):
                call(np.zeros((4, 8, 8, 3), np.uint8), top_k=value)
        with pytest.raises(ArgumentError):
            opened.predict(value)
    with pytest.raises(ArgumentError):
        nearest([], [0.5])


def test_what_is_right_passes():
    check_whole("n", np.int16(3), 1, 3)
    check_number("x", np.float32(0.5), above=0, most=1)
    check_choice("c", None, (None, "a"))
    assert Smoothing(alpha=1, enter=1, leave=0, min_duration_s=0)
    assert LiveOptions(max_outage_s=None)
