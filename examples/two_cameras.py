"""Two cameras, one engine: python two_cameras.py 0 rtsp://NAME:PASSWORD@camera/live

One that is lost does not stop the other; it is tried again until it is back.
"""

import logging
import sys

from dvfl_runtime import Recognizer

logging.basicConfig(level=logging.INFO)  # says when a camera is lost, and when it is back
with Recognizer(focus="motion") as recognizer:
    for prediction in recognizer.stream(sys.argv[1:], hop_s=0.5):
        if prediction.label not in ("idle", "unknown"):
            print(f"{prediction.source}: {prediction.label} ({prediction.confidence:.0%})")
