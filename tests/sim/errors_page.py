"""The table of docs/sim-errors.md, and what two Linux kernels said when it was made.

    python -m tests.sim.errors_page     as root: play all situations on both, and write both anew

It knows the page's words and where the kernels' answers are kept, so that the simulator can be held to them where
there is no root. It refuses to know the situations.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final, TypeAlias

from . import _in_a_world
from ._catalogue import CHAPTERS, situations

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = ROOT / "docs" / "sim-errors.md"
KEPT: Final = Path(__file__).with_name("golden_errors_of_linux.json")
# All of them take some 10 s; a machine may be slow.
LIMIT_S: Final = 300

Said: TypeAlias = dict[str, list[str]]

_HEAD = """\
# Errors like Linux's

<!-- Made by `make docs-errors` from the runs; do not edit. -->

A test on a simulated network is worth something only if a program sees there what it would see on a real one: the same
exception, with the same errno, in the same order with everything else. Each situation below is a pair of plain asyncio
programs, written once (`tests/sim/_situations_*.py`), and played twice: on two hosts of `underlay.sim`, and on two
Linux kernels in network namespaces that a virtual cable joins. What is compared is what the client and the server are
told, in its order; data that came in pieces counts as one. The tests hold the simulator to it on every machine, and as
root the kernels too.

{agree} of {count} agree on Linux {release}.{others}

An answer without an error is `ok`; `still waiting` was given up by the program's own `asyncio.timeout()`.
"""


def kept() -> dict[str, Said]:
    """What the kernels said when the page was made, by title."""
    answers: dict[str, Said] = json.loads(KEPT.read_text())["situations"]
    return answers


def ask_kernels(*words: str) -> dict[str, Said]:
    """Play all situations, or those with one of the words in their title, on two kernels. Takes root."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.sim._on_kernels", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"the kernels were not asked\n{done.stderr}")
    answers: dict[str, Said] = json.loads(done.stdout)
    return answers


def page(release: str, kernels: dict[str, Said], ours: dict[str, Said]) -> str:
    """Write the whole page."""
    count = agree = 0
    others = ""
    body = ""
    for chapter in CHAPTERS:
        body += f"\n## {chapter}\n\n| Situation | The client is told | The server is told | |\n|---|---|---|---|\n"
        for each in situations(chapter):
            title = each.title()
            count += 1
            client, server = (_events(kernels[title][side]) for side in ("client", "server"))
            if each.gap:
                verdict = "not yet"
                others += f"\n\nNot yet: {title}. {_sentence(each.gap)}"
            elif kernels[title] == ours[title]:
                agree += 1
                verdict = "✓"
            else:
                verdict = "differs"
                told = _events(ours[title]["client"])
                others += f"\n\nDiffers: {title}. The simulator's client is told {told}. {_sentence(each.difference)}"
            body += f"| {title} | {client} | {server} | {verdict} |\n"
    return _HEAD.format(agree=agree, count=count, release=release, others=others) + body


def _events(said: list[str]) -> str:
    return " → ".join(f"`{each}`" for each in said) or "—"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def play_all() -> dict[str, Said]:
    """What the simulator says, but for the gaps."""
    return {each.title(): {} if each.gap else _in_a_world.play(each) for each in situations()}


def main() -> None:
    """Ask both, and write what they said."""
    release = ".".join(os.uname().release.split(".")[:2])
    kernels = ask_kernels()
    kernels = {each.title(): kernels[each.title()] for each in situations()}
    KEPT.write_text(json.dumps({"release": release, "situations": kernels}, indent=1) + "\n")
    PAGE.write_text(page(release, kernels, play_all()))


if __name__ == "__main__":
    main()
