"""Tell an MQTT broker what begins and ends: python mqtt_events.py SOURCE HOST[:PORT] [TOPIC]

pip install paho-mqtt
mosquitto_sub -h HOST -t 'dvfl/#' -v
"""

import json
import sys

import paho.mqtt.client as mqtt

from dvfl_runtime import Recognizer

source, (host, _, port) = sys.argv[1], sys.argv[2].partition(":")
topic = sys.argv[3] if len(sys.argv) > 3 else "dvfl"
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
client.max_queued_messages_set(1000)  # kept while the broker is away; older ones are lost
client.connect_async(host, int(port or 1883))
client.loop_start()  # connects in its own thread, again and again: recognition does not wait
last = None
with Recognizer() as recognizer:
    for event in recognizer.events(source):
        if event.kind != "update":
            row = json.dumps(event.to_dict())
            last = client.publish(f"{topic}/{event.label}", row, qos=1)
if last is not None:
    last.wait_for_publish(timeout=10)
client.disconnect()
client.loop_stop()
