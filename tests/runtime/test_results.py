"""Results as plain values, which are the same wherever they are written."""

import json

import numpy as np
from artifacts import SPEC

from dvfl_runtime import Artifact, FakeEngine, Recognizer

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
