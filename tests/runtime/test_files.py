from pathlib import Path

import pytest

from dvfl_runtime import OutputError
from dvfl_runtime.errors import ArgumentError
from dvfl_runtime.files import cache_folder, read_text, replacing


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_complete_output_takes_its_name(tmp_path):
    path = tmp_path / "out.mp4"
    path.write_text("old")
    with replacing(path) as part:
        part.write_text("new")
        assert part.suffix == ".mp4"
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["out.mp4"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_output_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "out.csv"
    path.write_text("old")

    def work():
        with replacing(path) as part:
            part.write_text("half")
            raise error

    with pytest.raises(error):
        work()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["out.csv"]


def test_a_missing_folder_is_noticed_before_the_work(tmp_path):
    with (
        pytest.raises(OutputError, match=r"cannot write .*none.*No such file.*choose a path"),
        replacing(tmp_path / "none" / "out.csv"),
    ):
        pytest.fail("the work was begun")


def test_a_folder_in_the_way_is_an_output_error(tmp_path):
    (tmp_path / "out.csv").mkdir()
    with pytest.raises(OutputError, match="cannot write"), replacing(tmp_path / "out.csv") as part:
        part.write_text("new")
    assert names(tmp_path) == ["out.csv"]


def test_a_full_disk_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="No space left"), replacing(tmp_path / "out.csv"):
        raise OSError(28, "No space left on device")
    assert names(tmp_path) == []


def test_errors_about_other_files_keep_their_meaning(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "out.csv"):
        (tmp_path / "input.txt").read_text()


def test_the_cache_folder_follows_the_environment(monkeypatch):
    monkeypatch.setenv("DVFL_CACHE_DIR", "/chosen")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/chosen")
    monkeypatch.delenv("DVFL_CACHE_DIR")
    assert cache_folder() == Path("/xdg/dvfl")
    for useless in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", useless)
        assert cache_folder() == Path.home() / ".cache" / "dvfl"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_texts_of_others_have_byte_order_marks(tmp_path, encoding):
    path = tmp_path / "labels.txt"
    path.write_bytes("idle\r\nwälk\rrun\n".encode(encoding))
    assert read_text(path) == "idle\nwälk\nrun\n"


def test_a_text_in_another_encoding_is_one_clear_line(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes("wälk".encode("latin-1"))
    with pytest.raises(ArgumentError, match=r"labels\.txt is not a text in UTF-8; save it"):
        read_text(path)
