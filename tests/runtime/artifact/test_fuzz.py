"""Damaged videos and model files give predictions or a DvflError, and nothing else."""

from pathlib import Path

import pytest
from artifacts import artifact, colour_graph, save
from fuzz import WRITERS, Result, findings, run, summary
from shared import needs_shared
from videos import pictures, write_video

from dvfl_runtime import ArtifactError, Recognizer
from dvfl_runtime.artifact.onnx_file import MAX_OPSET


def check(results: list[Result]) -> None:
    found = [f"{r.case} {r.call}: {r.kind}\n{r.detail}" for r in findings(results)]
    assert not found, "\n".join([*found, summary(results)])
    assert any(result.kind == "refused" for result in results), summary(results)


@pytest.mark.parametrize(
    ("what", "count"), [pytest.param("videos", 16, marks=needs_shared), ("models", 30)]
)
def test_a_few_damaged_files_of_each_kind(what: str, count: int, tmp_path: Path) -> None:
    check(run(what, range(count), tmp_path))


def test_files_that_openvino_reads_as_a_stream_until_memory_is_full(tmp_path: Path) -> None:
    check(run("models", [171, 235], tmp_path))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("what", [pytest.param("videos", marks=needs_shared), "models"])
def test_three_hundred_damaged_files(what: str, tmp_path: Path) -> None:
    results = run(what, range(300), tmp_path)
    check(results)
    # damage that nobody could notice has to go through, or the cases do not get far enough
    assert any(result.kind == "ok" for result in results), summary(results)


@pytest.mark.parametrize("what", [pytest.param("videos", marks=needs_shared), "models"])
def test_a_number_gives_the_same_damage_again(what: str, tmp_path: Path) -> None:
    for number in (3, 8):
        first = WRITERS[what](number, tmp_path).read_bytes()
        assert WRITERS[what](number, tmp_path).read_bytes() == first


@pytest.mark.parametrize("version", [2**31 - 1, MAX_OPSET + 1, 0, -1])
def test_an_opset_that_cannot_be_is_refused_before_an_engine_counts_down_to_it(
    version: int, tmp_path: Path
) -> None:
    model = colour_graph()
    model.opset_import[0].version = version
    path = save(model, tmp_path / "m.onnx", {"dvfl": artifact().to_json()})
    with pytest.raises(ArtifactError, match="opset"):
        Recognizer(path)


def test_a_title_that_is_not_utf8_does_not_matter(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", pictures(60), options={})
    whole = path.read_bytes()
    assert b"Lavf" in whole  # the muxer's name, the metadata that every file has
    path.write_bytes(whole.replace(b"Lavf", b"L\xe4vf"))
    with Recognizer(engine="onnxruntime") as recognizer:
        assert list(recognizer.stream(path))
