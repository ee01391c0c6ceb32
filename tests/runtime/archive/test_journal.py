"""The journal of a part: what survives the death of its writer."""

import os
import threading

import pytest

from dvfl_runtime import OutputError
from dvfl_runtime.archive import journal as journals
from dvfl_runtime.archive.journal import Journal


def row(one, **values):
    return {"id": one, "status": "ok", **values}


def test_rows_and_deaths_are_read_again(tmp_path):
    with Journal(tmp_path / "j") as journal:
        journal.begin("a")
        journal.add(row("a"))
        journal.begin("b")
        journal.died("b", "Hung", "brought nothing new for 5 s")
    journal = Journal(tmp_path / "j")
    assert journal.rows == {"a": row("a")}
    assert journal.last_death("b") == (
        "Hung",
        "1 times; the last time its process brought nothing new for 5 s",
    )
    assert journal.is_hopeless("b", 1)
    assert not journal.is_hopeless("b", 2)


@pytest.mark.parametrize("cut", [1, 10, 30])
def test_a_torn_line_loses_one_row_and_no_later_one(cut, tmp_path):
    path = tmp_path / "j"
    with Journal(path) as journal:
        journal.add(row("a"))
        journal.add(row("b"))
    os.truncate(path, path.stat().st_size - cut)
    with Journal(path) as journal:
        assert set(journal.rows) == {"a"} or cut == 1
        journal.add(row("c"))
    assert set(Journal(path).rows) >= {"a", "c"}


def test_whole_runs_that_die_with_a_video_count_less_than_its_own_process(tmp_path):
    for _ in range(6):
        with Journal(tmp_path / "j") as journal:
            assert not journal.is_hopeless("a", 2)
            journal.begin("a")
    journal = Journal(tmp_path / "j")
    assert journal.is_hopeless("a", 2)
    assert journal.last_death("a") == ("RunDied", "the whole run died with it 6 times")


def test_a_stop_on_request_says_nothing_about_a_video(tmp_path):
    with Journal(tmp_path / "j") as journal:
        for _ in range(20):
            journal.begin("a")
            journal.stopped("a")
    assert not Journal(tmp_path / "j").is_hopeless("a", 1)


def test_what_is_redone_is_forgotten_once(tmp_path):
    with Journal(tmp_path / "j") as journal:
        journal.add(row("a", status="failed"))
        journal.redo(["a"])
        assert not journal.rows
        journal.add(row("a"))
        journal.redo(["a"])
    journal = Journal(tmp_path / "j")
    assert (journal.rows, journal.again) == ({"a": row("a")}, {"a"})


def test_a_second_writer_waits_and_sees_what_the_first_has_done(tmp_path, monkeypatch):
    monkeypatch.setattr(journals, "LOCK_CHECK_S", 0.01)
    entered = threading.Event()

    def second():
        with Journal(tmp_path / "j") as journal:
            seen.update(journal.rows)
            journal.add(row("b"))

    seen = {}
    with Journal(tmp_path / "j") as first:
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.05)
        first.add(row("a"))
    thread.join(10)
    assert set(seen) == {"a"}
    assert set(Journal(tmp_path / "j").rows) == {"a", "b"}


def test_a_writer_that_waited_for_one_who_completed_the_part_begins_a_new_file(tmp_path):
    with Journal(tmp_path / "j") as first:
        thread = threading.Thread(target=lambda: Journal(tmp_path / "j").__enter__().add(row("b")))
        thread.start()
        first.add(row("a"))
        first.remove()
    thread.join(10)
    assert set(Journal(tmp_path / "j").rows) == {"b"}


def test_a_folder_that_is_gone_is_one_error(tmp_path):
    with pytest.raises(OutputError, match="No such file or directory; check the disk"):
        Journal(tmp_path / "none" / "j").__enter__()
