"""Ring when an action lasts: python alarm_when_it_lasts.py SOURCE LABEL SECONDS"""

import sys

from dvfl_runtime import Recognizer

source, label, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
since_s: float | None = None  # when the action began, on the source's clock
rang = False
with Recognizer() as recognizer:
    for prediction in recognizer.stream(source, hop_s=0.25):
        if prediction.label != label or prediction.confidence < 0.6:
            since_s, rang = None, False
            continue
        since_s = prediction.start_s if since_s is None else since_s
        if not rang and prediction.end_s - since_s >= seconds:
            rang = True  # once for each time it happens
            print(f"{label} for {seconds:g} s, since {since_s:.1f} s")
