"""Errors of the simulator are those of Linux: type, errno, and the order of everything that a program is told.

It knows who is compared with whom: the simulator with what two kernels said when docs/sim-errors.md was made, and as
root the two kernels of this machine with the same. The situations stand in ``_situations_*.py``.
"""

from __future__ import annotations

import functools
import json
import os
import shutil

import pytest

from underlay.link import Namespace

from . import _in_a_world, errors_page
from ._catalogue import situations
from ._situations import Situation

EACH = pytest.mark.parametrize("situation", situations(), ids=lambda each: each.__name__)


@EACH
def test_the_simulator_tells_programs_what_linux_tells_them(situation: type[Situation]) -> None:
    if situation.gap:
        pytest.skip(situation.gap)
    ours, kernels = _in_a_world.play(situation), errors_page.kept()[situation.title()]
    if situation.difference:
        assert ours != kernels, "they agree: take its difference away"
    else:
        assert ours == kernels


@functools.cache
def _asked() -> dict[str, errors_page.Said]:
    return errors_page.ask_kernels()


@pytest.mark.timeout(errors_page.LIMIT_S)
@EACH
def test_the_kernels_here_say_what_is_kept_of_them(situation: type[Situation]) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may make network namespaces; remedy: run the tests as root")
    if shutil.which("ip") is None:
        pytest.skip("ip is not installed; remedy: apt-get install iproute2")
    try:
        Namespace.create().close()
    except OSError as error:
        pytest.skip(f"no network namespace may be made here ({error.strerror}); remedy: CAP_SYS_ADMIN")
    title = situation.title()
    kept = errors_page.kept()[title]
    # Real time passes: on a machine that is busy with other things, one that differs is asked again alone.
    if _asked()[title] != kept:
        assert errors_page.ask_kernels(title)[title] == kept


def test_titles_differ() -> None:
    titles = [each.title() for each in situations()]
    assert len(set(titles)) == len(titles) >= 50


def test_the_page_shows_these_runs() -> None:
    """`make docs-errors` writes it anew."""
    kept = json.loads(errors_page.KEPT.read_text())
    assert errors_page.PAGE.read_text() == errors_page.page(kept["release"], kept["situations"], errors_page.play_all())
