"""Switch a pin on while an action goes on: python gpio_pin.py SOURCE LABEL PIN

pip install gpiozero lgpio      # PIN as Broadcom counts: 17 is pin 11 of a Raspberry Pi's header
"""

import sys

from gpiozero import LED

from dvfl_runtime import Recognizer

source, label, pin = sys.argv[1:4]
with Recognizer() as recognizer, LED(int(pin)) as lamp:  # off at the end, whatever happens
    for event in recognizer.events(source):
        if event.label == label and event.kind == "start":
            lamp.on()
        elif event.label == label and event.kind == "end":
            lamp.off()
