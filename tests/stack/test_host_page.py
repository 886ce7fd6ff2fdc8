"""docs/host.md says what the code says: its tables of states, reasons and limits are whole and right.

To write the tables anew: ``python -m tests.stack.test_host_page`` prints them.
"""

from __future__ import annotations

import ast
import enum
import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from underlay.stack import HostConfig, TcpConfig
from underlay.stack._address_detection import CLAIM_TRANSITIONS
from underlay.stack._igmp import MEMBERSHIP_TRANSITIONS
from underlay.stack._neighbours import NEIGHBOUR_TRANSITIONS

ROOT = Path(__file__).resolve().parents[2]
STACK = ROOT / "src" / "underlay" / "stack"
PAGE = (ROOT / "docs" / "host.md").read_text()
HOSTS_PART, _, _TCPS = PAGE.partition("## What TCP drops, and why")
TCPS_PART = _TCPS.partition("## Limits")[0]


_State = TypeVar("_State", bound=enum.Enum)
_Event = TypeVar("_Event", bound=enum.Enum)


def transition_rows(table: Mapping[tuple[_State, _Event], _State]) -> list[str]:
    return [f"| {state.value} | {event.value} | {after.value} |" for (state, event), after in table.items()]


TABLES = [
    transition_rows(NEIGHBOUR_TRANSITIONS),
    transition_rows(CLAIM_TRANSITIONS),
    transition_rows(MEMBERSHIP_TRANSITIONS),
]


def limit_rows(config: HostConfig | TcpConfig) -> list[str]:
    """Each setting with its default and the first paragraph of what stands below it."""
    rows = []
    file = "_host_config.py" if isinstance(config, HostConfig) else "_tcp_options.py"
    source = ast.parse((STACK / file).read_text())
    made = next(each for each in source.body if isinstance(each, ast.ClassDef) and each.name == type(config).__name__)
    for field, text in itertools.pairwise(made.body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            name = field.target.id
            said = text.value.value
            if name not in ("tcp", "options") and isinstance(said, str):
                first = " ".join(said.split("\n\n")[0].split())
                rows.append(f"| `{name}` | {getattr(config, name)} | {first} |")
    return rows


def reasons() -> set[str]:
    """Every reason that a file of the stack, TCP's aside, may count."""
    found: set[str] = set()
    for file in STACK.glob("*.py"):
        if file.name.startswith("_tcp"):
            continue
        text = file.read_text()
        found |= set(re.findall(r'count\("([a-z0-9_.]+)"', text))
        families = {"_fragments.py": ("ip", "ip6"), "_neighbours.py": ("arp", "nd")}.get(file.name, ())
        endings = re.findall(r"reasons\}\.([a-z_]+)", text) + re.findall(r'_refuse\(packet, "([a-z_]+)"', text)
        found |= {f"{family}.{ending}" for family in families for ending in endings}
        found |= {"ip.not_for_us", "ip6.not_for_us"}  # chosen between in one expression
    return found


def tcp_reasons() -> set[str]:
    """Every reason that TCP may count; one is chosen between two in one expression."""
    found: set[str] = set()
    for file in STACK.glob("_tcp*.py"):
        for call in re.findall(r'(?:count|_challenge)\([^"\n]*"[^\n]*', file.read_text()):
            found |= set(re.findall(r'"([a-z0-9_.]+)"', call))
    return found


def test_the_tables_of_states_are_those_the_code_runs_on() -> None:
    for table in TABLES:
        rows = "\n".join(table)
        assert f"|---|---|---|\n{rows}\n\n" in PAGE, rows


def test_every_limit_stands_on_the_page_with_its_default() -> None:
    for config in (HostConfig(), TcpConfig()):
        rows = limit_rows(config)
        assert len(rows) > 20
        assert "\n".join(rows) in PAGE


def test_every_reason_is_explained_and_no_other() -> None:
    explained = set(re.findall(r"^\| `([a-z0-9_]+\.[a-z0-9_]+)` \|", HOSTS_PART, flags=re.MULTILINE))
    assert explained == reasons()
    assert set(re.findall(r"^\| `([a-z0-9_.]+)` \|", TCPS_PART, flags=re.MULTILINE)) == tcp_reasons()


if __name__ == "__main__":
    for each in TABLES:
        print("\n".join(each), end="\n\n")
    print("\n".join(limit_rows(HostConfig())), end="\n\n")
    print("\n".join(limit_rows(TcpConfig())), end="\n\n")
    print("\n".join(sorted(reasons() | tcp_reasons())))
