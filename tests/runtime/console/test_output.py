"""What writers make of predictions and segments."""

import io
import json

import numpy as np
import pytest
from artifacts import SPEC

from dvfl_runtime import Artifact, FakeEngine, Recognizer, Segment
from dvfl_runtime.console.output import JsonlWriter, JsonSegments, format_time

ARTIFACT = Artifact(name="n", variant="v", labels=("idle", "wäve"), spec=SPEC)
CLIP = np.zeros((SPEC.num_frames, 8, 8, 3), np.uint8)


def test_writers_tell_what_to_dict_tells():
    with Recognizer(ARTIFACT, engine=FakeEngine([0.25, 0.75])) as recognizer:
        prediction = recognizer.predict(CLIP)
    rows, document = io.StringIO(), io.StringIO()
    JsonlWriter(rows).write(prediction)
    assert json.loads(rows.getvalue()) == {"schema": 1, **prediction.to_dict()}
    segment = Segment(np.float64(0.12345678), 1, "wäve", np.float32(0.5), source="a.mp4")
    writer = JsonSegments(document)
    writer.write(segment)
    writer.finish()
    (told,) = json.loads(document.getvalue())["segments"]
    assert told == segment.to_dict()
    assert told["start_s"] == 0.123457


@pytest.mark.parametrize(
    ("time_s", "text"),
    [
        (0, "0.00"),
        (59.996, "1:00.00"),
        (63.5, "1:03.50"),
        (7263.5, "2:01:03.50"),
        (-0.001, "0.00"),
        (-1.5, "-1.50"),
    ],
)
def test_times_are_shown_as_people_read_them(time_s, text):
    assert format_time(time_s) == text


def test_an_empty_segment_document_is_valid():
    stream = io.StringIO()
    JsonSegments(stream).finish()
    assert json.loads(stream.getvalue()) == {"schema": 1, "segments": []}
