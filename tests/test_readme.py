"""The commands and the code in README.md and docs/ run; links lead to what exists on all pages."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from shared import ROOT
from videos import beginning_of, cut_clips

import dvfl_runtime

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# pages of the parts, whose commands measure and train for minutes to days
PARTS = [
    *sorted(ROOT.glob("[ACS]*.md")),
    *(ROOT / part for part in ("models/README.md", "models/RESULTS.md", "export/README.md")),
    *(ROOT / part for part in ("export/kernels/README.md", "benchmarks/README.md")),
    *sorted((ROOT / "benchmarks" / "results").glob("*/README.md")),
]
CODE = [ROOT / part for part in ("dvfl_runtime", "models", "export", "benchmarks")]
DATA = ROOT / "dvfl_runtime" / "data"
FENCE = re.compile(
    r"^(?P<mark><!-- not run: \S.*-->\n\n?)?```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
LINK = re.compile(r"""\]\(([^)\s]+)\)|(?:src|href)=["']([^"']+)["']""")
REMOTE = ("http://", "https://", "mailto:", "#")
TIMEOUT_S = 120


@dataclass(frozen=True)
class Block:
    language: str
    code: str
    is_run: bool
    line: int
    page: str = ""


def blocks(text: str, *languages: str, page: str = "") -> list[Block]:
    """Return the fenced blocks; `<!-- not run: REASON -->` right before one exempts it."""
    return [
        Block(m["language"], m["code"], not m["mark"], text.count("\n", 0, m.start("code")), page)
        for m in FENCE.finditer(text)
        if m["language"] in languages
    ]


def commands(block: Block) -> list[str]:
    """Return the commands of a shell block; a console block marks them with a dollar sign."""
    lines = block.code.replace("\\\n", " ").splitlines()
    if block.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [part.strip() for line in lines for part in line.split("&&")]


def without_comment(command: str) -> str:
    """Return a command without what its page says about it."""
    return re.sub(r"\s+#.*", "", command)


def on_pages(*languages: str) -> list[Block]:
    """Return the blocks of all pages."""
    texts = ((path.name, path.read_text(encoding="utf-8")) for path in PAGES)
    return [block for page, text in texts for block in blocks(text, *languages, page=page)]


def cases(items: list[tuple[Block, str]]) -> pytest.MarkDecorator:
    """Return a case for each text; one that is on several pages is tried once."""
    first = {text: f"{block.page} line {block.line}" for block, text in reversed(items)}
    return pytest.mark.parametrize("text", first, ids=first.values())


def local_links(text: str) -> list[str]:
    links = [match[1] or match[2] for match in LINK.finditer(text)]
    return [link for link in links if not link.startswith(REMOTE)]


def headings(page: Path) -> set[str]:
    """Return the names under which a code host links to the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in titles)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in plain}


def leads_somewhere(page: Path, link: str) -> bool:
    """Return whether a local link leads to a file, and to a heading where it names one."""
    name, _, heading = link.partition("#")
    target = page.parent / name
    return target.exists() and (not heading or heading in headings(target))


def own_commands(text: str) -> list[str]:
    """Return the commands of dvfl on a page, also those of indented blocks, without comments."""
    lines = text.replace("\\\n", " ").splitlines()
    starts = re.compile(
        r"^ *(?:\$cv |\$few |[\w]+=\S+ )*(?:dvfl-[a-z]+|python3? -m dvfl_[\w.]+) .*"
    )
    return [without_comment(line).strip() for line in lines if starts.match(line)]


SHELL = [(block, command) for block in on_pages("bash", "console") for command in commands(block)]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return beginning_of(DATA / "demo.mp4", 10, tmp_path_factory.mktemp("video") / "video.mp4")


@pytest.fixture
def workspace(video: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Files that the examples may name: the beginning of the bundled clip, a model, clips."""
    shutil.copy(video, tmp_path)
    for name in ("model.onnx", "mine.onnx"):
        shutil.copy(DATA / "bundled.onnx", tmp_path / name)
    if re.search(r"\bclips\b", request.node.callspec.params["text"]):
        cut_clips(tmp_path / "clips")
    return tmp_path


@cases([(block, block.code) for block in on_pages("python") if block.is_run])
def test_python_runs(text: str, workspace: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", text]
    result = subprocess.run(
        command, cwd=workspace, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert result.returncode == 0, result.stderr


@cases([(b, without_comment(c)) for b, c in SHELL if b.is_run and c.startswith("dvfl-")])
def test_command_runs(text: str, workspace: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", text],
        cwd=workspace,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert result.returncode == 0, result.stderr


@cases([(b, c) for b, c in SHELL if c.startswith("make ")])
def test_make_target_exists(text: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    words = shlex.split(text, comments=True)[1:]
    assert {word for word in words if "=" not in word} <= targets


@cases([(b, c) for b, c in SHELL if b.is_run])
def test_every_other_command_is_marked(text: str) -> None:
    """Those that are not run here are of make, set an environment up, or install what exists."""
    if extras := re.fullmatch(r"pip install '\.\[([\w,]+)\]'", without_comment(text)):
        setup = (ROOT / "setup.py").read_text(encoding="utf-8")
        assert set(extras[1].split(",")) <= set(re.findall(r'^    "(\w+)": ', setup, re.MULTILINE))
    else:
        known = r"dvfl-|make |python3 -m venv ~/dvfl$|\. ~/dvfl/bin/activate$"
        assert re.match(known, without_comment(text)), "say `<!-- not run: REASON -->` before it"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_command_hides_in_an_indented_block(page: Path) -> None:
    """Only fenced blocks are run or marked."""
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"^(?: {4}|\t)\s*(?:dvfl-|pip |python|make |sudo |docker )", text, re.M) == []


def test_the_reference_has_every_public_name() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    names = set(dvfl_runtime.__all__) - {"__version__"}
    assert set(re.findall(r"^::: dvfl_runtime\.(\w+)$", page, re.MULTILINE)) == names


@pytest.mark.parametrize("page", [*PAGES, *PARTS], ids=lambda page: str(page.relative_to(ROOT)))
def test_local_links_exist(page: Path) -> None:
    links = local_links(page.read_text(encoding="utf-8"))
    assert [link for link in links if not leads_somewhere(page, link)] == []


def test_commands_that_measure_and_train_are_there_with_their_options() -> None:
    sources = "\n".join(
        path.read_text(encoding="utf-8") for folder in CODE for path in folder.rglob("*.py")
    )
    unknown = []
    found = [command for page in PARTS for command in own_commands(page.read_text("utf-8"))]
    for command in found:
        for module in re.findall(r"python3? -m (dvfl_[\w.]+)", command):
            place = module.replace(".", "/")
            files = [
                root / f"{place}{end}" for root in (ROOT, *CODE) for end in (".py", "/__main__.py")
            ]
            if not any(file.exists() for file in files):
                unknown.append((command, module))
        for option in set(re.findall(r"(?<= )--[a-z][a-z0-9-]*", command)):
            if f'"{option}"' not in sources:
                unknown.append((command, option))
    assert len(found) > 80
    assert unknown == []


def test_the_reader_of_the_readme_finds_blocks_commands_and_links() -> None:
    text = (
        "# title\n\n```python\nx = 1\n```\n"
        "<!-- not run: needs a camera -->\n```bash\ndvfl-recognize 0 \\\n  --top-k 1\n```\n"
        "```console\n$ cd dvfl && make demo\nan answer\n```\n"
        "[a](LICENSE#x) [b](https://example.org) <img src='p.png'>\n"
    )
    (python,) = blocks(text, "python")
    bash, console = blocks(text, "bash", "console")
    assert (python.code, python.is_run, python.line) == ("x = 1\n", True, 3)
    assert (bash.is_run, [shlex.split(c) for c in commands(bash)]) == (
        False,
        [["dvfl-recognize", "0", "--top-k", "1"]],
    )
    assert (console.is_run, commands(console)) == (True, ["cd dvfl", "make demo"])
    assert local_links(text) == ["LICENSE#x", "p.png"]
