"""Seconds of each action in rows of dvfl-archive, and failures: python archive_report.py ROWS"""

import sys

import pyarrow.compute as pc
import pyarrow.dataset as ds

rows = ds.dataset(sys.argv[1], format="parquet")
for batch in rows.to_batches(columns=["path", "error"], filter=pc.field("status") == "failed"):
    for row in batch.to_pylist():
        print(f"{row['path']}: {row['error']}", file=sys.stderr)

seconds: dict[str, float] = {}
for batch in rows.to_batches(columns=["segments"]):  # a part at a time: memory stays small
    for spans in batch.column("segments").to_pylist():
        for span in spans:
            length_s = span["end_s"] - span["start_s"]
            seconds[span["label"]] = seconds.get(span["label"], 0.0) + length_s
for label, total_s in sorted(seconds.items(), key=lambda item: -item[1]):
    print(f"{total_s:10.2f} s  {label}")
