"""Take over a new model file without losing the camera: python teach_and_reload.py CAMERA mine.onnx

In another terminal, as often as you like: dvfl-teach fit clips/ -o mine.onnx
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import av

from dvfl_runtime import Frame, Recognizer


def pictures(source: str) -> Iterator[Frame]:
    """Give the pictures of an address (rtsp://...) or a file at its own pace."""
    form = "v4l2" if source.startswith("/dev/") else None
    with av.open(source, format=form) as video:
        for index, picture in enumerate(video.decode(video=0)):
            yield Frame(picture.to_ndarray(format="rgb24"), picture.time, index)


frames, model = pictures(sys.argv[1]), Path(sys.argv[2])  # the frames go on from model to model
while True:
    written_ns = model.stat().st_mtime_ns  # a new file is put in place when it is complete
    with Recognizer(model) as recognizer:
        print("knows", ", ".join(recognizer.labels), flush=True)
        for prediction in recognizer.stream(frames):
            print(f"{prediction.end_s:6.1f} s  {prediction.label}", flush=True)
            if model.stat().st_mtime_ns != written_ns:
                break
        else:
            break  # the camera has ended
