"""What `underlay net` has made is written down, read again, and told apart by network namespace."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from underlay.tools import _net_places
from underlay.tools._net_places import here, place
from underlay.tools._net_records import Record, Records

RECORD = Record("tap7", "tap", ("10.9.0.1/24",), None, 0, None, False)


def test_a_record_that_was_written_is_read_again_and_removed(tmp_path: Path) -> None:
    records = Records(tmp_path)
    with records.locked():
        records.write(RECORD)
    assert records.all() == [RECORD]
    assert records.get("tap7") == RECORD
    records.remove(RECORD)
    records.remove(RECORD)
    assert records.all() == []


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"name": "tap7"}', '{"addresses": 5}'])
def test_a_record_that_is_none_is_passed_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "tap7.json").write_text(text)
    assert Records(tmp_path).all() == []


def test_records_of_one_name_in_two_networks_are_two(tmp_path: Path) -> None:
    records = Records(tmp_path)
    ours, theirs = replace(RECORD, network=here()), replace(RECORD, network="4:1")
    records.write(ours)
    records.write(theirs)
    assert records.get("tap7") == ours
    assert records.elsewhere("tap7") == [theirs]
    records.remove(ours)
    assert records.get("tap7") is None
    assert records.all() == [theirs]


def test_a_record_that_an_older_version_wrote_is_of_this_network(tmp_path: Path) -> None:
    text = '{"name": "tap7", "kind": "tap", "addresses": [], "mtu_bytes": null, "owner": 0, "namespace": null, '
    (tmp_path / "tap7.json").write_text(text + '"made_namespace": false}')
    records = Records(tmp_path)
    found = records.get("tap7")
    assert found is not None and found.network is None
    records.remove(found)
    assert records.all() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="to others than root no network ends; remedy: run the tests as root")
def test_a_network_that_ended_is_not_the_one_that_has_its_inode_now() -> None:
    device, inode, *unique = here().split(":")
    if not unique:
        pytest.skip("this kernel gives a network no id; remedy: Linux 6.18")
    assert place(f"{device}:{inode}") is not None  # as an older kernel writes it
    assert place(f"{device}:{inode}:{int(unique[0]) + 1_000_000}") is None


def test_a_process_that_ends_while_it_is_asked_holds_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "net"
    file.touch()
    network = f"{file.stat().st_dev}:{file.stat().st_ino}:7"
    monkeypatch.setattr(_net_places, "_id", lambda file: None)  # as a kernel that tells of no ids
    assert _net_places._is(file, network)
    monkeypatch.setattr(_net_places, "_id", lambda file: file.unlink())
    assert not _net_places._is(file, network)


@pytest.mark.parametrize("network", ["", "4", "4:", "4:1:x", "::"])
def test_what_is_no_network_s_number_is_found_nowhere(network: str) -> None:
    found = place(network)
    assert found is None or (os.geteuid() != 0 and found.process is None and str(found).startswith("net:["))


def test_this_network_has_a_process() -> None:
    found = place(here())
    assert found is not None and found.process is not None
