import random
from collections import Counter
from pathlib import Path

import pytest

from dvfl_runtime.clips.labelled import LabelledVideos, find_labelled
from dvfl_runtime.errors import RecipeError

CLASSES = ("clap", "wave_one_hand")


def folders(root: Path, *names: str, labels: tuple[str, ...] = CLASSES) -> Path:
    """Make a folder for each class with empty files of these names; {} stands for the class."""
    for label in labels:
        for name in names:
            path = root / label / name.format(label)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return root


def index(root: Path, text: str) -> Path:
    for line in text.splitlines()[1:]:
        (root / line.split(",")[0]).touch()
    path = root / "index.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (["anna_1.mp4", "anna_2.mp4", "ben_1.mp4", "cy_1.mp4"], {"anna", "ben", "cy"}),
        (["{}_anna_1.mp4", "{}_ben_1.mp4", "{}_cy_1.mp4"], {"anna", "ben", "cy"}),
        (["anna/1.mp4", "anna/2.mp4", "ben/1.mp4", "cy/x/1.mp4"], {"anna", "ben", "cy"}),
        (["anna.mp4", "ben.mp4", "cy.mp4"], {"anna", "ben", "cy"}),
        (["person1_{}_4.mp4", "person2_{}_5.mp4", "person3_{}_7.mp4"],
         {"person1", "person2", "person3"}),
        (["v_{}_g01_c01.avi", "v_{}_g01_c02.avi", "v_{}_g02_c01.avi", "v_{}_g03_c01.avi"],
         {"v g01", "v g02", "v g03"}),
        (["20261127-1015_1.mp4", "20261127-1015_2.mp4", "20261128-0900_1.mp4"],
         {"20261127", "20261128"}),
    ],
)  # fmt: skip
def test_the_beginning_of_the_names_tells_which_videos_belong_together(tmp_path, names, groups):
    found = find_labelled(folders(tmp_path, *names))
    assert found.labels == CLASSES
    assert {video.group for video in found.videos} == groups
    assert found.grouped_by == "the beginning of the file names"


@pytest.mark.parametrize(
    "names",
    [
        ["1.mp4", "2.mp4", "3.mp4"],
        ["{}_1.mp4", "{}_2.mp4", "{}_3.mp4"],
        ["0001.mp4", "0002.mp4"],
        ["{}.mp4"],
    ],
)
def test_videos_are_groups_of_their_own_where_names_tell_nothing(tmp_path, names):
    found = find_labelled(folders(tmp_path, *names))
    assert found.grouped_by == ""
    assert len({video.group for video in found.videos}) == len(found.videos)


def test_an_index_has_a_column_for_the_groups(tmp_path):
    path = index(tmp_path, "file,label,person\na.mp4,wave,1\nb.mp4,clap,1\nc.mp4,wave,2\n")
    for place in (path, tmp_path):  # the folder that holds it, too
        found = find_labelled(place)
        assert found.grouped_by == "the column person"
        assert [(v.path.name, v.label, v.group) for v in found.videos] == [
            ("a.mp4", "wave", "1"),
            ("b.mp4", "clap", "1"),
            ("c.mp4", "wave", "2"),
        ]


def test_negatives_are_idle_and_make_a_second_class(tmp_path):
    folders(tmp_path / "mine", "1.mp4", "2.mp4", labels=("wave",))
    folders(tmp_path / "street", "a_1.mp4", "a_2.mp4", labels=("2026",))
    found = find_labelled(tmp_path / "mine", [tmp_path / "street"])
    assert found.labels == ("idle", "wave")
    assert [video.path.name for video in found.of("idle")] == ["a_1.mp4", "a_2.mp4"]


def test_what_is_wrong_is_named(tmp_path):
    def error(place: Path, *negatives: Path) -> str:
        with pytest.raises(RecipeError) as caught:
            find_labelled(place, negatives)
        return str(caught.value)

    assert "there is no" in error(tmp_path / "absent")
    empty = folders(tmp_path / "empty", labels=())
    empty.mkdir()
    assert "needs a folder of videos for each class" in error(empty)
    one = folders(tmp_path / "one", "a.mp4", labels=("wave",))
    assert "has one class, 'wave'; add another class, or --negatives" in error(one)
    (one / "clap").mkdir()
    assert "no video in the class folder 'clap'" in error(one)
    case = folders(tmp_path / "case", "a.mp4", labels=("Jumping-Jack", "jumping_jack"))
    assert "differ in case or punctuation alone" in error(case)
    assert "no" in error(case, tmp_path / "nowhere")
    for name, text, wanted in (
        ("columns", "video,label\na.mp4,wave\n", "needs the columns file and label"),
        ("label", "file,label\na.mp4,\n", "line 2 of the index"),
        ("group", "file,label,group\na.mp4,wave,x\nb.mp4,wave,\n", "line 3 of the index"),
        ("twice", "file,label\na.mp4,wave\na.mp4,clap\n", "is of two classes"),
    ):
        (tmp_path / name).mkdir()
        assert wanted in error(index(tmp_path / name, text))
    (tmp_path / "twice" / "a.mp4").unlink()
    assert "2 of 2 files of the index" in error(tmp_path / "twice")


def held_back(found: LabelledVideos, seed: int = 0) -> tuple[Counter[str], Counter[str]]:
    groups = found.groups_to_hold_back(seed=seed)
    out = [v for v in found.videos if v.group in groups]
    rest = [v for v in found.videos if v.group not in groups]
    return Counter(v.label for v in out), Counter(v.label for v in rest)


def test_about_a_quarter_of_each_class_is_held_back_by_whole_groups(tmp_path):
    names = [f"p{person}_{take}.mp4" for person in range(8) for take in range(2)]
    found = find_labelled(folders(tmp_path, *names))
    out, rest = held_back(found)
    assert out == {"clap": 4, "wave_one_hand": 4}
    assert rest == {"clap": 12, "wave_one_hand": 12}
    assert found.groups_to_hold_back() == found.groups_to_hold_back()
    assert len({found.groups_to_hold_back(seed=seed) for seed in range(5)}) > 1


def test_every_class_keeps_videos_to_train_on(tmp_path):
    rng = random.Random(3)
    for number in range(20):
        root = tmp_path / str(number)
        for label in "abcd"[: rng.randint(2, 4)]:
            for take in range(rng.randint(1, 6)):
                folders(root, f"p{rng.randint(1, 4)}_{take}.mp4", labels=(label,))
        found = find_labelled(root)
        out, rest = held_back(found, number)
        assert set(rest) == set(found.labels)
        for label in found.labels:
            groups = {video.group for video in found.of(label)}
            if len(groups) == 1:
                assert not out[label]


def test_videos_that_cannot_be_read_are_left_out_unless_a_class_is_lost(tmp_path):
    found = find_labelled(folders(tmp_path, "1.mp4", "2.mp4"))
    rest = found.without([found.of("clap")[0].path])
    assert [video.path.name for video in rest.of("clap")] == ["2.mp4"]
    with pytest.raises(RecipeError, match="no video of the class 'clap' can be read"):
        found.without([video.path for video in found.of("clap")])
