"""What was taken for what, as a picture."""

from __future__ import annotations

import os

import numpy as np

from dvfl_runtime.clips.accuracy import Answers
from dvfl_runtime.draw.lettering import put_text
from dvfl_runtime.errors import OutputError
from dvfl_runtime.errors.packages import MEDIA, needed
from dvfl_runtime.files import replacing
from dvfl_runtime.sources import Image

CELL_PX, NAMES_PX, TITLE_PX, LETTER_PX = 56, 150, 64, 17
WHITE, BLACK, MOST = (255, 255, 255), (20, 20, 20), (8, 48, 107)
MOST_CLASSES = 60  # a picture of more could not be read


def save_answers(answers: Answers, path: str | os.PathLike[str], title: str) -> None:
    """Write a matrix of true classes and answers; its format follows from the suffix of the path.

    Raises:
        OutputError: if it cannot be written, or there are too many classes for a picture.
        DvflError: if OpenCV is not installed.
    """
    with needed("drawing", *MEDIA):
        import cv2
    if len(answers.labels) > MOST_CLASSES:
        raise OutputError(
            f"a picture of {len(answers.labels)} classes could not be read, and {MOST_CLASSES} are "
            f"the most; leave out --confusion"
        )
    image = draw_answers(answers, title)
    with replacing(path) as part:
        try:
            done = cv2.imwrite(str(part), image[:, :, ::-1])
        except cv2.error:  # a suffix that it does not know
            done = False
        if not done:
            raise OutputError(f"cannot write the picture {os.fspath(path)}; name it .png")


def draw_answers(answers: Answers, title: str) -> Image:
    """Return the picture of a matrix, (H, W, 3) RGB: a row for each class, a column per answer."""
    counts, number = answers.counts, len(answers.labels)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = number * CELL_PX
    image = np.full((TITLE_PX + side + NAMES_PX, NAMES_PX + max(side, 240) + 8, 3), 255, np.uint8)
    put_text(image, f"{title}: {answers.summary()}", (8, 24), size=LETTER_PX,
             room=image.shape[1] - 16, colour=BLACK)  # fmt: skip
    put_text(image, "row: what it is, column: what it was taken for", (8, 48), size=LETTER_PX - 3,
             room=image.shape[1] - 16, colour=BLACK)  # fmt: skip
    for row in range(number):
        y = TITLE_PX + row * CELL_PX
        put_text(image, answers.labels[row], (8, y + CELL_PX // 2 + 6), size=LETTER_PX,
                 room=NAMES_PX - 16, colour=BLACK)  # fmt: skip
        for column in range(number):
            x, share = NAMES_PX + column * CELL_PX, shares[row, column]
            colour = np.array(WHITE) * (1 - share) + np.array(MOST) * share
            image[y + 1 : y + CELL_PX, x + 1 : x + CELL_PX] = colour.astype(np.uint8)
            if count := counts[row, column]:
                put_text(image, str(count), (x + 16, y + CELL_PX // 2 + 6), size=LETTER_PX,
                         room=CELL_PX - 16, colour=WHITE if share > 0.5 else BLACK)  # fmt: skip
    _write_columns(image, answers.labels, TITLE_PX + side)
    return image


def _write_columns(image: Image, labels: tuple[str, ...], top: int) -> None:
    """Write the names of the columns below the matrix, turned by a quarter."""
    names = np.full((len(labels) * CELL_PX, NAMES_PX, 3), 255, np.uint8)
    for number, label in enumerate(reversed(labels)):
        put_text(names, label, (8, number * CELL_PX + CELL_PX // 2 + 6), size=LETTER_PX,
                 room=NAMES_PX - 16, colour=BLACK)  # fmt: skip
    turned = np.rot90(names, k=-1)  # read from top to bottom; the first label comes first
    image[top : top + NAMES_PX, NAMES_PX : NAMES_PX + turned.shape[1]] = turned
