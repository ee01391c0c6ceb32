"""Where clips go, and how they are called."""

from pathlib import Path

import pytest

from dvfl_runtime.clips.labelled import find_labelled
from dvfl_runtime.errors import ArgumentError, OutputError
from dvfl_runtime.teach.clip_folder import ClipFolder, clip_folders


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


@pytest.mark.parametrize(
    ("there", "person", "following"),
    [
        ([], None, "wave_01"),
        ([], "anna", "anna_01"),
        (["wave_01.mp4", "wave_07.mkv"], None, "wave_08"),
        (["wave_02-2.mp4"], None, "wave_03"),  # the second part of a clip
        (["anna_03.mp4", "wave_09.mp4"], "anna", "anna_04"),
        (["wave_99.mp4", ".wave_100.ab12.mp4", "other.mp4"], None, "wave_100"),
        (["anna_1.mp4"], "ann", "ann_01"),
    ],
)
def test_numbering_goes_on(tmp_path, there, person, following):
    touch(tmp_path / "wave", *there)
    assert ClipFolder(tmp_path / "wave", person).next_stem().name == following


def test_clips_of_a_person_belong_together(tmp_path):
    for label in ("wave", "clap"):
        for person in ("anna", "ben", "carl"):
            folder = ClipFolder(tmp_path / label, person)
            for _ in range(2):
                stem = folder.next_stem()
                stem.with_name(f"{stem.name}.mp4").touch()
        assert folder.count() == 6
    found = find_labelled(tmp_path)
    assert found.labels == ("clap", "wave")
    assert {video.group for video in found.videos} == {"anna", "ben", "carl"}


def test_a_folder_that_is_gone_or_cannot_be_made_is_one_error(tmp_path):
    folder = ClipFolder(tmp_path / "wave")
    folder.remove_if_empty()
    assert not (tmp_path / "wave").exists()
    with pytest.raises(OutputError, match=r"cannot write .*wave: No such file"):
        folder.next_stem()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        ClipFolder(tmp_path / "file" / "wave")
    touch(tmp_path / "full", "a.mp4")
    ClipFolder(tmp_path / "full").remove_if_empty()
    assert (tmp_path / "full" / "a.mp4").exists()


def test_a_folder_that_was_there_stays(tmp_path):
    first = ClipFolder(tmp_path / "wave")
    ClipFolder(tmp_path / "wave").remove_if_empty()  # of another command, which ended at once
    assert first.count() == 0


def test_names_that_differ_in_case_alone_are_an_error(tmp_path):
    ClipFolder(tmp_path / "wave")
    with pytest.raises(OutputError, match="'wave' already, which differs from 'Wave' in case"):
        ClipFolder(tmp_path / "Wave")
    assert [path.name for path in tmp_path.iterdir()] == ["wave"]


@pytest.mark.parametrize(
    ("places", "person", "message"),
    [
        (["wave"], None, "wave is no FOLDER/LABEL"),
        (["clips/.."], None, "is no FOLDER/LABEL"),
        (["a/wave", "b/clap"], None, "the same FOLDER"),
        (["a/wave", "a/WAVE"], None, "the same name"),
        (["a/wave"], "../anna", "--person must be a name"),
        (["a/wave"], "", "--person must be a name"),
        (["a/wa\nve"], None, "LABEL must be"),
    ],
)
def test_wrong_places_are_found_before_a_folder_is_made(
    tmp_path, monkeypatch, places, person, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArgumentError, match=message):
        clip_folders([Path(place) for place in places], person)
    assert list(tmp_path.iterdir()) == []
