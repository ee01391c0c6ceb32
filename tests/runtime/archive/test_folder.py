"""The folder of an archive: what it was made with, and who may write into it."""

import subprocess
import sys

import pytest
from archives import write_good

from dvfl_runtime import OutputError
from dvfl_runtime.archive.folder import Folder, Part
from dvfl_runtime.archive.manifest import read_manifest

HOLD = """
import sys
from pathlib import Path
from dvfl_runtime.archive.folder import Folder
with Folder(Path(sys.argv[1])).locked():
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path):
    opened = Folder(tmp_path / "rows")
    opened.prepare({"model": "abc", "windows": False})
    return opened


def listed(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return read_manifest(folder)


def test_new_videos_make_parts_of_their_own(folder, tmp_path):
    assert folder.add_new(listed(tmp_path / "a", "1.mp4", "2.mp4"), 1) == 2
    assert folder.add_new(listed(tmp_path / "a", "1.mp4", "2.mp4"), 1) == 0
    assert folder.add_new(listed(tmp_path / "a", "0.mp4"), 1) == 1
    assert folder.parts() == {Part(1, 0): 1, Part(1, 1): 1, Part(2, 0): 1}
    assert folder.listed(Part(2, 0)).column("path").to_pylist() == ["0.mp4"]


def test_ten_thousand_lists_are_not_too_many(folder, tmp_path):
    folder.add_new(listed(tmp_path / "a", "1.mp4"), 1)
    first = folder.path / "_listed" / "0001.parquet"
    first.rename(first.with_name("9999.parquet"))
    for number, name in ((10_000, "2.mp4"), (10_001, "3.mp4")):
        assert folder.add_new(listed(tmp_path / "a", name), 1) == 1
        part = list(folder.parts())[-1]
        assert part == Part(number, 0) == Part.parse(folder.part(part).name)
        assert folder.listed(part).column("path").to_pylist() == [name]


def test_relative_paths_of_another_place_are_refused(folder, tmp_path):
    folder.add_new(listed(tmp_path / "a", "1.mp4"), 1)
    with pytest.raises(OutputError, match="choose another folder for other videos"):
        folder.add_new(listed(tmp_path / "b", "1.mp4"), 1)
    (tmp_path / "b" / "list.txt").write_text("/1.mp4")
    assert folder.add_new(read_manifest(tmp_path / "b" / "list.txt"), 1) == 1


@pytest.mark.parametrize(
    ("made_with", "says"),
    [
        ({"model": "abd", "windows": False}, "made with model abc, not with abd"),
        ({"model": "abc", "windows": True}, "made with windows False, not with True"),
    ],
)
def test_rows_of_other_models_and_options_do_not_mix(made_with, says, folder):
    with pytest.raises(OutputError, match=says):
        folder.prepare(made_with)


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 99}'])
def test_an_archive_of_another_version_is_refused(content, folder):
    (folder.path / "_archive.json").write_text(content)
    with pytest.raises(OutputError, match="rows"):
        folder.prepare({"model": "abc"})


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "rows").write_text("mine")
    with pytest.raises(OutputError, match="it is no folder; choose another name"):
        Folder(tmp_path / "rows").prepare({"model": "abc"})
    assert (tmp_path / "rows").read_text() == "mine"


def test_a_folder_of_other_things_stays_as_it_is(tmp_path):
    write_good(tmp_path / "a.mp4", count=2)
    with pytest.raises(OutputError, match="holds other things than an archive"):
        Folder(tmp_path).prepare({})
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_a_second_command_on_the_same_folder_is_refused_until_the_first_is_dead(folder):
    words = [sys.executable, "-c", HOLD, str(folder.path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        with pytest.raises(OutputError, match="another dvfl-archive is writing"), folder.locked():
            pass
        holder.kill()
    with folder.locked():
        pass


def test_what_a_death_left_behind_is_removed_and_nothing_else(folder):
    left = folder.path / ".part-0001-000000.0123abcd.parquet"
    for path in (left, folder.path / ".mine", folder.path / "_listed" / ".0001.0123abcd.parquet"):
        path.touch()
    folder.clean()
    assert not left.exists()
    assert (folder.path / ".mine").exists()
    assert not list((folder.path / "_listed").iterdir())
