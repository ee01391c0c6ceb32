import contextlib
import os
import resource
import stat
import tempfile
import threading
from pathlib import Path

import pytest

from dvfl_runtime import OutputError
from dvfl_runtime.files import RowFile, check_places, replacing


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
    full = pytest.raises(OutputError, match="No space left on device; make room for it")
    with full, replacing(tmp_path / "out.csv"):
        raise OSError(28, "No space left on device")
    assert names(tmp_path) == []


def test_errors_about_other_files_keep_their_meaning(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "out.csv"):
        (tmp_path / "input.txt").read_text()


def replaced(path, text="new\n"):
    with replacing(path) as part:
        part.write_text(text)


def rows(path, text="new\n", **how):
    with RowFile(path, **how) as file:
        file.write(text)


BOTH = pytest.mark.parametrize("write", [replaced, rows])


@BOTH
def test_a_link_is_followed_and_the_mode_and_the_owner_stay(tmp_path, write):
    target = tmp_path / "o" / "r.jsonl"
    target.parent.mkdir()
    target.write_text("a longer old one\n")
    target.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(target, 12345, 12345)
    before = target.stat()
    (tmp_path / "l.jsonl").symlink_to("o/r.jsonl")
    (tmp_path / "ll.jsonl").symlink_to("l.jsonl")
    write(tmp_path / "ll.jsonl")
    after = target.stat()
    assert target.read_text() == "new\n"
    assert (after.st_mode, after.st_uid) == (before.st_mode, before.st_uid)
    assert (tmp_path / "l.jsonl").is_symlink()
    assert names(target.parent) == ["r.jsonl"]


@BOTH
def test_both_names_of_a_file_have_what_is_new(tmp_path, write):
    (tmp_path / "a").write_text("old")
    os.link(tmp_path / "a", tmp_path / "b")
    write(tmp_path / "a")
    assert (tmp_path / "b").read_text() == "new\n"
    assert names(tmp_path) == ["a", "b"]


@BOTH
def test_a_link_to_nothing_makes_its_target(tmp_path, write):
    (tmp_path / "l.txt").symlink_to("new.txt")
    write(tmp_path / "l.txt")
    assert (tmp_path / "new.txt").read_text() == "new\n"
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "new.txt").stat().st_mode) == 0o666 & ~umask


@BOTH
@pytest.mark.parametrize("minor", [3, 7])  # null and full
def test_a_device_is_written_into(tmp_path, write, minor):
    device = tmp_path / "device"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
        device.open("wb").close()
    except OSError as err:
        pytest.skip(f"this user may not make or open a device: {err}")
    full = pytest.raises(OutputError, match=r"device: No space left") if minor == 7 else None
    with full or contextlib.nullcontext():
        write(device)
    check_places([("-o", device), ("--json", device)])
    assert stat.S_ISCHR(device.stat().st_mode)
    assert names(tmp_path) == ["device"]


@BOTH
def test_a_pipe_is_written_into(tmp_path, write):
    pipe = tmp_path / "p.json"
    os.mkfifo(pipe)
    text = "row\n" * 50_000  # more than a pipe holds
    writer = threading.Thread(target=write, args=(pipe, text))
    writer.start()
    assert pipe.read_text() == text
    writer.join()
    assert names(tmp_path) == ["p.json"]


def test_a_pipe_whose_reader_left_ends_rows_and_is_an_error_of_a_file(tmp_path):
    pipe = tmp_path / "p"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with RowFile(pipe) as file:
        file.write("one\n")
        os.close(reader)
        assert not file.reader_gone
        file.write("two\n")
        assert file.reader_gone
        file.write("three\n")


@BOTH
def test_standard_output_by_another_name_is_written_into(tmp_path, write, capfd):
    os.write(1, b"before ")
    write("/dev/stdout")
    os.write(1, b"after")
    assert capfd.readouterr().out == "before new\nafter"


@pytest.fixture
def places(tmp_path):
    (tmp_path / "loop").symlink_to("loop2")
    (tmp_path / "loop2").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "file").write_text("old")
    (tmp_path / "link-to-none").symlink_to("none/../file")
    return tmp_path


@BOTH
@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("/", "folder"),
        (".", "folder"),
        ("folder", "folder"),
        ("link", "folder"),
        ("new/", "folder"),
        ("file/", "Not a directory"),
        ("", "name is empty"),
        ("x" * 300, "name too long"),
        ("x/" * 3000, "name too long|folder"),
        ("loop", "levels of symbolic links"),
        ("file/x", "Not a directory"),
        ("none/x", "No such file"),
        ("none/../file", "No such file"),
        ("link-to-none", "No such file"),
        ("zero\0byte", "null"),
    ],
)
def test_what_cannot_be_a_file_is_one_error_before_the_work(places, place, reason, write):
    where = os.path.join(places, place) if place not in ("", ".") else place
    before = names(places)
    for use in (write, lambda path: check_places([("-o", path)])):
        with pytest.raises(OutputError, match=rf"(?s)cannot write .*(?i:{reason}).*choose a path"):
            use(where)
    assert names(places) == before
    assert (places / "file").read_text() == "old"


@pytest.fixture
def as_nobody():
    """Run as a user with no rights, where the tests run as root."""
    if not hasattr(os, "setresuid"):
        pytest.skip("this system does not let the tests be another user for a while")
    folder = Path(tempfile.mkdtemp())  # unlike tmp_path, others may enter its parents
    folder.chmod(0o755)
    ids = os.getresuid()

    @contextlib.contextmanager
    def become():
        if ids[0] == 0:
            os.setresuid(54321, 54321, 0)
        try:
            yield folder
        finally:
            os.setresuid(*ids)

    yield become
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


@BOTH
def test_folders_that_may_not_be_read_or_written(as_nobody, write):
    with as_nobody() as folder:
        pass
    for name, mode in (("secret", 0o700), ("given", 0o755)):
        (folder / name).mkdir(mode=0o755)
        (folder / name / "mine").touch()
        (folder / name / "mine").chmod(0o666)
        (folder / name / "theirs").touch()
        (folder / name).chmod(mode if os.geteuid() == 0 else mode & 0o555)
        (folder / name / "theirs").chmod(0o444)
    (folder / "secret").chmod(0o700 if os.geteuid() == 0 else 0)
    with as_nobody():
        for name in ("secret/mine", "secret/new", "given/new", "given/theirs"):
            with pytest.raises(OutputError, match=r"cannot write .*Permission denied"):
                write(folder / name)
        write(folder / "given" / "mine")  # the file is writable, its folder is not
    (folder / "secret").chmod(0o755)
    assert (folder / "given" / "mine").read_text() == "new\n"
    assert names(folder / "given") == ["mine", "theirs"]


def test_no_output_is_an_input_or_another_output(tmp_path):
    model = tmp_path / "m.onnx"
    model.write_text("model")
    os.link(model, tmp_path / "hard.onnx")
    (tmp_path / "soft.onnx").symlink_to(model)
    for name in ("m.onnx", "hard.onnx", "soft.onnx", "../" + tmp_path.name + "/m.onnx"):
        with pytest.raises(OutputError, match=r"--model and -o both name .*; choose two files"):
            check_places([("-o", tmp_path / name)], [("--model", model)])
    with pytest.raises(OutputError, match="--json and --plot both name"):
        check_places([("--json", tmp_path / "new"), ("--plot", tmp_path / "." / "new")])
    check_places([("--json", None), ("--plot", tmp_path / "new")], [("--model", model)])
    assert model.read_text() == "model"
    assert names(tmp_path) == ["hard.onnx", "m.onnx", "soft.onnx"]


def test_long_names_have_room_for_the_temporary_one(tmp_path):
    for name in ("x" * 250 + ".json", "x." + "y" * 250, "ü" * 120 + ".mp4"):
        replaced(tmp_path / name)
        assert (tmp_path / name).read_text() == "new\n"


def test_rows_are_there_at_once_and_an_old_file_is_emptied_by_the_first(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text("yesterday\n" * 3)
    with RowFile(path) as file:
        assert path.read_text() == "yesterday\n" * 3
        file.write("one\n")
        assert path.read_text() == "one\n"
        file.write("two \udcff\n")
        assert path.read_text() == "one\ntwo \\udcff\n"
    with RowFile(path):
        pass
    assert path.read_text() == "one\ntwo \\udcff\n"


@pytest.mark.parametrize(("old", "kept"), [("one\n", "one\n"), ("one\ntw", "one\ntw\n"), ("", "")])
def test_rows_continue_those_of_an_earlier_run(tmp_path, old, kept):
    path = tmp_path / "r.csv"
    path.write_text(old)
    with RowFile(path, append=True) as file:
        assert file.continues == bool(old)
        file.write("three\n")
        file.write("four\n")
    assert path.read_text() == kept + "three\nfour\n"


def test_a_new_file_without_rows_stays_unless_the_work_fails(tmp_path):
    with RowFile(tmp_path / "a"):
        pass
    with pytest.raises(ValueError, match="x"), RowFile(tmp_path / "b"):
        raise ValueError("x")
    with pytest.raises(ValueError, match="x"), RowFile(tmp_path / "a"):
        raise ValueError("x")
    with pytest.raises(TypeError), RowFile(tmp_path / "c") as file:
        file.write("row\n" + file.write("row\n"))
    assert names(tmp_path) == ["a", "c"]


def on_a_small_disk(work, *args):
    """Run work where no file may have more than 1,000 bytes; return the OutputErrors."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OutputError) as caught:
            work(*args)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return str(caught.value)


def test_a_full_disk_leaves_whole_rows_and_the_old_file(tmp_path):
    row = "x" * 299 + "\n"

    def many(path):
        with RowFile(path) as file:
            for _ in range(4):
                file.write(row)

    assert "r.csv: File too large" in on_a_small_disk(many, tmp_path / "r.csv")
    assert (tmp_path / "r.csv").read_text() == 3 * row
    (tmp_path / "o.json").write_text("old")
    assert "o.json: File too large" in on_a_small_disk(replaced, tmp_path / "o.json", row * 4)
    assert (tmp_path / "o.json").read_text() == "old"
    assert names(tmp_path) == ["o.json", "r.csv"]
