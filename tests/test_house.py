"""The house stays as its picture says: style, types, contracts and the habits of its files.

Each tool runs as a test, so that one command shows everything; a tool that is
not installed is a skip that names the remedy. The rules about files that no
tool knows are checked on the syntax tree, without importing anything.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.util
import re
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ._background import Command, background

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "underlay"
HALLWAY = {"errors", "clock", "probe"}
OURS = [ROOT / "src", ROOT / "tests", ROOT / "examples", ROOT / "benchmarks", ROOT / "docs"]

# docs/design.md: "past 600 look for a second noun".
MOST_LINES = 600

# What the pure rooms must not reach: the operating system, a clock, chance.
IMPURE = {"asyncio", "os", "random", "select", "socket", "threading", "time"}


def _source_files() -> list[Path]:
    """List the package's modules, without what Python imports at its start (docs.python.org/3/library/site.html)."""
    return sorted(file for file in PACKAGE.rglob("*.py") if file.name != "sitecustomize.py")


def _all_files() -> list[Path]:
    return sorted(file for top in OURS if top.exists() for file in top.rglob("*.py"))


def _name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def _imports(file: Path) -> Iterator[tuple[int, str, list[str]]]:
    """Yield (level, module, names) for every import in a file; `import a` has no names."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield 0, alias.name, []
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or "", [alias.name for alias in node.names]


LINT_IMPORTS = Path(sysconfig.get_path("scripts")) / "lint-imports"


def _tool(name: str, *words: str | Path) -> pytest.MarkDecorator:
    """Mark a test that judges by what a tool says of the repository, which it says in the background."""
    return pytest.mark.background(name, Command([str(word) for word in words]))


def _is_content(module: str, name: str) -> None:
    """A tool's complaints are the failure."""
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed; remedy: pip install -e '.[lint]'")
    done = background().result(name)
    if done.returncode:
        pytest.fail(f"{name}\n{done.stdout}{done.stderr}", pytrace=False)


@_tool("ruff check", sys.executable, "-m", "ruff", "check")
def test_ruff_finds_nothing_to_complain_of() -> None:
    _is_content("ruff", "ruff check")


@_tool("ruff format --check", sys.executable, "-m", "ruff", "format", "--check")
def test_ruff_would_format_no_file_otherwise() -> None:
    _is_content("ruff", "ruff format --check")


@pytest.mark.timeout(300)  # without its cache mypy reads every library's types first
@_tool("mypy", sys.executable, "-m", "mypy")
def test_mypy_accepts_every_type() -> None:
    _is_content("mypy", "mypy")


@_tool("lint-imports", LINT_IMPORTS, "--no-cache")
def test_imports_keep_the_contracts_of_the_house() -> None:
    _is_content("importlinter", "lint-imports")


@pytest.mark.parametrize("file", _all_files(), ids=_name)
def test_a_file_begins_with_a_docstring_and_has_at_most_600_lines(file: Path) -> None:
    text = file.read_text()
    assert ast.get_docstring(ast.parse(text)), "it does not say what it knows"
    assert text.count("\n") <= MOST_LINES, "look for a second noun"


@pytest.mark.parametrize("file", _source_files(), ids=_name)
def test_the_examples_in_docstrings_run(file: Path) -> None:
    name = ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


@pytest.mark.parametrize("file", [f for f in _source_files() if f.parent != PACKAGE], ids=_name)
def test_a_room_imports_its_own_files_relatively_and_never_the_root_package(file: Path) -> None:
    room = file.relative_to(PACKAGE).parts[0]
    depth = len(file.relative_to(PACKAGE).parts)
    rooms = {path.stem for path in PACKAGE.iterdir()}
    for level, module, names in _imports(file):
        if level == 0:
            assert module.split(".")[:2] != ["underlay", room], f"{module}: import it relatively"
            if not names:
                assert module != "underlay", "import underlay"
        if (level == 0 and module == "underlay") or (level == depth and module == ""):
            assert set(names) <= rooms, f"{names}: the root package itself is not for rooms"


def test_a_pure_room_reaches_no_operating_system_no_clock_and_no_chance() -> None:
    # The contract of import-linter sees a room's files but not its __init__, and
    # lets a room that is not built yet pass; so does this loop.
    for room in ("wire", "stack"):
        for file in (PACKAGE / room).rglob("*.py"):
            reached = {module.split(".")[0] for level, module, _ in _imports(file) if level == 0}
            assert not reached & IMPURE, _name(file)


def _rooms() -> list[str]:
    """Name the root package and each room in it that has a public face."""
    faces = (PACKAGE / "__init__.py", *PACKAGE.glob("*/__init__.py"))
    return sorted(
        ".".join(face.parent.relative_to(PACKAGE.parent).parts) for face in faces if "__all__" in face.read_text()
    )


@pytest.mark.parametrize("room", _rooms())
def test_each_public_name_of_a_room_is_there(room: str) -> None:
    # A face that opens its files late keeps a table of them, and nothing else asks for each name of it.
    face = importlib.import_module(room)
    assert face.__all__
    assert [name for name in face.__all__ if not hasattr(face, name)] == []


@pytest.mark.parametrize("name", sorted(HALLWAY))
def test_the_hallway_imports_no_operating_system(name: str) -> None:
    reached = {module.split(".")[0] for _, module, _ in _imports(PACKAGE / f"{name}.py")}
    assert not reached & (IMPURE | {"signal", "subprocess", "sys", "fcntl", "rich"})


def test_examples_never_import_underlay_but_those_that_show_its_own_interface() -> None:
    for file in (ROOT / "examples").glob("*.py"):
        imported = {module.split(".")[0] for level, module, _ in _imports(file) if level == 0}
        assert "underlay" not in imported, _name(file)


def _declared() -> set[str]:
    """Name every package that pyproject.toml asks for, in any of its lists."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *(each for extra in project["project"]["optional-dependencies"].values() for each in extra),
    ]
    names = {re.split(r"[\[<>=!~; ]", requirement)[0] for requirement in wanted}
    return names - {"underlay"}


def test_the_docs_give_the_reason_for_each_dependency_and_for_no_other() -> None:
    table = (ROOT / "docs" / "dependencies.md").read_text()
    explained = set(re.findall(r"^\| \[?`([\w-]+)`", table, flags=re.MULTILINE))
    assert explained == _declared()


def test_each_change_has_a_fragment_of_a_known_kind() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    kinds = {kind["directory"] for kind in project["tool"]["towncrier"]["type"]}
    for fragment in (ROOT / "changelog.d").iterdir():
        if fragment.name == "README.md":
            continue
        assert fragment.name.split(".")[-2] in kinds, fragment.name
        assert fragment.read_text().strip(), f"{fragment.name} is empty"


@pytest.mark.parametrize("target", ["demo", "test", "test-long", "check", "docs", "bench"])
def test_the_makefile_knows_its_targets(target: str) -> None:
    done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_ci_runs_the_readmes_test_command_and_nothing_else() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert script.rstrip().endswith("exec make test")
    assert re.search(r"^\$ make test$", (ROOT / "README.md").read_text(), flags=re.MULTILINE)


def test_a_python_that_is_too_old_is_one_sentence_with_a_remedy(tmp_path: Path) -> None:
    old = tmp_path / "python3.6"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = subprocess.run([ROOT / ".ci" / "venv", tmp_path / "venv", old], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "is not a Python 3.11 or later; name one that is" in done.stderr
