"""Results as plain values, which are the same wherever they are written."""

import io
import json

import numpy as np
from artifacts import SPEC

from dvfl_runtime import Artifact, FakeEngine, Recognizer, Segment
from dvfl_runtime.console.output import JsonlWriter, JsonSegments

ARTIFACT = Artifact(name="n", variant="v", labels=("idle", "wäve"), spec=SPEC)
CLIP = np.zeros((SPEC.num_frames, 8, 8, 3), np.uint8)


def test_results_are_json_types_alone():
    with Recognizer(ARTIFACT, engine=FakeEngine([0.25, 0.75])) as recognizer:
        prediction = recognizer.predict(CLIP, top_k=2)
        info = recognizer.info.to_dict()
    values = prediction.to_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["top"] == [["wäve", 0.75], ["idle", 0.25]]
    assert json.loads(json.dumps(info)) == info
    assert (info["engine"], info["fused_ops"]) == ("fake", [])


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
