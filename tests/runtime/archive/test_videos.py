"""The core: rows of videos in, rows of results out, in this process."""

import fsspec
import pytest
from archives import DAMAGE, write_damaged, write_good
from artifacts import write_colour_model

from dvfl_runtime import ArtifactError, Recognizer
from dvfl_runtime.archive.videos import Reading, recognise_videos, version_of


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory):
    model = write_colour_model(tmp_path_factory.mktemp("model") / "m.onnx")
    with Recognizer(model, engine="onnxruntime", num_threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_good(tmp_path_factory.mktemp("videos") / "good.mp4", "green")


def rows_of(recognizer, *paths, **reading):
    return list(recognise_videos(map(str, paths), recognizer, Reading(**reading)))


def test_a_video_is_a_row_with_its_segments(recognizer, good):
    (row,) = rows_of(recognizer, good)
    assert (row["status"], row["error_class"], row["error"]) == ("ok", None, None)
    assert row["duration_s"] == pytest.approx(1.2)
    assert row["size_bytes"] == good.stat().st_size
    assert row["modified"] == good.stat().st_mtime_ns // 1000
    assert row["windows"] is None
    (segment,) = row["segments"]
    assert segment["label"] == "green"
    (expected,) = recognizer.segments(good)
    assert segment == {name: expected.to_dict()[name] for name in segment}


def test_windows_are_those_of_the_recognizer(recognizer, good):
    (row,) = rows_of(recognizer, good, windows=True, window_s=0.4, hop_s=0.2)
    expected = [(p.start_s, p.label) for p in recognizer.stream(good, window_s=0.4, hop_s=0.2)]
    assert len(expected) > 3
    found = [(window["start_s"], window["label"]) for window in row["windows"]]
    assert found == [(pytest.approx(start_s), label) for start_s, label in expected]


@pytest.mark.parametrize("kind", DAMAGE)
def test_whatever_is_wrong_with_a_video_is_in_its_row(kind, recognizer, good, tmp_path):
    bad = write_damaged(tmp_path / "bad.mp4", good, kind)
    first, row, last = rows_of(recognizer, good, bad, good)
    assert first["status"] == last["status"] == "ok"
    if kind in ("packets", "cut_tail"):
        assert row["status"] == "damaged"
        assert row["segments"]
        assert "good frames were read" in row["error"]
    else:
        assert (row["status"], row["error_class"], row["segments"]) == ("failed", "SourceError", [])
        assert "bad.mp4" in row["error"]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("", "its path is empty"),
        ("rtsp://user:secret@camera/live", "is live and has no end"),
        ("csi://0", "is live and has no end"),
        ("nonsense://a/b.mp4", "cannot open nonsense://a/b.mp4: Protocol not known"),
        ("file:///none/a.mp4", "No such file"),
        ("memory://none.mp4", "cannot open memory://none.mp4"),
    ],
)
def test_what_is_no_recorded_video_is_a_failed_row(path, says, recognizer):
    (row,) = rows_of(recognizer, path)
    assert row["status"] == "failed"
    assert says in row["error"]
    assert "secret" not in row["error"]


def test_addresses_are_read_by_the_same_decoder(recognizer, good):
    with fsspec.open("memory://clips/a.mp4", "wb") as file:
        file.write(good.read_bytes())
    plain, from_file, from_memory = rows_of(
        recognizer, good, f"file://{good}", "memory://clips/a.mp4"
    )
    assert plain["segments"] == from_file["segments"] == from_memory["segments"]
    assert from_file["size_bytes"] == from_memory["size_bytes"] == plain["size_bytes"]
    assert from_file["modified"] == pytest.approx(plain["modified"], abs=1)
    assert version_of("memory://clips/a.mp4")[1] is not None


def test_storage_that_fails_while_it_is_read_is_a_failed_row(recognizer, good, monkeypatch):
    def fail(*_):
        raise ValueError("the bucket is gone")

    with fsspec.open("memory://clips/b.mp4", "wb") as file:
        file.write(good.read_bytes())
    monkeypatch.setattr(fsspec.implementations.memory.MemoryFile, "read", fail)
    (row,) = rows_of(recognizer, "memory://clips/b.mp4")
    assert row["status"] == "failed"


def test_a_model_that_is_wrong_ends_the_work(recognizer, good, monkeypatch):
    def wrong(*_):
        raise ArtifactError("logits are not finite")

    monkeypatch.setattr(recognizer._scorer, "scores", wrong)
    with pytest.raises(ArtifactError):
        rows_of(recognizer, good)
