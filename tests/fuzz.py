"""Damaged videos and model files by number, and processes that try what the runtime does with them.

    python tests/fuzz.py videos|models [FIRST COUNT]

A number always gives the same damage. Cases run in a worker process, so that a crash in native
code or a hang is a result like any other: the next case has a new worker.
"""

from __future__ import annotations

import json
import logging
import os
import random
import resource
import select
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
DATA = ROOT / "dvfl_runtime" / "data"
CLIPS = ROOT.parent / "shared" / "clips"
BUSY_S = 10.0  # of processor time, for one call of the public interface
HANG_S = 90.0  # for one call, on a machine that has other work
START_S = 60.0  # for a worker to import and to load the model
MEMORY_BYTES = 6 << 30  # of address space; a worker has 2.5 GB of it with both engines loaded
HEADER = 4096
ENGINES = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class Result:
    """What came of one call: "ok", "refused" by a DvflError, "slow", "error", "crash" or "hang"."""

    case: str
    call: str
    kind: str
    detail: str = ""
    seconds: float = 0.0
    megabytes: int = 0  # by which the worker's peak grew


def flip(data: bytearray, rng: random.Random, end: int | None = None) -> None:
    for _ in range(2 ** rng.randrange(9)):
        data[rng.randrange(min(end or len(data), len(data)))] ^= 1 << rng.randrange(8)


def flip_header(data: bytearray, rng: random.Random) -> None:
    flip(data, rng, HEADER)


def flip_tail(data: bytearray, rng: random.Random) -> None:
    """Many containers and every model file have their index or description at the end."""
    tail = data[-HEADER:]
    flip(tail, rng)
    data[-HEADER:] = tail


def truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def cut_out(data: bytearray, rng: random.Random) -> None:
    begin = rng.randrange(len(data))
    del data[begin : begin + 2 ** rng.randrange(16)]


def repeat(data: bytearray, rng: random.Random) -> None:
    begin = rng.randrange(len(data))
    data[begin:begin] = data[begin : begin + 2 ** rng.randrange(16)]


def overwrite(data: bytearray, rng: random.Random) -> None:
    """A field of all zeros or ones is a size, a count or a duration that nobody meant."""
    begin = rng.randrange(min(len(data), rng.choice((HEADER, len(data)))))
    length = rng.choice((1, 2, 4, 8, 512))
    data[begin : begin + length] = rng.choice((b"\x00", b"\xff", b"\x7f")) * length


DAMAGES = (flip, flip_header, flip_tail, truncate, cut_out, repeat, overwrite)


def splice(data: bytearray, other: bytes, rng: random.Random) -> None:
    """Puts the beginning of one file before the rest of another."""
    length = rng.randrange(1, HEADER)
    data[:length] = other[:length]


def video(number: int, folder: Path) -> Path:
    """Writes damaged video `number`."""
    rng = random.Random(f"video {number}")
    clips = [*sorted(CLIPS.glob("*.*")), DATA / "demo.mp4"]
    base, other = rng.choice(clips), rng.choice(clips)
    data = bytearray(base.read_bytes())
    if number % (len(DAMAGES) + 1) == len(DAMAGES):
        splice(data, other.read_bytes(), rng)
    else:
        DAMAGES[number % (len(DAMAGES) + 1)](data, rng)
    path = folder / f"{number}{base.suffix}"
    path.write_bytes(data)
    return path


def model(number: int, folder: Path) -> Path:
    """Writes damaged model file `number`."""
    rng = random.Random(f"model {number}")
    whole = (DATA / "bundled.onnx").read_bytes()
    if number % 2:  # the tiny one: nearly every byte of it says how the graph is built
        from artifacts import write_colour_model

        whole = write_colour_model(folder / "whole.onnx").read_bytes()
    data = bytearray(whole)
    how = number // 2 % (len(DAMAGES) + 8)  # half change what the engines themselves have to check
    if how < len(DAMAGES):
        DAMAGES[how](data, rng)
    elif how == len(DAMAGES):
        splice(data, rng.choice((b"\x08\x09" * HEADER, (DATA / "demo.mp4").read_bytes())), rng)
    else:
        change = (change_graph, change_description, change_graph, change_file)[how % 4]
        data = bytearray(change(whole, rng))
    path = folder / f"{number}.onnx"
    path.write_bytes(data)
    return path


def odd(rng: random.Random) -> int:
    return rng.choice((-1, 0, 1, 2, 3, 255, 65536, 2**31 - 1, 2**40, 2**62))


def change_graph(whole: bytes, rng: random.Random) -> bytes:
    """Returns a file that is good protobuf with a graph that makes no sense."""
    import onnx

    proto = onnx.ModelProto.FromString(whole)
    graph = proto.graph
    tensor, node = rng.choice(graph.initializer), rng.choice(graph.node)
    place = rng.randrange(7)
    if place == 0 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = odd(rng)
    elif place == 1:
        tensor.data_type = rng.randrange(24)
    elif place == 2:
        node.op_type = rng.choice(("Add", "Reshape", "Expand", "Tile", "Loop", "ConstantOfShape"))
    elif place == 3 and node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(graph.node).output[0]
    elif place == 4 and node.attribute:
        attribute = rng.choice(node.attribute)
        attribute.i = odd(rng)
        for i in range(len(attribute.ints)):
            attribute.ints[i] = odd(rng)
    elif place == 5:
        proto.opset_import[0].version = odd(rng)
    else:
        dims = rng.choice((graph.input[0], graph.output[0])).type.tensor_type.shape.dim
        dims[rng.randrange(len(dims))].dim_value = odd(rng)
    return bytes(proto.SerializeToString())


def change_description(whole: bytes, rng: random.Random) -> bytes:
    """Returns a file whose metadata is good JSON with a value that makes no sense."""
    import onnx

    proto = onnx.ModelProto.FromString(whole)
    (entry,) = (prop for prop in proto.metadata_props if prop.key == "dvfl")
    about = json.loads(entry.value)
    inside = about["spec"] if rng.random() < 0.6 else about
    name = rng.choice(sorted(inside))
    numbers = (None, True, 1e308, -1, odd(rng), [odd(rng)] * 2, float("nan"), 10**400)
    texts = ("", [], {}, ["a", "b"], "a\nb", ["\x1b[2J", "\u2028"], "\ud800", "a" * 10**6)
    value = rng.choice((*numbers, *texts, {"a": {"b": ["c"] * 1000}}))
    inside[name] = value
    entry.value = json.dumps(about)  # what is no UTF-8 is spelt out
    if rng.random() < 0.5:  # nothing in the graph that would contradict it
        for dim in proto.graph.input[0].type.tensor_type.shape.dim[1:4]:
            dim.dim_param = "any"
    return bytes(proto.SerializeToString())


def change_file(whole: bytes, rng: random.Random) -> bytes:
    """Returns a file that says or holds more than dvfl-export writes."""
    import onnx

    proto = onnx.ModelProto.FromString(whole)
    place = rng.randrange(5)
    if place == 0:
        tensor = rng.choice(proto.graph.initializer)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=rng.choice(("w.bin", "/etc/passwd", "..")))
    elif place == 1:
        return whole + rng.choice((b"\x72\x00", b"\x3a\x00", b"\xa2\x06\x00")) * 10**6
    elif place == 2:
        for _ in range(rng.randrange(1, 2000)):
            proto.metadata_props.add(key="dvfl", value="{}")
    elif place == 3:
        (entry,) = (prop for prop in proto.metadata_props if prop.key == "dvfl")
        entry.value = rng.choice(("[" * 10**5, "9" * 10**6, '{"a":' * 1000, "", "null", "\0"))
    else:
        proto.metadata_props.reverse()
        proto.producer_name = "a" * 10**6
    return bytes(proto.SerializeToString())


WRITERS: dict[str, Callable[[int, Path], Path]] = {"videos": video, "models": model}


def calls_of(what: str, path: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yields what a user would do with the file."""
    import numpy as np

    from dvfl_runtime import Recognizer

    if what == "models":

        def predict(engine: str) -> None:
            with Recognizer(path, engine=engine, num_threads=1) as recognizer:
                clip = np.full((recognizer.spec.num_frames, 48, 64, 3), 90, np.uint8)
                recognizer.predict(clip)

        yield from ((engine, lambda engine=engine: predict(engine)) for engine in ENGINES)
        return
    recognizer = Recognizer(engine="onnxruntime", num_threads=1)

    def stream() -> None:
        last_s = 0.0
        for prediction in recognizer.stream(path):
            if not last_s <= prediction.start_s < prediction.end_s:
                raise AssertionError(f"{prediction} after {last_s} s")
            last_s = prediction.start_s

    yield "stream", stream
    yield "classify", lambda: recognizer.classify(path)


def work(what: str) -> None:
    """Reads paths and writes a line of JSON for the begin and the end of each call."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    logging.disable()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # native code may print

    def tell(**values: object) -> None:
        out.write(json.dumps(values) + "\n")
        out.flush()

    from dvfl_runtime import DvflError, Recognizer

    for engine in ENGINES:
        Recognizer(engine=engine, num_threads=1).close()
    tell(ready=True)
    for line in sys.stdin:
        for call, run in calls_of(what, Path(line.rstrip("\n"))):
            tell(call=call)
            kind, detail = "ok", ""
            begin_s, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            try:
                run()
            except DvflError as err:
                kind, detail = "refused", str(err)
            except BaseException:
                kind, detail = "error", traceback.format_exc()
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
            seconds = round(time.process_time() - begin_s, 2)
            if seconds > BUSY_S and kind != "error":
                kind, detail = "slow", f"{seconds} s of processor time\n{detail}"
            tell(kind=kind, detail=detail, seconds=seconds, megabytes=grown // 1024)
        tell(done=True)


class Worker:
    """A process that tries files; a new one when the old one crashed or hung."""

    def __init__(self, what: str, folder: Path) -> None:
        self._what = what
        self._log = folder / "worker.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._lines = b""

    def try_file(self, case: str, path: Path) -> list[Result]:
        process = self._started()
        assert process.stdin is not None
        process.stdin.write(f"{path}\n".encode())
        process.stdin.flush()
        results: list[Result] = []
        call = "?"
        while True:
            try:
                about = self._line(HANG_S)
            except TimeoutError:
                self.close()
                return [*results, Result(case, call, "hang", f"more than {HANG_S:.0f} s")]
            if about is None:
                code = process.wait()
                self.close()
                log = self._log.read_text(errors="replace")[-3000:]
                return [*results, Result(case, call, "crash", f"exit status {code}\n{log}")]
            if "done" in about:
                return results
            if "call" in about:
                call = about["call"]
            else:
                results.append(Result(case, call, **about))

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
        self._process = None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            paths = [ROOT, HERE, os.environ.get("PYTHONPATH", "")]
            self._lines = b""
            with self._log.open("w") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-X", "faulthandler", __file__, "work", self._what],
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                )
            if self._line(START_S) is None:
                raise RuntimeError(f"the worker does not start: {self._log.read_text()}")
        return self._process

    def _line(self, timeout_s: float) -> dict[str, object] | None:
        """Returns what the worker tells next, `None` when it ended."""
        assert self._process is not None
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        until_s = time.monotonic() + timeout_s
        while b"\n" not in self._lines:
            if not select.select([pipe], [], [], max(0.0, until_s - time.monotonic()))[0]:
                raise TimeoutError
            if not (data := os.read(pipe, 65536)):
                return None
            self._lines += data
        line, _, self._lines = self._lines.partition(b"\n")
        about: dict[str, object] = json.loads(line)
        return about


def run(what: str, numbers: range, folder: Path) -> list[Result]:
    """Tries the cases of these numbers, one after the other."""
    worker = Worker(what, folder)
    results: list[Result] = []
    try:
        for number in numbers:
            path = WRITERS[what](number, folder)
            results += worker.try_file(f"{what} {number}", path)
            path.unlink()
    finally:
        worker.close()
    return results


def findings(results: list[Result]) -> list[Result]:
    return [result for result in results if result.kind not in ("ok", "refused")]


def summary(results: list[Result]) -> str:
    counts = Counter(f"{result.call} {result.kind}" for result in results)
    slowest = max(results, key=lambda result: result.seconds)
    largest = max(results, key=lambda result: result.megabytes)
    return (
        f"{dict(sorted(counts.items()))}; slowest {slowest.case} {slowest.call} "
        f"{slowest.seconds} s; largest {largest.case} {largest.call} +{largest.megabytes} MB"
    )


def main() -> int:
    what, *numbers = sys.argv[1:]
    if what == "work":
        work(*numbers)
        return 0
    first, count = (int(n) for n in numbers or (0, 300))
    with tempfile.TemporaryDirectory() as folder:
        results = run(what, range(first, first + count), Path(folder))
    for found in findings(results):
        sys.stdout.write(f"{found.case} {found.call}: {found.kind}\n{found.detail}\n")
    sys.stdout.write(f"{summary(results)}\n")
    return bool(findings(results))


if __name__ == "__main__":
    sys.exit(main())
