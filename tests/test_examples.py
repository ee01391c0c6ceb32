"""The programs of examples/ run as they are, in the way that their first lines say."""

import contextlib
import csv
import http.server
import io
import itertools
import json
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from shared import ROOT
from videos import beginning_of, cut, cut_clips

from dvfl_runtime.archive.cli import main as archive
from dvfl_runtime.teach.cli import main as teach

EXAMPLES = ROOT / "examples"
DATA = ROOT / "dvfl_runtime" / "data"
DEMO, BUNDLED = DATA / "demo.mp4", DATA / "bundled.onnx"
ACTIONS = {"wave_one_hand", "wave_two_hands", "jumping_jack", "bend"}
ONNXRUNTIME_HEADERS = (
    Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    / "dvfl/headers/onnxruntime/usr/include/onnxruntime"
)


def run(name: str, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", EXAMPLES / name, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 16 s of the demo, in which somebody waves and jumps."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    cut(path, 0, 16)
    return path


def test_programs_are_short() -> None:
    programs = [*EXAMPLES.glob("*.py"), *EXAMPLES.glob("cpp/*.cc")]
    assert len(programs) >= 13
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in programs}
    assert {name: length for name, length in lengths.items() if length > 40} == {}


def test_every_program_is_listed() -> None:
    listed = set(re.findall(r"\]\(([\w./]+)\)", (EXAMPLES / "README.md").read_text("utf-8")))
    programs = {path.name for path in EXAMPLES.glob("*.*") if path.name != "README.md"}
    assert programs <= listed


def test_the_notebook_runs() -> None:
    notebook = json.loads((EXAMPLES / "first_look.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] for cell in cells)
    code = "\n".join("".join(cell["source"]) for cell in cells)
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert "jumping_jack" in found.stdout


def test_a_folder_becomes_one_csv(tmp_path: Path) -> None:
    shutil.copy(DEMO, tmp_path / "a.mp4")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    found = run("folder_to_csv.py", tmp_path)
    assert found.returncode == 0, found.stderr
    rows = list(csv.DictReader(io.StringIO(found.stdout)))
    assert len(rows) == 12
    assert {row["video"] for row in rows} == {"a.mp4"}
    assert "broken.mp4" in found.stderr
    assert "Traceback" not in found.stderr


def test_the_rows_of_an_archive_are_read_like_any_table(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    beginning_of(DEMO, 20, tmp_path / "videos" / "a.mp4")
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no video")
    words = [str(tmp_path / "videos"), "-o", str(tmp_path / "rows"), "--processes", "1"]
    assert archive([*words, "--engine", "onnxruntime"]) == 0
    found = run("archive_report.py", tmp_path / "rows")
    assert found.returncode == 0, found.stderr
    assert {line.split()[-1] for line in found.stdout.splitlines()} <= {*ACTIONS, "idle"}
    assert found.stderr.startswith("broken.mp4: cannot open ")


def test_two_sources_and_one_engine(tmp_path: Path) -> None:
    for name in ("left.mp4", "right.mp4"):
        beginning_of(DEMO, 20, tmp_path / name)
    found = run("two_cameras.py", tmp_path / "left.mp4", tmp_path / "right.mp4")
    assert found.returncode == 0, found.stderr
    rows = re.findall(r"(left|right)\.mp4: (\w+) \(\d+%\)", found.stdout)
    assert {name for name, _ in rows} == {"left", "right"}
    assert {label for _, label in rows} <= ACTIONS


def test_pictures_of_a_program_give_a_row_for_each_window() -> None:
    found = run("robot_frames.py")
    assert found.returncode == 0, found.stderr
    assert len(found.stdout.splitlines()) >= 16


def test_an_action_that_lasts_rings_once() -> None:
    found = run("alarm_when_it_lasts.py", DEMO, "jumping_jack", 2)
    assert found.returncode == 0, found.stderr
    assert re.fullmatch(r"(jumping_jack for 2 s, since \d+\.\d s\n)+", found.stdout)


def test_two_files_are_compared_in_turn() -> None:
    found = run("benchmark_two_files.py", BUNDLED, BUNDLED)
    assert found.returncode == 0, found.stderr
    assert re.search(r"takes \d\.\d\d of the time of the first", found.stdout)


def test_what_happens_is_told_as_it_happens(clip: Path) -> None:
    found = run("webcam_events.py", clip)
    assert found.returncode == 0, found.stderr
    begun = re.findall(r"s  (\w+) since", found.stdout)
    assert begun == re.findall(r"s  (\w+) is over after", found.stdout)
    assert begun == ["wave_one_hand", "jumping_jack"]


def test_events_reach_an_mqtt_broker(clip: Path) -> None:
    mqtt = pytest.importorskip("paho.mqtt.client", reason="needs paho-mqtt, which dev has")
    broker = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if broker is None:
        pytest.skip("needs mosquitto; sudo make test-tools installs it on Debian")
    rows: list[tuple[str, dict[str, object]]] = []
    port = free_port()
    with subprocess.Popen([broker, "-p", str(port)], stderr=subprocess.DEVNULL) as server:
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        try:
            ready = threading.Event()
            client.on_connect = lambda *_: client.subscribe("home/#", qos=1)
            client.on_subscribe = lambda *_: ready.set()
            client.on_message = lambda _, __, got: rows.append((got.topic, json.loads(got.payload)))
            client.connect_async("127.0.0.1", port)
            client.loop_start()
            assert ready.wait(60)
            found = run("mqtt_events.py", clip, f"127.0.0.1:{port}", "home")
            assert (found.returncode, found.stderr) == (0, "")
            wait_until(lambda: len(rows) == 4)
        finally:
            client.loop_stop()
            client.disconnect()
            server.terminate()
    assert [row["event"] for _, row in rows] == ["start", "end"] * 2
    assert [topic for topic, _ in rows[::2]] == ["home/wave_one_hand", "home/jumping_jack"]


def test_each_event_is_posted_to_a_web_address() -> None:
    rows: list[dict[str, object]] = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.headers["Content-Type"] == "application/json"
            rows.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204 if self.path == "/hook" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    event = json.dumps({"event": "start", "label": "bend", "start_s": 2.5})
    with http.server.HTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for path in ("hook", "away"):
            words = [EXAMPLES / "webhook.py", f"http://127.0.0.1:{server.server_port}/{path}"]
            command = [sys.executable, *map(str, words)]
            found = subprocess.run(command, input=event, text=True, stderr=-1, check=False)
            assert found.returncode == (path == "away"), found.stderr
        server.shutdown()
    assert rows == [json.loads(event)] * 2


def test_a_pin_is_on_while_an_action_goes_on(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpiozero = pytest.importorskip("gpiozero", reason="needs gpiozero, which the extra dev has")
    from gpiozero.pins.mock import MockFactory

    board = MockFactory()
    monkeypatch.setattr(gpiozero.Device, "pin_factory", board)
    monkeypatch.setattr(sys, "argv", ["gpio_pin.py", str(clip), "jumping_jack", "17"])
    runpy.run_path(str(EXAMPLES / "gpio_pin.py"), run_name="__main__")
    states = [state for _, state in board.pin(17).states]
    changes = [state for n, state in enumerate(states) if n == 0 or states[n - 1] != state]
    assert changes == [False, True, False]  # once in the clip


def test_a_camera_goes_on_when_its_model_is_replaced(tmp_path: Path) -> None:
    shutil.copy(BUNDLED, tmp_path / "mine.onnx")
    cut_clips(tmp_path / "clips")
    command = [sys.executable, "-W", "error", EXAMPLES / "teach_and_reload.py"]
    os.mkfifo(tmp_path / "camera.y4m")
    feeding = threading.Thread(target=feed, args=(tmp_path / "camera.y4m",), daemon=True)
    feeding.start()
    with subprocess.Popen(
        [*command, tmp_path / "camera.y4m", tmp_path / "mine.onnx"], stdout=-1, text=True
    ) as watching:
        assert watching.stdout is not None
        lines = iter(watching.stdout.readline, "")
        assert next(lines).startswith("knows idle, wave_one_hand")
        first_s = float(next(lines).split()[0])
        words = ["fit", str(tmp_path / "clips"), "-o", str(tmp_path / "mine.onnx")]
        assert teach([*words, "--engine", "onnxruntime"]) == 0
        before_s = first_s
        for line in lines:
            if line.startswith("knows"):
                break
            before_s = float(line.split()[0])
        assert line == "knows bowing, jumping\n"
        seconds, label = next(lines).split(" s  ")
        assert label.strip() in {"bowing", "jumping"}
        assert before_s < float(seconds) < before_s + 8  # not from the beginning again
        watching.kill()


def feed(path: Path) -> None:
    """Write pictures of the demo into a pipe, a hundred a second, until nobody reads them."""
    with av.open(str(DEMO)) as demo:
        pictures = [
            picture.reformat(64, 64, "yuv420p").to_ndarray().tobytes()
            for picture in itertools.islice(demo.decode(video=0), 200)
        ]
    with contextlib.suppress(BrokenPipeError), path.open("wb") as pipe:
        pipe.write(b"YUV4MPEG2 W64 H64 F25:1 Ip A1:1 C420jpeg\n")
        for picture in itertools.cycle(pictures):
            pipe.write(b"FRAME\n" + picture)
            time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_each_tracked_person_has_segments() -> None:
    pytest.importorskip("supervision", reason="needs supervision, which the extra dev has")
    found = run("tracked_people.py", DEMO)
    assert found.returncode == 0, found.stderr
    rows = re.findall(r"([12]): (\w+) \d+\.\d-\d+\.\d s", found.stdout)
    assert {track_id for track_id, _ in rows} == {"1", "2"}
    assert {label for _, label in rows} <= ACTIONS | {"idle", "unknown"}


def test_a_video_is_uploaded() -> None:
    pytest.importorskip("fastapi")
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "fastapi_upload:app", "--port", str(port)]
    with subprocess.Popen(command, cwd=EXAMPLES, stderr=subprocess.DEVNULL) as server:
        try:
            rows = json.loads(answer(port, DEMO.read_bytes()))
            assert len(rows) == 12
            assert {row["label"] for row in rows} <= ACTIONS | {"idle"}
            with pytest.raises(urllib.error.HTTPError) as refused:
                answer(port, b"no video")
            assert refused.value.code == 422
            refused.value.close()
        finally:
            server.terminate()


def answer(port: int, video: bytes) -> bytes:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/actions", video, {"Content-Type": "video/mp4"}
    )
    until = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.read()
        except urllib.error.HTTPError:
            raise
        except urllib.error.URLError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def test_cpp_gives_the_same_logits(tmp_path: Path) -> None:
    import onnxruntime

    libraries = sorted((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    if not shutil.which("g++") or not ONNXRUNTIME_HEADERS.exists() or not libraries:
        pytest.skip("needs g++ and the headers of `make test-tools`")
    (tmp_path / "libonnxruntime.so.1").symlink_to(libraries[-1])  # the name that it asks for
    program = tmp_path / "recognise"
    command = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", EXAMPLES / "cpp/recognise.cc"]
    command += ["-isystem", ONNXRUNTIME_HEADERS, tmp_path / "libonnxruntime.so.1"]
    subprocess.run([*command, f"-Wl,-rpath,{tmp_path}", "-o", program], check=True)
    clip = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), dtype=np.uint8)
    (tmp_path / "clip.rgb").write_bytes(clip.tobytes())
    command = [program, BUNDLED, tmp_path / "clip.rgb"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    logits = np.array(found.stdout.split(), np.float64)
    session = onnxruntime.InferenceSession(BUNDLED)
    (expected,) = session.run(["logits"], {"clip": clip[None]})
    np.testing.assert_allclose(logits, expected[0], rtol=0, atol=1e-4)
    (tmp_path / "short.rgb").write_bytes(b"x")
    short = subprocess.run([*command[:2], tmp_path / "short.rgb"], capture_output=True, check=False)
    assert short.returncode == 2
