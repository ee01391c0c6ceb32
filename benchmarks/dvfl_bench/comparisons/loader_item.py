"""Reads training clips in a process of its own, as one version of the code does it.

`loader` starts it with that version's packages on the path. Each line on its input asks for items
of a video, each line of its output is their cost; both are JSON.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LABELS = ["a", "b"]
# the augmentation of the recipes of UCF101
AUGMENT = {
    "crop": [0.4, 1.0],
    "flip": 0.5,
    "jitter": 0.4,
    "grey": 0.2,
    "mixup": 0.8,
    "cutmix": 1.0,
    "degrees": 0,
    "translate": 0,
    "scale": [1, 1],
    "degrade": 0,
}


def recipe_of(path: str, size: int, window_s: list[float], folder: Path) -> Any:
    """Return a recipe whose only video is this one, listed once for each clip of a step."""
    index = folder / "index.csv"
    index.write_text("file,label\n" + "".join(f"{path},{label}\n" for label in LABELS))
    listed = {"kind": "videos", "name": "v", "index": str(index), "window_s": window_s}
    values = {
        "name": "loader",
        "labels": LABELS,
        "model": {"variant": "nano"},
        "clip": {"num_frames": 8, "size": [size, size]},
        "train": [listed],
        "optim": {"epochs": 1000, "batch_size": 2},
        "augment": AUGMENT,
    }
    return importlib.import_module("dvfl_models.recipe.recipe").recipe_from(values, "loader")


def cost_of_items(recipe: Any, items: int) -> dict[str, float | None]:
    """Return the processor time of the first item and of the following ones, ms each, and memory.

    In older versions an item is a whole batch, augmented and mixed, so its time is divided by the
    number of its clips. In newer ones it is a clip, and the rest of the work, which training does
    on its device, is measured separately, on the CPU.
    """
    batches = importlib.import_module("dvfl_models.data.batches")
    growth_mb = memory_growth()
    if hasattr(batches, "TrainingBatches"):
        steps = batches.TrainingBatches(recipe)
        first = elapsed_ms(lambda: steps[0]) / 2
        later = elapsed_ms(lambda: [steps[step] for step in range(1, items // 2 + 1)])
        later /= items // 2 * 2
        return {"first_ms": first, "later_ms": later, "growth_mb": growth_mb()}
    torch = importlib.import_module("torch")
    clips = importlib.import_module("dvfl_models.data.training_clips").TrainingClips(recipe)
    first = elapsed_ms(lambda: clips[0])
    later = elapsed_ms(lambda: [clips[n] for n in range(1, items + 1)]) / items
    growth = growth_mb()
    inputs = batches.InputMaker(recipe, torch.device("cpu"))
    batch = batches.batch_of(clips, 0)
    device = elapsed_ms(lambda: inputs.make(batch, 0)) / 2
    return {"first_ms": first, "later_ms": later, "device_ms": device, "growth_mb": growth}


def memory_growth() -> Callable[[], float | None]:
    """Return a function that returns how far memory has risen since this call, 1e6 bytes.

    The function returns `None` on systems other than Linux.
    """
    status, begin = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def kb(name: str) -> int:
        return int(status.read_text().partition(f"{name}:")[2].split()[0])

    try:
        begin.write_text("5")  # the peak begins anew
        before_kb = kb("VmRSS")
    except OSError:
        return lambda: None
    return lambda: (kb("VmHWM") - before_kb) * 1024 / 1e6


def elapsed_ms(work: Callable[[], object]) -> float:
    """Return the processor time of some work, of all threads, ms."""
    begin_ns = time.process_time_ns()
    work()
    return (time.process_time_ns() - begin_ns) / 1e6


def main() -> None:
    """Answer the lines of the input."""
    torch, cv2 = importlib.import_module("torch"), importlib.import_module("cv2")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            asked = json.loads(line)
            recipe = recipe_of(asked["path"], asked["size"], asked["window_s"], Path(folder))
            sys.stdout.write(json.dumps(cost_of_items(recipe, asked["items"])) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
