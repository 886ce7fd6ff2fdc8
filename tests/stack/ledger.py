"""The ledger of RFC 9293: what each MUST asks for, where it is done, and the tests that fail without it.

This file knows how to read `rfc9293.toml`, how to find the tests that name a MUST in
their docstrings, and how to write docs/rfc9293.md from both. It refuses to know
TCP. ``python -m tests.stack.ledger`` (``make docs-ledger``) writes the page anew.
"""

from __future__ import annotations

import ast
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "rfc9293.md"
DATA = Path(__file__).with_name("rfc9293.toml")
SOURCE = ROOT / "src" / "underlay"

# RFC 9293 Appendix B numbers its MUSTs and MUST NOTs from 1 to 69, without a gap.
NAMES = [f"MUST-{number}" for number in range(1, 70)]
_NAME = re.compile(r"MUST-\d+")

_HEAD = """\
# TCP against RFC 9293, line by line

<!-- Written by `make docs-ledger` from tests/stack/rfc9293.toml and the docstrings of the tests. Do not edit. -->

Appendix B of [RFC 9293](https://www.rfc-editor.org/rfc/rfc9293#appendix-B) numbers everything that a TCP *must* do
or must not do: MUST-1 to MUST-69. For each this page says in its own words what is asked for (with the section that
says it in full), which file of `src/underlay` does it, and which tests fail if it is removed.

The last is not a promise: `make test-long` takes each behaviour out of a copy of the code, in one way or several, and
sees that at least one of the tests of its row fails.

**Where this TCP differs** from the letter of the RFC, or does more or less by a setting, the row says so. Almost
always it is where Linux differs too, and there is a setting that brings the letter back.

| | Asks for | Done in | Tests that fail without it |
|---|---|---|---|
"""


@dataclass(frozen=True)
class Break:
    """One way to take a behaviour out of the code: every `old` in `file` becomes `new`."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Requirement:
    """One row of the ledger."""

    name: str
    section: str
    says: str
    """What it asks for, in our words."""
    done: tuple[str, ...]
    """Files below src/underlay."""
    differs: str
    """How our TCP departs from the letter, or by which setting; "" if it does not."""
    breaks: tuple[Break, ...]


@dataclass(frozen=True, order=True)
class NamedTest:
    """A test function that names a MUST."""

    path: str
    function: str

    @property
    def node(self) -> str:
        """What pytest is told to run just this."""
        return f"{self.path}::{self.function}"


def requirements() -> list[Requirement]:
    """Read the data file, in the order of the numbers."""
    raw = tomllib.loads(DATA.read_text())
    return [
        Requirement(
            name=name,
            section=row["section"],
            says=row["says"],
            done=tuple(row["done"]),
            differs=row.get("differs", ""),
            breaks=tuple(Break(**each) for each in row["breaks"]),
        )
        for name, row in sorted(raw.items(), key=lambda item: int(item[0].removeprefix("MUST-")))
    ]


def named_tests() -> dict[str, list[NamedTest]]:
    """Find every test whose docstring names a MUST."""
    found: dict[str, list[NamedTest]] = {}
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        text = file.read_text()
        if "MUST-" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                said = ast.get_docstring(node) or ""
                for name in dict.fromkeys(_NAME.findall(said)):
                    found.setdefault(name, []).append(NamedTest(str(file.relative_to(ROOT)), node.name))
    return {name: sorted(tests) for name, tests in found.items()}


def names_anywhere() -> set[str]:
    """Every MUST that the code or the tests speak of, in comments too."""
    files = [*SOURCE.rglob("*.py"), *(ROOT / "tests").rglob("test_*.py")]
    return {name for file in files for name in _NAME.findall(file.read_text())}


def page() -> str:
    """Write the whole page."""
    tests = named_tests()
    rows = []
    for each in requirements():
        says = f"{each.says} (§{each.section})"
        if each.differs:
            says += f"<br>**Differs:** {each.differs}"
        done = "<br>".join(f"`{file}`" for file in each.done)
        named = "<br>".join(
            f"`{test.path.removeprefix('tests/').removesuffix('.py')}`: `{test.function}`"
            for test in tests.get(each.name, [])
        )
        rows.append(f"| {each.name} | {says} | {done} | {named} |\n")
    return _HEAD + "".join(rows)


if __name__ == "__main__":
    PAGE.write_text(page())
