"""What somebody does in front of a camera, as it happens: python webcam_events.py 0"""

import sys

from dvfl_runtime import Recognizer

with Recognizer() as recognizer:
    # shorter actions than half a second are no events
    for event in recognizer.events(sys.argv[1], min_duration_s=0.5):
        if event.kind == "start":
            print(f"{event.now_s:6.1f} s  {event.label} since {event.start_s:.1f} s", flush=True)
        elif event.kind == "end":
            lasted_s = event.end_s - event.start_s
            print(f"{event.now_s:6.1f} s  {event.label} is over after {lasted_s:.1f} s", flush=True)
