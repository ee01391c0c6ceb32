"""One Recognizer per process, any number of threads."""

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from artifacts import LABELS, SPEC, coloured, write_colour_model

from dvfl_runtime import DvflError, Recognizer, recognizer

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
each_engine = pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_colour_model(tmp_path_factory.mktemp("model") / "m.onnx", labels=LABELS)


def clip(colour):
    return np.stack(coloured((colour, SPEC.num_frames)))


FORKED = """
import os, signal, sys, time, warnings
import numpy as np
warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, which is the point
from dvfl_runtime import DvflError, Recognizer, recognizer

model, engine, then = sys.argv[1:]
clip = np.full((4, 8, 8, 3), (250, 5, 5), np.uint8)
r = Recognizer(model, engine=engine, num_threads=2)
stream = r.stream([clip[0]] * 400)
next(stream)
r.predict(clip)
pid = os.fork()
if pid == 0:
    signal.alarm(20)
    for use in (lambda: r.predict(clip), lambda: next(stream), lambda: r.__enter__()):
        try:
            use()
        except DvflError as err:
            assert "open a Recognizer in each process" in str(err), err
        else:
            os._exit(7)
    del stream
    if then == "close":
        r.close()
    if then == "new":
        with Recognizer(model, engine=engine, num_threads=2) as mine:
            assert mine.predict(clip).label == "red"
    os._exit(0)
begin = time.monotonic()
assert os.waitpid(pid, 0)[1] == 0
assert r.predict(clip).label == "red"
stream.close()
print("well")
"""


@needs_fork
@each_engine
@pytest.mark.parametrize("then", ["leave", "close", "new"])
def test_a_forked_child_is_refused_and_may_open_its_own(model, engine, then):
    pytest.importorskip(engine)
    command = [sys.executable, "-c", FORKED, str(model), engine, then]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "well\n"), done.stderr


def label_in_this_process(model):
    with Recognizer(model, num_threads=1) as r:
        return r.predict(clip("green")).label


def test_spawned_processes_open_their_own_and_no_recognizer_travels(model):
    with Recognizer(model, num_threads=1) as r:
        with pytest.raises(DvflError, match="cannot be copied or sent to another process"):
            pickle.dumps(r)
        context = multiprocessing.get_context("spawn")
        with pytest.raises(DvflError, match="sent to another process; open one there"):
            context.Process(target=r.predict, args=(clip("red"),)).start()
        with context.Pool(1) as pool:
            assert pool.apply(label_in_this_process, (str(model),)) == "green"


@each_engine
def test_close_while_others_predict(model, engine):
    pytest.importorskip(engine)
    r = Recognizer(model, engine=engine, num_threads=2)
    started = threading.Barrier(5)

    def work():
        done = 0
        started.wait()
        try:
            while True:
                assert r.predict(clip("blue")).label == "blue"
                done += 1
        except DvflError as err:
            if "closed" not in str(err):
                raise
        return done

    with ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(work) for _ in range(4)]
        started.wait()
        while not r.predict(clip("blue")).label:
            pass
        threading.Timer(0.2, r.close).start()
        assert sum(worker.result(timeout=30) for worker in workers) > 4
    r.close()


def test_two_recognizers_side_by_side(model):
    with Recognizer(model, num_threads=1) as one, Recognizer(num_threads=1) as other:
        pictures = coloured(("red", 80))
        for a, b in zip(one.stream(pictures, hop_s=0.5), other.stream(pictures), strict=False):
            assert a.label == "red"
            assert b.label in other.labels
        one.close()
        assert other.predict(np.zeros((8, 9, 9, 3), np.uint8)).label in other.labels


COLD = """
import time
begin = time.perf_counter()
import sys
from dvfl_runtime import Recognizer
with Recognizer(engine="onnxruntime") as r:
    next(r.stream(sys.argv[1]))
    print(time.perf_counter() - begin)
"""


@pytest.mark.slow  # a busy machine is slow to start anything
def test_the_first_prediction_comes_within_1_5_s_of_the_import():
    demo = recognizer.BUNDLED_MODEL.with_name("demo.mp4")
    command = [sys.executable, "-c", COLD, str(demo)]
    runs = [subprocess.run(command, capture_output=True, check=True) for _ in range(5)]
    assert min(float(run.stdout) for run in runs) < 1.5


INTERRUPTED = """
import os, signal
from dvfl_runtime import Recognizer
first, second = Recognizer(engine="openvino"), Recognizer(engine="openvino")
first.close()
second.close()
del first, second
try:
    os.kill(os.getpid(), signal.SIGINT)
    signal.pause()
except KeyboardInterrupt:
    print("interrupted")
"""


def test_a_signal_after_two_recognizers_were_closed_finds_its_stack():
    pytest.importorskip("openvino")
    run = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout) == (0, "interrupted\n"), run.stderr
