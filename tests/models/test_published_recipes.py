"""The commands of models/README.md for the published data sets, on stand-ins in their formats."""

import json
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import videos

from dvfl_export import cli as export
from dvfl_export import eval_cli
from dvfl_models import build_model
from dvfl_models.recipe.labels import read_labels
from dvfl_models.training import cli as train

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

README = Path(__file__).resolve().parents[2] / "models" / "README.md"
COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "dvfl-train": train.main,
    "dvfl-eval": eval_cli.main,
    "dvfl-export": export.main,
}
SMALL = ["model.variant=femto", "clip.num_frames=2", "clip.size=[32, 32]", "clip.resize=36",
         "optim.epochs=1", "optim.warmup_epochs=0.5"]  # fmt: skip
HMDB_NAME = "{}_{}_f_nm_np1_fr_goo_{}.avi"


def commands_of(data: str) -> list[list[str]]:
    """Of a data set, in the order in which models/README.md has them."""
    section = README.read_text(encoding="utf-8").split("### Published data sets")[1]
    lines = re.findall(rf"^dvfl-.*\b{data}_student.*|^dvfl-.*\b{data}_teacher.*", section, re.M)
    return [shlex.split(line) for line in lines]


def video(path: Path, codec: str) -> Path:
    return videos.write_video(path, videos.pictures(4, 48, 64), codec=codec)


def place(files: Sequence[str], root: Path, first: Path) -> None:
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.hardlink_to(first)


def words(label: str) -> str:
    """As a folder of UCF is called."""
    return "".join(word.capitalize() for word in re.findall(r"[a-z0-9]+", label.lower()))


def ucf_files(data: str, groups: Sequence[int]) -> list[str]:
    names = map(words, read_labels(data))
    return [f"{name}/v_{name}_g{group:02}_c01.avi" for name in names for group in groups]


def make_ucf50(folder: Path) -> None:
    place(ucf_files("ucf50", (7, 8)), folder / "UCF50", video(folder / "x.avi", "mpeg4"))


def make_ucf101(folder: Path) -> None:
    tests, trains = ucf_files("ucf101", (1,)), ucf_files("ucf101", (8,))
    place([*tests, *trains], folder / "UCF-101", video(folder / "x.avi", "mpeg4"))
    lists = folder / "ucfTrainTestlist"
    lists.mkdir()
    numbered = [f"{file} {number}" for number, file in enumerate(trains, 1)]
    (lists / "trainlist01.txt").write_text("\n".join(numbered) + "\n")
    (lists / "testlist01.txt").write_text("\n".join(tests) + "\n")


def make_hmdb51(folder: Path) -> None:
    lists, files = folder / "testTrainMulti_7030_splits", []
    lists.mkdir()
    for label in read_labels("hmdb51"):
        names = [HMDB_NAME.format(f"film{use}", label, use) for use in (1, 2)]
        files += [f"{label}/{name}" for name in names]
        rows = [f"{name} {use} " for use, name in enumerate(names, 1)]
        (lists / f"{label}_test_split1.txt").write_text("\n".join(rows) + "\n")
    place(files, folder / "videos", video(folder / "x.avi", "mpeg4"))


def make_ssv2(folder: Path) -> None:
    (folder / "labels").mkdir()
    labels = read_labels("ssv2")
    for part, first in (("train", 0), ("validation", 1000)):
        items = [
            {"id": str(first + k), "template": label.replace("something", "[something]")}
            for k, label in enumerate(labels)
        ]
        (folder / "labels" / f"{part}.json").write_text(json.dumps(items))
    numbers = [first + k for first in (0, 1000) for k in range(len(labels))]
    root = folder / "20bn-something-something-v2"
    place([f"{k}.webm" for k in numbers], root, video(folder / "x.webm", "libvpx-vp9"))


def make_kinetics400(folder: Path) -> None:
    first = video(folder / "x.mp4", "libx264")
    for part in ("train", "val"):
        rows = [f"{label},id{k},{k},{k + 10},{part}" for k, label in enumerate(LABELS_OF_KINETICS)]
        header = "label,youtube_id,time_start,time_end,split"
        (folder / f"{part}.csv").write_text("\n".join([header, *rows]) + "\n")
        files = [f"id{k}_{k:06}_{k + 10:06}.mp4" for k in range(len(LABELS_OF_KINETICS))]
        place(files, folder / part, first)


LABELS_OF_KINETICS = read_labels("kinetics400")
MAKERS = {
    "ucf50": make_ucf50,
    "ucf101": make_ucf101,
    "hmdb51": make_hmdb51,
    "ssv2": make_ssv2,
    "kinetics400": make_kinetics400,
}


def stand_in(data: str, where: Path) -> None:
    """Of a data set, and of the ImageNet weights, which only have to fit."""
    folder = where / "data" / data
    folder.mkdir(parents=True)
    MAKERS[data](folder)
    torch.manual_seed(0)
    state = build_model("femto", num_classes=1000).state_dict()
    flat = {key: value for key, value in state.items() if "temporal" not in key}
    for name in ("base", "tiny"):
        torch.save({"model": flat}, where / f"focalnet_{name}_srf.pth")


def run(command: Sequence[str], *more: str, views: str = "1x1") -> None:
    """With settings that change the size of a run; those of `more` are for the test sets, too."""
    shared = [part for setting in more for part in ("--set", setting)]
    options = {
        "dvfl-train": [*(part for setting in SMALL for part in ("--set", setting)), *shared,
                       "--workers", "0", "--threads", "1", "--cpu"],
        "dvfl-eval": [*shared, "--views", views, "--threads", "1"],
        "dvfl-export": [],
    }[command[0]]  # fmt: skip
    assert COMMANDS[command[0]]([*command[1:], *options]) == 0


def test_every_data_set_has_its_commands() -> None:
    for data in MAKERS:
        names = [command[0] for command in commands_of(data)]
        assert names == ["dvfl-train", "dvfl-train", "dvfl-eval", "dvfl-export"]


def test_teacher_and_student_of_hmdb51(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in("hmdb51", tmp_path)
    monkeypatch.chdir(tmp_path)
    two = 'labels=["brush_hair", "wave"]'
    few = [two, "optim.batch_size=2", "optim.accumulate=1"]
    for command in commands_of("hmdb51")[:3]:
        run(command, *few)
    tested = json.loads(Path("hmdb51.json").read_text())["tests"]["hmdb51_test"]
    assert (tested["clips"], tested["leaked"]) == (2, 0)


@pytest.mark.slow
@pytest.mark.parametrize("data", MAKERS)
def test_all_commands(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(data, tmp_path)
    monkeypatch.chdir(tmp_path)
    for command in commands_of(data):
        run(command, views="4x3" if data == "ucf50" else "1x1")
    assert Path(f"{data}.onnx").is_file()
    (tested,) = json.loads(Path(f"{data}.json").read_text())["tests"].values()
    assert tested["clips"] == len(read_labels(data))


@pytest.mark.slow
def test_the_authors_split_is_printed_with_its_leak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in("ucf101", tmp_path)
    monkeypatch.chdir(tmp_path)
    tests = [f"val/{file}" for file in ucf_files("ucf101", (1,))]
    trains = [f"train/{file}" for file in ucf_files("ucf101", (8,))]
    # three clips of a group on both sides
    place([f"{file[4:]}x.avi" for file in tests[:3]], tmp_path / "data/ucf101/UCF-101",
          tmp_path / "data/ucf101/x.avi")  # fmt: skip
    trains += [tests[k].replace("val", "train").replace("c01", "c02") for k in range(3)]
    place([file[6:] for file in trains[-3:]], tmp_path / "data/ucf101/UCF-101",
          tmp_path / "data/ucf101/x.avi")  # fmt: skip
    for name, files in (("val", tests), ("train", trains)):
        lines = [f"{file},{number % 101}" for number, file in enumerate(files)]
        (tmp_path / "data" / "ucf101" / f"{name}.csv").write_text("\n".join(lines) + "\n")
    for command in commands_of("ucf101")[:3]:
        moved = [part.replace("_student/", "_student_authors/") for part in command]
        run(moved, "split=authors")
        assert "101 clips, 3 of them share their source with training" in capsys.readouterr().out
    report = json.loads(Path("ucf101.json").read_text())
    assert report["tests"]["ucf101_authors_test"]["leaked"] == 3
