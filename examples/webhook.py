"""Send what begins and ends to a web address; dvfl-recognize runs this for each event:

dvfl-recognize 0 --on-event "python webhook.py https://example.org/hook"
"""

import sys
import urllib.request

event = sys.stdin.buffer.read()  # one JSON object: event, label, start_s, end_s, source ...
request = urllib.request.Request(sys.argv[1], event, {"Content-Type": "application/json"})
with urllib.request.urlopen(request, timeout=10):
    pass  # an answer that is an error ends this with one too, and dvfl-recognize says so
