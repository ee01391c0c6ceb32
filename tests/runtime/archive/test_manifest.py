"""What is listed: folders, lists and tables; each video once, other columns carried along."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dvfl_runtime import ArgumentError, SourceError
from dvfl_runtime.archive import manifest as manifests
from dvfl_runtime.archive.folder import NO_IDS, Folder, in_groups, part_size, paths_of
from dvfl_runtime.archive.manifest import ids_in, ids_of, read_manifest


def table_of(manifest):
    return pa.concat_tables(manifest.tables(manifest.new(NO_IDS)))


def paths(manifest):
    return table_of(manifest).column("path").to_pylist()


def test_a_folder_lists_the_videos_below_it_by_their_place_in_it(tmp_path):
    for name in ("b.mp4", "a/c.avi", "a/d.txt", ".hidden.mp4", "a/._e.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    manifest = read_manifest(tmp_path)
    assert paths(manifest) == ["a/c.avi", "b.mp4"]
    assert (manifest.root, manifest.relative) == (str(tmp_path), True)
    column = table_of(manifest).column("id").combine_chunks()
    assert {len(one) for one in column.to_pylist()} == {32}
    assert ids_in(column).tolist() == ids_of(["a/c.avi", "b.mp4"]).tolist()


def test_a_text_has_a_path_on_each_line(tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_bytes(
        b"\xef\xbb\xbfa.mp4\r\n\n# a comment\n/b c.mp4\ns3://bucket/d.mp4\nk\xff.mp4\n"
    )
    manifest = read_manifest(listed)
    assert paths(manifest) == ["a.mp4", "/b c.mp4", "s3://bucket/d.mp4", "k\\xff.mp4"]
    opened = paths_of(table_of(manifest), manifest.root).values()
    folder = str(tmp_path)
    assert list(opened) == [
        f"{folder}/a.mp4",
        "/b c.mp4",
        "s3://bucket/d.mp4",
        os.fsdecode(f"{folder}/k".encode() + b"\xff.mp4"),
    ]


def test_tables_carry_their_other_columns_as_they_are(tmp_path):
    (tmp_path / "list.csv").write_text('path,camera,id\n"a,1.mp4",007,x\nb.mp4,,\n')
    pq.write_table(
        pa.table({"camera": [7, None], "path": ["a,1.mp4", "b.mp4"], "id": [1.5, 2.5]}),
        tmp_path / "list.parquet",
    )
    table = table_of(read_manifest(tmp_path / "list.csv"))
    assert table.select(["path", "camera", "listed_id"]).to_pydict() == {
        **{"path": ["a,1.mp4", "b.mp4"], "camera": ["007", ""], "listed_id": ["x", ""]},
    }
    table = table_of(read_manifest(tmp_path / "list.parquet"))
    assert table.select(["path", "camera", "listed_id"]).to_pydict() == {
        **{"path": ["a,1.mp4", "b.mp4"], "camera": [7, None], "listed_id": [1.5, 2.5]},
    }


@pytest.mark.parametrize("name", ["list.csv", "list.txt"])
def test_a_path_listed_twice_is_one_video(name, tmp_path):
    (tmp_path / name).write_text("path\nb.mp4\na.mp4\nb.mp4\npath\n")
    expected = ["b.mp4", "a.mp4", "path"] if name == "list.csv" else ["path", "b.mp4", "a.mp4"]
    assert paths(read_manifest(tmp_path / name)) == expected


@pytest.mark.parametrize(
    ("name", "content", "error", "says"),
    [
        ("none.txt", None, SourceError, "none.txt: No such file or directory"),
        ("none.parquet", None, SourceError, "none.parquet"),
        ("empty.txt", b"\n# nothing\n", SourceError, "lists no videos"),
        ("empty.csv", b"path\n", SourceError, "lists no videos"),
        ("other.csv", b"file,camera\na.mp4,1\n", ArgumentError, "has no column 'path', only file"),
        ("torn.csv", b"path,camera\na.mp4\n", ArgumentError, "cannot read the list"),
        ("no.parquet", b"path\na.mp4\n", ArgumentError, "must be a table in PARQUET"),
        ("binary.lst", b"\0\1\2\n", ArgumentError, "is not a text"),
    ],
)
def test_a_wrong_list_is_one_clear_error(name, content, error, says, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=says):
        read_manifest(tmp_path / name)


def test_a_column_of_numbers_is_no_list_of_paths(tmp_path):
    pq.write_table(pa.table({"path": [1, 2]}), tmp_path / "list.parquet")
    with pytest.raises(ArgumentError, match=r"the column .path. of .* must be text, got int64"):
        read_manifest(tmp_path / "list.parquet")


def test_a_folder_without_videos_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="holds no videos; pass a folder of videos"):
        read_manifest(tmp_path)


def test_parts_are_small_for_few_videos_and_few_for_many():
    assert [part_size(videos, 2) for videos in (1, 7, 500, 100_000)] == [1, 1, 31, 64]
    for videos in (10**6, 10**7, 123_456_789):
        assert videos / part_size(videos, 64) <= 10_000


@pytest.mark.parametrize("suffix", ["txt", "csv", "parquet"])
def test_a_list_is_kept_whole_though_few_rows_are_held(suffix, tmp_path, monkeypatch):
    monkeypatch.setattr(manifests, "CHUNK", 7)
    names = [f"{number % 45}.mp4" for number in range(90)]  # each twice
    source = tmp_path / f"list.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table({"path": names, "camera": names}), source)
    else:
        source.write_text("\n".join((["path"] if suffix == "csv" else []) + names))
    folder = Folder(tmp_path / "rows")
    folder.prepare({})
    assert folder.add_new(read_manifest(source), 1) == 45
    parts = folder.parts()
    assert set(parts.values()) == {5}
    listed = pa.concat_tables([folder.listed(part) for part in parts])
    assert listed.column("path").to_pylist() == names[:45]
    assert ("camera" in listed.column_names) == (suffix == "parquet")
    source.with_name("more.txt").write_text("\n".join([*names, "x.mp4"]))
    assert folder.add_new(read_manifest(source.with_name("more.txt")), 1) == 1


def test_a_list_that_changes_while_it_is_read_is_one_error_and_nothing_is_kept(tmp_path):
    source, folder = tmp_path / "list.txt", Folder(tmp_path / "rows")
    folder.prepare({})
    for first, second in (("a\nb", "a\nc"), ("a\nb", "a"), ("a", "a\nb")):
        source.write_text(first)
        manifest = read_manifest(source)
        source.write_text(second)
        with pytest.raises(SourceError, match="has changed meanwhile; run the command again"):
            folder.add_new(manifest, 1)
        assert not folder.parts()


def test_rows_are_cut_into_groups_of_one_size():
    for cut in (1, 3, 4, 10):
        rows = pa.table({"n": range(10)})
        tables = [rows.slice(begin, cut) for begin in range(0, 10, cut)]
        groups = list(in_groups(tables, 4))
        assert [group.num_rows for group in groups] == [4, 4, 2]
        assert pa.concat_tables(groups) == rows
