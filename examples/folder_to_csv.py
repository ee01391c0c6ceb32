"""Actions of all videos of a folder as one CSV: python folder_to_csv.py FOLDER > actions.csv"""

import csv
import sys
from pathlib import Path

from dvfl_runtime import DvflError, Recognizer

rows = csv.writer(sys.stdout)
rows.writerow(["video", "start_s", "end_s", "action", "confidence"])
with Recognizer() as recognizer:
    for path in sorted(Path(sys.argv[1]).rglob("*.mp4")):
        try:
            for segment in recognizer.segments(path):
                times = f"{segment.start_s:.2f}", f"{segment.end_s:.2f}"
                rows.writerow([path.name, *times, segment.label, f"{segment.confidence:.2f}"])
        except DvflError as err:  # a damaged file: say so, go on with the next
            print(f"{path}: {err}", file=sys.stderr)
