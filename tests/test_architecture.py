"""The rules that the code base keeps: who imports what and when, names and sizes."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packages import PACKAGES, RUNTIME
from shared import ROOT

from dvfl_bench.cli import parser as bench_parser
from dvfl_export.eval_cli import parser as eval_parser
from dvfl_runtime.app.options import make_parser as recognize_parser
from dvfl_runtime.archive.options import make_parser as archive_parser
from dvfl_runtime.arguments import Parser
from dvfl_runtime.teach.cli import make_parser as teach_parser

MODULES = sorted(module for package in PACKAGES for module in package.rglob("*.py"))
HEAVY = {
    *("torch", "onnx", "onnxruntime", "cv2", "av", "openvino", "tensorrt", "kornia", "pydantic"),
    *("starlette", "uvicorn", "ray", "fsspec"),
}
# packages that one room alone may use; their modules are imported when its command has work to do
OF_ONE_ROOM = {"pyarrow": "archive", "ray": "archive", "fsspec": "archive"}
MAX_IMPORT_S = 0.3  # of processor time: a busy neighbour makes the same import wait for seconds
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_ROOT_MODULES = 8  # of a package: what is more belongs in one of its rooms
VAGUE_NAMES = {"util", "utils", "helper", "helpers", "manager", "managers", "misc", "common"}
FIT_PARSER = teach_parser().parse_args(["fit", ".", "-o", "m.onnx"]).parser
TIMED_IMPORT = """
import json, sys, time
begin = time.process_time()
import dvfl_runtime
print(json.dumps([time.process_time() - begin, sorted(sys.modules)]))
"""


def each_module(modules: list[Path]) -> pytest.MarkDecorator:
    names = [str(module.relative_to(ROOT)) for module in modules]
    return pytest.mark.parametrize("module", modules, ids=names)


def parse(module: Path) -> ast.Module:
    return ast.parse(module.read_text(encoding="utf-8"), str(module))


def run_import() -> tuple[float, set[str]]:
    """Return what importing the runtime costs a new process, s, and the packages it has loaded."""
    command = [sys.executable, "-c", TIMED_IMPORT]
    # pip compiles what it installs: with this set, each import would compile the sources again
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    elapsed_s, names = json.loads(result.stdout)
    return elapsed_s, {name.partition(".")[0] for name in names}


def statements_run_at_import(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        yield child
        yield from statements_run_at_import(child)


def imported_packages(statement: ast.AST) -> set[str]:
    if isinstance(statement, ast.Import):
        return {alias.name.partition(".")[0] for alias in statement.names}
    if isinstance(statement, ast.ImportFrom) and statement.module and not statement.level:
        return {statement.module.partition(".")[0]}
    return set()


def test_imports_point_in_the_allowed_directions() -> None:
    program = "from importlinter.cli import lint_imports_command as lint; lint()"
    command = [sys.executable, "-c", program, "--no-cache", "--no-logo"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_importing_the_runtime_is_light_and_quick() -> None:
    runs = [run_import() for _ in range(5)]
    assert not runs[0][1] & HEAVY
    assert min(elapsed_s for elapsed_s, _ in runs) < MAX_IMPORT_S


@each_module(sorted(RUNTIME.rglob("*.py")))
def test_the_runtime_imports_engines_and_decoders_late(module: Path) -> None:
    early = {
        name for node in statements_run_at_import(parse(module)) for name in imported_packages(node)
    }
    assert not early & HEAVY


@each_module(sorted(RUNTIME.rglob("*.py")))
def test_some_packages_belong_to_one_room(module: Path) -> None:
    names = {name for node in ast.walk(parse(module)) for name in imported_packages(node)}
    room = module.relative_to(RUNTIME).parts[0]
    assert {name for name in names if OF_ONE_ROOM.get(name, room) != room} == set()


@each_module(sorted(RUNTIME.rglob("*.py")))
def test_the_runtime_raises_its_own_errors(module: Path) -> None:
    raised = (node.exc for node in ast.walk(parse(module)) if isinstance(node, ast.Raise))
    names = {ast.unparse(error.func) for error in raised if isinstance(error, ast.Call)}
    assert not names & {"Exception", "KeyError", "RuntimeError", "TypeError", "ValueError"}


# what a command cannot ask for cannot be wrong either
@pytest.mark.parametrize(
    ("parser", "never_asked_for"),
    [
        (recognize_parser(), set()),
        (archive_parser(), set()),
        (FIT_PARSER, {"precision"}),
        (eval_parser(), set()),
        (bench_parser(), set()),
    ],
    ids=lambda one: getattr(one, "prog", ""),
)
def test_hints_of_the_engines_are_about_arguments_that_are_options_too(
    parser: Parser, never_asked_for: set[str]
) -> None:
    """Commands turn `pass engine='x'` into `pass --engine x` where they have such an option."""
    text = "".join(module.read_text(encoding="utf-8") for module in RUNTIME.glob("engines/*.py"))
    hints = set(re.findall(r"(?:pass|or) (\w+)='", text))
    assert hints >= {"device", "engine", "precision"}
    assert hints - never_asked_for <= {action.dest for action in parser._actions}


def test_hints_about_other_arguments_come_last_where_commands_can_leave_them_out() -> None:
    everywhere = {"device", "engine", "precision"}
    hints = []
    for module in RUNTIME.rglob("*.py"):
        nodes = (node for node in ast.walk(parse(module)) if isinstance(node, ast.Constant))
        texts = [node.value for node in nodes if isinstance(node.value, str)]
        hints += [text for text in texts if re.search(r"\bpass \w+=", text)]
    others = [text for text in hints if re.search(r"\bpass (\w+)=", text)[1] not in everywhere]
    assert others
    assert [text for text in others if not re.search(r", or pass \w+=\w+$", text)] == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import av", {"av"}),
        ("try:\n    from cv2 import resize\nexcept ImportError: pass", {"cv2"}),
        ("class A:\n    import torch.nn", {"torch"}),
        ("def f():\n    import av", set()),
        ("if TYPE_CHECKING:\n    import av", set()),
        ("from . import av", set()),
    ],
)
def test_early_imports_are_told_from_late_ones(code: str, found: set[str]) -> None:
    nodes = statements_run_at_import(ast.parse(code))
    assert {name for node in nodes for name in imported_packages(node)} == found


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert not [str(module) for module in MODULES if module.stem in VAGUE_NAMES]


@pytest.mark.parametrize("package", PACKAGES, ids=[package.name for package in PACKAGES])
def test_a_package_has_few_modules_outside_its_rooms(package: Path) -> None:
    modules = sorted(m.stem for m in package.glob("*.py") if m.stem != "__init__")
    assert len(modules) <= MAX_ROOT_MODULES, modules


@each_module(MODULES)
def test_modules_and_functions_stay_readable(module: Path) -> None:
    assert len(module.read_text(encoding="utf-8").splitlines()) <= MAX_MODULE_LINES
    functions = (
        node
        for node in ast.walk(parse(module))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert {name: n for name, n in lengths.items() if n > MAX_FUNCTION_LINES} == {}


@each_module([module for module in MODULES if not module.stem.endswith("cli")])
def test_only_commands_print(module: Path) -> None:
    calls = (node for node in ast.walk(parse(module)) if isinstance(node, ast.Call))
    prints = [c.lineno for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
    assert prints == []
