"""Who does what, by any detector with a tracker: python tracked_people.py VIDEO

pip install supervision
"""

import sys

import numpy as np
import supervision as sv

from dvfl_runtime import Frame, Recognizer


def detect(image: np.ndarray) -> sv.Detections:
    """Give the people in an RGB picture with their ids; put your detector and tracker here.

    With ultralytics: `Detections.from_ultralytics(yolo.track(image[..., ::-1], persist=True)[0])`
    """
    height, width = image.shape[:2]
    halves = [[0, 0, width / 2, height], [width / 2, 0, width, height]]
    return sv.Detections(np.array(halves), tracker_id=np.array([1, 2]))


def people(frame: Frame) -> list[tuple[int, tuple[float, ...]]]:
    """Give the id of each person with left, top, width and height of the box, 0 to 1."""
    found = detect(frame.image)
    if found.tracker_id is None:  # nobody is tracked yet
        return []
    height, width = frame.image.shape[:2]
    corners = found.xyxy / (width, height, width, height)
    boxes = np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
    return [(int(person), tuple(box)) for person, box in zip(found.tracker_id, boxes, strict=True)]


with Recognizer() as recognizer:
    for segment in recognizer.segments(sys.argv[1], regions=people):
        print(f"{segment.track_id}: {segment.label} {segment.start_s:.1f}-{segment.end_s:.1f} s")
