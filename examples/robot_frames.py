"""Pictures that a program already has, such as those of a robot's camera driver.

`pictures` stands for the driver: anything that gives RGB arrays (H, W, 3) with their times.
"""

from collections.abc import Iterator

import numpy as np

from dvfl_runtime import Frame, Recognizer


def pictures() -> Iterator[tuple[np.ndarray, float]]:
    """Give ten seconds of grey noise, 15 pictures a second."""
    random = np.random.default_rng(0)
    for number in range(150):
        yield random.integers(0, 255, (120, 160, 3), dtype=np.uint8), number / 15


frames = (Frame(image, time_s, index) for index, (image, time_s) in enumerate(pictures()))
with Recognizer() as recognizer:
    for prediction in recognizer.stream(frames):
        print(f"{prediction.start_s:5.1f} s  {prediction.label}")
