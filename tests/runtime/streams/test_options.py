"""The arguments of a stream."""

import numpy as np

from dvfl_runtime import Frame, LiveSource, RtspGrabber
from dvfl_runtime.streams.options import as_sources


def test_a_list_of_sources_is_told_from_a_list_of_frames():
    image, video = np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4, 4, 3), np.uint8)
    frame, camera = Frame(image, 0.0, 0), LiveSource("cam", RtspGrabber("rtsp://cam"))
    for one in ("a.mp4", 0, video, [image, image], [frame], [], iter([image]), camera, (image,)):
        assert as_sources(one) == [one] or as_sources(one)[0] is one
    for some in (["a.mp4"], [0, "rtsp://x"], (camera, "a"), [video, video], [[image], "a.mp4"]):
        assert as_sources(some) is some
