"""Lists of published data sets, and videos of one source on both sides of a split."""

import json
import logging
from pathlib import Path

import pytest

from dvfl_models.data.datasets import UNLABELLED, Entry, _words, fingerprint, group_of, list_videos
from dvfl_models.data.leaks import check_leaks, find_leak
from dvfl_models.recipe.labels import DATASETS, read_labels
from dvfl_models.recipe.tables import VideosTable
from dvfl_runtime.errors import CheckpointError, RecipeError


def part(index: Path, **more: object) -> VideosTable:
    return VideosTable.model_validate(
        {"kind": "videos", "name": "some", "index": str(index), **more}
    )


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def listed(some: VideosTable, labels: list[str]) -> list[tuple[str, int]]:
    root = Path(some.root or some.index)
    return [
        (Path(entry.path).relative_to(root).as_posix(), entry.class_id)
        for entry in list_videos(some, labels)
    ]


def test_official_list_of_paths_and_numbers(tmp_path: Path) -> None:
    touch(tmp_path, "a/x y.mp4", "b.mp4", "c.mp4")
    (tmp_path / "train.csv").write_text("a/x y.mp4,1\nb.mp4,0\n\nc.mp4,run\n")
    some = part(tmp_path / "train.csv", format="list", root=str(tmp_path))
    assert listed(some, ["walk", "run"]) == [("a/x y.mp4", 1), ("b.mp4", 0), ("c.mp4", 1)]
    (tmp_path / "spaces.txt").write_text("a/x y.mp4 0\n")
    spaces = part(tmp_path / "spaces.txt", format="list", root=str(tmp_path))
    assert listed(spaces, ["walk", "run"]) == [("a/x y.mp4", 0)]
    (tmp_path / "far.csv").write_text("b.mp4,7\n")
    with pytest.raises(
        RecipeError, match=r"line 1 of far\.csv is not FILE LABEL, or FILE NUMBER up"
    ):
        list_videos(part(tmp_path / "far.csv", format="list"), ["walk", "run"])


def test_a_table_without_labels_takes_every_video(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    folder = part(tmp_path, labelled=False)
    assert listed(folder, ["walk"]) == [("a.mp4", UNLABELLED), ("b.mp4", UNLABELLED)]
    index = tmp_path / "index.csv"
    index.write_text("file,room\na.mp4,1\nb.mp4,2\n")
    some = part(index, root=str(tmp_path), labelled=False, only={"room": ["2"]})
    assert listed(some, ["walk"]) == [("b.mp4", UNLABELLED)]
    with pytest.raises(RecipeError, match="file and label are needed"):
        list_videos(part(index), ["walk"])


@pytest.mark.parametrize(
    ("format", "text", "words"),
    [
        ("list", "a.mp4 walk\nb.mp4\n", r"line 2 of f\.csv is not FILE LABEL.*: 'b\.mp4'"),
        ("ucf", "A/a.avi 1\n\na.avi 1\n", r"line 3 of f\.csv is not NAME/FILE NUMBER: 'a\.avi 1'"),
        ("kinetics", "label,youtube_id\nwalk,x\n", r"'time_start' is missing"),
    ],
)
def test_the_wrong_line_of_a_list_is_named(
    tmp_path: Path, format: str, text: str, words: str
) -> None:
    (tmp_path / "f.csv").write_text(text)
    with pytest.raises(RecipeError, match=rf"is not a list of format '{format}': {words}"):
        list_videos(part(tmp_path / "f.csv", format=format), ["walk", "run"])


def test_ucf_split_files(tmp_path: Path) -> None:
    names = ("Archery/v_Archery_g08_c01.avi", "HandstandPushups/v_HandStandPushups_g01_c02.avi")
    touch(tmp_path / "videos", *names)
    (tmp_path / "trainlist01.txt").write_text(f"{names[0]} 3\n{names[1]} 37\n")
    (tmp_path / "testlist01.txt").write_text(f"{names[1]}\n")
    labels = read_labels("ucf101")
    for name, count in (("trainlist01.txt", 2), ("testlist01.txt", 1)):
        some = part(tmp_path / name, format="ucf", root=str(tmp_path / "videos"))
        entries = list_videos(some, labels)
        assert len(entries) == count
        assert labels[entries[-1].class_id].lower() == "handstandpushups"
    some = part(
        tmp_path / "trainlist01.txt",
        format="ucf",
        root=str(tmp_path / "videos"),
        only={"group": ["08"]},
    )
    assert [entry.group for entry in list_videos(some, labels)] == ["Archery_g08"]


def test_lists_of_the_authors(tmp_path: Path) -> None:
    """They name train/Class/video, and those of HMDB51 number classes in an order of their own."""
    names = ("brush_hair/a.avi", "wave/b, c.avi")
    touch(tmp_path / "videos", *names)
    (tmp_path / "train.csv").write_text("".join(f"train/{name},52\n" for name in names))
    labels = list(read_labels("hmdb51"))
    some = part(tmp_path / "train.csv", format="paths", root=str(tmp_path / "videos"))
    assert listed(some, labels) == list(zip(names, (0, 50), strict=True))
    touch(tmp_path / "theirs", *(f"train/{name}" for name in names))
    theirs = part(tmp_path / "train.csv", format="paths", root=str(tmp_path / "theirs"))
    assert [Path(entry.path).parts[-3] for entry in list_videos(theirs, labels)] == ["train"] * 2
    (tmp_path / "train.csv").write_text("a.avi,0\n")
    with pytest.raises(RecipeError, match=r"line 1 of train\.csv is not FOLDER/FILE LABEL"):
        list_videos(some, labels)


def test_hmdb_split_files(tmp_path: Path) -> None:
    clip = "April_09_brush_hair_u_nm_np1_ba_goo_{}.avi"
    touch(tmp_path / "videos", *(f"brush_hair/{clip.format(k)}" for k in range(3)))
    lines = [f"{clip.format(k)} {use} " for k, use in enumerate((1, 2, 0))]
    (tmp_path / "brush_hair_test_split2.txt").write_text("\n".join(lines) + "\n")
    for subset, number in (("train", 0), ("test", 1)):
        some = part(tmp_path, format="hmdb", split=2, subset=subset, root=str(tmp_path / "videos"))
        (entry,) = list_videos(some, read_labels("hmdb51"))
        assert entry.path.endswith(f"brush_hair/{clip.format(number)}")
        assert entry.group == "April_09_brush_hair"
    with pytest.raises(RecipeError, match=r"no \*_test_split1\.txt"):
        list_videos(part(tmp_path, format="hmdb"), ["brush_hair"])


def test_kinetics_leaves_dead_links_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "abc_000010_000020.mp4", "air drumming/d-e_000000_000010.mp4")
    rows = ["abseiling,abc,10,20,train", "air drumming,d-e,0.0,10.0,train", "archery,z,1,2,train"]
    header = "label,youtube_id,time_start,time_end,split"
    (tmp_path / "train.csv").write_text("\n".join([header, *rows]) + "\n")
    some = part(tmp_path / "train.csv", format="kinetics", root=str(tmp_path))
    with caplog.at_level(logging.WARNING):
        found = listed(some, list(read_labels("kinetics400")))
    assert found == [("abc_000010_000020.mp4", 0), ("air drumming/d-e_000000_000010.mp4", 1)]
    assert "1 of 3 listed videos are not there" in caplog.text


def test_ssv2_templates(tmp_path: Path) -> None:
    touch(tmp_path, "78687.webm", "5.webm")
    items = [
        {"id": "78687", "label": "closing a box", "template": "Closing [something]"},
        {"id": 5, "label": "Burying something in something"},
    ]
    (tmp_path / "train.json").write_text(json.dumps(items))
    some = part(tmp_path / "train.json", format="ssv2", root=str(tmp_path))
    labels = list(read_labels("ssv2"))
    assert [labels[kind] for _, kind in listed(some, labels)] == [
        "Closing something",
        "Burying something in something",
    ]


def test_folder_per_class(tmp_path: Path) -> None:
    touch(tmp_path, "run/b.mp4", "run/notes.txt", "walk/a.avi", "other/c.mp4")
    assert listed(part(tmp_path, format="folders"), ["walk", "run"]) == [
        ("run/b.mp4", 1),
        ("walk/a.avi", 0),
    ]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_with_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    touch(tmp_path, "a.mp4", "x_000001_000002.mp4", "1.webm", "h/a.avi", "run/v_run_g01_c01.avi")

    def found(name: str, text: str, **more: object) -> list[int]:
        (tmp_path / name).write_bytes(text.encode(encoding))
        some = part(tmp_path / name, **{"root": str(tmp_path), **more})
        return [entry.class_id for entry in list_videos(some, ["run", "h"])]

    kinetics = "label,youtube_id,time_start,time_end\nrun,x,1,2\n"
    assert found("i.csv", "file,label\na.mp4,run\n", format="index") == [0]
    assert found("l.txt", "a.mp4 1\n", format="list") == [1]
    assert found("u.txt", "run/v_run_g01_c01.avi 1\n", format="ucf") == [0]
    assert found("k.csv", kinetics, format="kinetics") == [0]
    assert found("s.json", '[{"id": 1, "label": "run"}]', format="ssv2") == [0]
    (tmp_path / "._h_test_split1.txt").write_bytes(b"\x00\x05\x16\x07")  # macOS's, not a list
    (tmp_path / "h_test_split1.txt").write_bytes("a.avi 1\n".encode(encoding))
    hmdb = part(tmp_path, root=str(tmp_path), format="hmdb", subset="train")
    assert [entry.class_id for entry in list_videos(hmdb, ["run", "h"])] == [1]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("x.json", '"idle"', "a list of one or more names"),
        ("x.json", '{"idle": 0}', "a list of one or more names"),
        ("x.json", '["idle", 7]', r"labels\[1\] must be a string"),
        ("x.json", '["idle", "run\\n1"]', r"labels\[1\] must be a string of one line"),
        ("x.txt", "idle\nru\x1b[2Jn\n", r"labels\[1\] must be a string of one line"),
        ("x.txt", "idle\n idle\n", "distinct"),
        ("x.txt", "\n\n", "a list of one or more names"),
    ],
)
def test_files_that_are_no_lists_of_labels(
    tmp_path: Path, name: str, text: str, words: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError, match=words):
        read_labels(tmp_path / name)


def test_files_of_labels_as_windows_writes_them(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes("\ufeffidle\r\n run \r\n\r\n".encode())
    assert read_labels(tmp_path / "x.txt") == ("idle", "run")
    (tmp_path / "x.JSON").write_bytes('\ufeff["idle", "run"]'.encode())
    assert read_labels(tmp_path / "x.JSON") == ("idle", "run")
    (tmp_path / "old.txt").write_bytes("Übung\n".encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"old\.txt is not a text in UTF-8; save it as UTF-8"):
        read_labels(tmp_path / "old.txt")


def test_hidden_files_are_no_videos(tmp_path: Path) -> None:
    touch(tmp_path, "run/a.mp4", "run/._a.mp4", ".cache/b.mp4")
    assert listed(part(tmp_path, format="folders"), ["run", ".cache"]) == [("run/a.mp4", 0)]


@pytest.mark.parametrize("name", DATASETS)
def test_labels_stay_different_without_punctuation(name: str) -> None:
    labels = read_labels(name)
    assert len({_words(label) for label in labels}) == len(labels)


def test_list_of_another_format_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    for format_ in ("index", "kinetics", "ssv2", "ucf"):
        with pytest.raises(RecipeError, match=f"not a list of format '{format_}'") as caught:
            list_videos(part(tmp_path / "x.csv", format=format_), ["a"])
        assert "\n" not in str(caught.value)


def test_fingerprint_changes_with_the_videos(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    entries = [Entry(str(tmp_path / name), 0) for name in ("a.mp4", "b.mp4")]
    before = fingerprint(entries)
    assert before == fingerprint(entries)
    assert before != fingerprint(entries[:1])
    (tmp_path / "b.mp4").write_bytes(b"longer")
    assert before != fingerprint(entries)


@pytest.mark.parametrize(
    ("row", "group"),
    [
        ({"file": "Biking/v_Biking_g07_c03.avi"}, "Biking_g07"),
        ({"file": "TheBoondockSaints_kick_ball_f_cm_np1_le_med_0.avi"},
         "TheBoondockSaints_kick_ball"),
        ({"file": "a.mp4", "sequence": "3"}, "root: sequence 3"),
        ({"file": "a.mp4", "person": "x"}, "root: person x"),
        ({"file": "holiday.mp4"}, ""),
    ],
)  # fmt: skip
def test_group_of_a_video(row: dict[str, str], group: str) -> None:
    assert group_of(row, "", "root") == group


def test_leaks_are_counted_warned_of_and_refused(caplog: pytest.LogCaptureFixture) -> None:
    train = [Entry("1.avi", 0, "g1"), Entry("2.avi", 0, "g2"), Entry("same.avi", 0)]
    test = [Entry("3.avi", 0, "g2"), Entry("4.avi", 0, "g3"), Entry("same.avi", 0)]
    leak = find_leak(train, test, "val")
    assert (leak.videos, leak.leaked, leak.unknown) == (3, 2, 1)
    assert leak.report()["groups"] == ["g2", "same.avi"]
    with caplog.at_level(logging.WARNING):
        check_leaks([leak], strict=False)
    assert "2 of 3 videos share their source" in caplog.text
    with pytest.raises(RecipeError, match=r"'val': 2 of 3 videos.*--strict-split"):
        check_leaks([leak], strict=True)
    check_leaks([find_leak(train[:1], test[1:2], "val")], strict=True)
