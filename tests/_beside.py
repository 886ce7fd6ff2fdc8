"""Folders of tests that wait more than they work, each group run by a pytest of its own beside this one.

Theirs are real reports, written by that pytest and told again in this one where the tests have their turn, at the end.
It knows pytest's reports and the background. It refuses to know what any test shows.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from tests._background import Command, background

# They start processes all the time, and talk to them. What is of no folder here runs in this pytest. The longest group
# is the last: workers take it first.
GROUPS = {
    "channels": (
        "tests/conformance/test_channels.py",
        "tests/conformance/test_executors.py",
        "tests/conformance/test_named_channels.py",
        "tests/conformance/test_synchronisation.py",
        "tests/ipc/",
        "tests/workers/",
    ),
    "journeys": ("tests/journeys/",),
}
FOLDERS = tuple(folder for folders in GROUPS.values() for folder in folders)
# For fewer of a group, a pytest of their own costs more than it brings.
FEWEST = 100
# As with the batches of tests/conformance: the first of them may wait for all.
LIMIT_S = 900
# Set for the pytest that runs them; where to write the reports.
REPORTS = "UNDERLAY_TESTS_BESIDE"


class Beside:
    """Tells the reports of tests that ran elsewhere; those that have none, it leaves to pytest."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        # The group of each chosen test; and of each group whose pytest has ended, what it told of each test.
        self._chosen: dict[str, str] = {}
        self._reports: dict[str, dict[str, list[dict[str, object]]]] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Choose them, and have them run."""
        # A debugger and output that is not captured are for the eyes of who started this one.
        option = self._config.option
        if option.collectonly or option.usepdb or option.capture == "no":
            return
        for group, folders in GROUPS.items():
            items = [item for item in session.items if item.nodeid.startswith(folders)]
            if len(items) >= FEWEST:
                self._choose(group, items)

    def _choose(self, group: str, items: list[pytest.Item]) -> None:
        self._chosen |= {item.nodeid: group for item in items}
        for item in items:
            item.add_marker(pytest.mark.timeout(LIMIT_S))
        names = background().folder / f"{_name(group)}.names"
        names.write_text("\n".join(item.nodeid for item in items))
        arguments = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        arguments += ["-m", self._config.option.markexpr, f"@{names}"]
        environment = {**os.environ, REPORTS: str(_file(group))}
        background().add(_name(group), Command(arguments, environment))

    def _told(self, group: str) -> dict[str, list[dict[str, object]]]:
        """The reports of each test of a group, once its pytest has ended."""
        known = self._reports.get(group)
        if known is None:
            known = self._reports[group] = {}
            background().result(_name(group))
            file = _file(group)
            for line in file.read_text().splitlines() if file.exists() else ():
                told = json.loads(line)
                known.setdefault(told["nodeid"], []).append(told)
        return known

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """Tell what came of it, if it ran there."""
        group = self._chosen.get(item.nodeid)
        if group is None:
            return None
        reports = self._told(group).get(item.nodeid)
        # One that was cut short there, or that ended its pytest, is run here.
        if not reports or reports[-1]["when"] != "teardown":
            return None
        hook = self._config.hook
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for told in reports:
            if told["outcome"] == "skipped" and isinstance(told["longrepr"], list):
                told["longrepr"] = tuple(told["longrepr"])  # JSON has none
            report = hook.pytest_report_from_serializable(config=self._config, data=told)
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True


def _name(group: str) -> str:
    return f"beside-{group}"


def _file(group: str) -> Path:
    return background().folder / f"{_name(group)}.reports"


class Writer:
    """Writes the reports for the pytest that had these tests run, one a line."""

    def __init__(self, config: pytest.Config, file: Path) -> None:
        self._config = config
        self._file = file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add one."""
        told = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        with self._file.open("a") as file:
            file.write(json.dumps(told) + "\n")


def plugin(config: pytest.Config) -> Beside | Writer:
    """What this pytest has to do with it."""
    file = os.environ.pop(REPORTS, None)  # not for a pytest that a test starts
    return Beside(config) if file is None else Writer(config, Path(file))
