"""The programs of examples/ run as they are, in the way that their first lines say."""

import csv
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from shared import ROOT

from dvfl_runtime.archive.cli import main as archive

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


def test_programs_are_short() -> None:
    programs = [*EXAMPLES.glob("*.py"), *EXAMPLES.glob("cpp/*.cc")]
    assert len(programs) >= 6
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in programs}
    assert {name: length for name, length in lengths.items() if length > 48} == {}


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
    shutil.copy(DEMO, tmp_path / "videos" / "a.mp4")
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no video")
    words = [str(tmp_path / "videos"), "-o", str(tmp_path / "rows"), "--processes", "1"]
    assert archive([*words, "--engine", "onnxruntime"]) == 0
    found = run("archive_report.py", tmp_path / "rows")
    assert found.returncode == 0, found.stderr
    assert {line.split()[-1] for line in found.stdout.splitlines()} <= {*ACTIONS, "idle"}
    assert found.stderr.startswith("broken.mp4: cannot open ")


def test_two_sources_and_one_engine(tmp_path: Path) -> None:
    for name in ("left.mp4", "right.mp4"):
        shutil.copy(DEMO, tmp_path / name)
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


def test_each_tracked_person_has_segments() -> None:
    pytest.importorskip("supervision", reason="needs supervision, which the extra dev has")
    found = run("tracked_people.py", DEMO)
    assert found.returncode == 0, found.stderr
    rows = re.findall(r"([12]): (\w+) \d+\.\d-\d+\.\d s", found.stdout)
    assert {track_id for track_id, _ in rows} == {"1", "2"}
    assert {label for _, label in rows} <= ACTIONS | {"idle", "unknown"}


def test_a_video_is_uploaded() -> None:
    pytest.importorskip("fastapi")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
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
