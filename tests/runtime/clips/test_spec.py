import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvfl_runtime import ClipSpec


def test_defaults_are_the_official_ones():
    spec = ClipSpec()
    assert (spec.num_frames, spec.size, spec.resize, spec.crop) == (8, (224, 224), 256, "center")
    assert spec.mean == (123.675, 116.28, 103.53)


@pytest.mark.parametrize(
    ("size", "resize"),
    [((224, 224), 256), ((64, 64), 73), ((64, 112), 112), ((112, 100), 114), ((4096, 4096), 4096)],
)
def test_the_short_side_follows_from_the_size_in_the_official_ratio(size, resize):
    assert ClipSpec(size=size).resize == resize
    assert ClipSpec(size=size).to_dict()["resize"] == resize
    assert ClipSpec(size=(64, 64), resize=256).resize == 256  # what is said stays
    assert ClipSpec(size=size, crop="letterbox").resize is None


def test_a_file_must_say_its_short_side():
    values = ClipSpec(size=(64, 64)).to_dict()
    assert ClipSpec.from_dict({**values, "resize": 256}).resize == 256
    with pytest.raises(
        ValueError, match="resize must be a size in px with crop='center', got None"
    ):
        ClipSpec.from_dict({**values, "resize": None})
    assert ClipSpec.from_dict(ClipSpec(crop="letterbox").to_dict()).resize is None


@given(
    st.builds(
        ClipSpec,
        num_frames=st.integers(1, 64),
        size=st.tuples(st.integers(1, 256), st.integers(1, 256)),
        resize=st.integers(256, 512),
        mean=st.tuples(*[st.floats(0, 255)] * 3),
        std=st.tuples(*[st.floats(0.1, 255)] * 3),
        frame_interval=st.integers(1, 8),
        window_s=st.floats(0.1, 60),
        focus=st.sampled_from(["frame", "motion"]),
    )
)
def test_json_round_trip(spec):
    assert ClipSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"num_frames": 0}, "num_frames must be a whole number from 1 to 1024, got 0"),
        ({"size": (0, 4)}, "size must be"),
        ({"size": (4,)}, "size must be"),
        ({"crop": "squash"}, "crop must be one of"),
        ({"focus": "face"}, "focus must be one of"),
        ({"crop": "letterbox", "resize": 256}, "resize does not go with crop='letterbox', got 256"),
        ({"resize": 200}, "resize must be >= the crop"),
        ({"mean": (1, 2)}, "mean must be three"),
        ({"std": (1, 2, 0)}, "std must be a finite number > 0"),
        ({"std": (1, 2, float("inf"))}, "std must be a finite"),
        ({"frame_interval": 0}, "frame_interval must be a whole number from 1"),
        ({"num_frames": 65536}, "num_frames must be a whole number from 1 to 1024, got 65536"),
        ({"num_frames": 2.5}, "num_frames must be a whole number"),
        ({"num_frames": True}, "num_frames must be a whole number from 1 to 1024, got True"),
        (
            {"size": (8, 8192), "resize": 8192},
            "size must be a whole number from 1 to 4096, got 8192",
        ),
        ({"resize": 2**31}, "resize must be a whole number from 1 to 4096"),
        ({"window_s": 1e308}, "window_s must be a finite number > 0 and <= 3600"),
        ({"window_s": 0}, "window_s must be"),
        ({"window_s": float("nan")}, "window_s must be"),
    ],
)
def test_values_out_of_range_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        ClipSpec(**bad)


def test_names_must_be_known_and_complete():
    values = ClipSpec().to_dict()
    with pytest.raises(ValueError, match=r"unknown ClipSpec fields \['fps'\]"):
        ClipSpec.from_dict({**values, "fps": 3})
    del values["mean"]
    with pytest.raises(ValueError, match=r"missing ClipSpec fields \['mean'\]"):
        ClipSpec.from_dict(values)
