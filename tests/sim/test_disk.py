"""The disk of a host: files as a program knows them, and what a crash leaves of those that were not brought to it.

It knows one disk, and at the end a program on a host. Nothing here touches the real file system.
"""

from __future__ import annotations

import asyncio
import errno
import io
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from underlay.sim import Disk, World, current_host
from underlay.sim import _disk as disk_module
from underlay.sim._disk import COMMIT_S, SECTOR_BYTES, WRITEBACK_S


class Clock:
    def __init__(self) -> None:
        self.now = 0.0


def disk(seed: int = 1, clock: Clock | None = None) -> Disk:
    clock = clock or Clock()
    return Disk(lambda: clock.now, lambda: Random(seed))


def write(disk: Disk, path: str, data: bytes, *, sync: bool, mode: str = "wb") -> None:
    with disk.open(path, mode) as file:
        file.write(data)
        file.flush()
        if sync:
            disk.fsync(file)


def error_of(call: object, *arguments: object) -> int | None:
    with pytest.raises(OSError, match=r"\[Errno") as caught:
        call(*arguments)  # type: ignore[operator]
    return caught.value.errno


# --- as long as the power holds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["r", "w", "a", "x", "r+", "w+", "a+", "rb", "wb", "ab", "xb", "rb+", "wb+", "ab+"])
def test_a_file_of_each_mode_is_what_open_gives(mode: str, tmp_path: object) -> None:
    real = str(tmp_path) + "/file"
    ours = disk()
    if "x" not in mode:
        with open(real, "w") as file:
            file.write("one\ntwo\n")
        write(ours, "/file", b"one\ntwo\n", sync=False)
    ends = []
    for make, path in ((open, real), (ours.open, "/file")):
        with make(path, mode) as file:
            assert (file.readable(), file.writable(), file.seekable()) == (
                "r" in mode or "+" in mode,
                "r" not in mode or "+" in mode,
                True,
            )
            did: list[object] = [type(file).__name__, file.tell()]
            if file.writable():
                did.append(file.write("three" if "b" not in mode else b"three"))
                did.append(file.tell())
            if file.readable():
                file.seek(0)
                did += [file.readline(), file.read()]
            ends.append(did)
    assert ends[0] == ends[1]
    with open(real, "rb") as file:
        assert ours.read_bytes("/file") == file.read()


def test_a_text_file_has_lines_and_a_binary_one_offsets() -> None:
    ours = disk()
    with ours.open("/text", "w") as file:
        print("grüß", "Gott", file=file)
    with ours.open("/text") as file:
        assert list(file) == ["grüß Gott\n"]
    with ours.open("/text", "rb+", buffering=0) as raw:
        raw.seek(-1, 2)
        raw.write(b"!!")
        raw.truncate(3)
        assert raw.seek(0, 1) == 13
        raw.write(b"z")  # behind the end: a hole of zeros
    assert ours.read_bytes("/text") == b"gr" + b"\xc3" + bytes(10) + b"z"


def test_errors_are_those_of_the_kernel() -> None:
    ours = disk()
    ours.mkdir("/d")
    write(ours, "/d/f", b"x", sync=False)
    assert error_of(ours.open, "/none") == errno.ENOENT
    assert error_of(ours.open, "/none/f", "w") == errno.ENOENT
    assert error_of(ours.open, "/d/f/g", "w") == errno.ENOTDIR
    assert error_of(ours.open, "/d", "w") == errno.EISDIR
    assert error_of(ours.open, "/d/f", "x") == errno.EEXIST
    assert error_of(ours.mkdir, "/d") == errno.EEXIST
    assert error_of(ours.rmdir, "/d") == errno.ENOTEMPTY
    assert error_of(ours.rmdir, "/d/f") == errno.ENOTDIR
    assert error_of(ours.rmdir, "/") == errno.EBUSY
    assert error_of(ours.unlink, "/d") == errno.EISDIR
    assert error_of(ours.rename, "/d", "/d/e") == errno.EINVAL
    assert error_of(ours.rename, "/d/f", "/d") == errno.EISDIR
    assert error_of(ours.rename, "/d", "/d/f") == errno.EINVAL
    assert error_of(ours.listdir, "/d/f") == errno.ENOTDIR
    assert error_of(ours.fsync, 99) == errno.EBADF
    with pytest.raises(ValueError, match="invalid mode: 'rw'"):
        ours.open("/d/f", "rw")
    with ours.open("/d/f") as file, pytest.raises(io.UnsupportedOperation):
        file.write("x")


def test_names_are_listed_and_directories_move_with_what_is_in_them() -> None:
    ours = disk()
    ours.mkdir("/a")
    ours.mkdir("/a/b")
    write(ours, "/a/b/file", b"1", sync=False)
    write(ours, "/a/top", b"2", sync=False)
    ours.rename("/a", "/z")
    assert ours.listdir() == ["z"]
    assert ours.listdir("/z") == ["b", "top"]
    assert ours.read_bytes("/z/b/../b/file") == b"1"
    ours.unlink("/z/b/file")
    ours.rmdir("/z/b")
    assert ours.listdir("/z") == ["top"]
    assert not ours.exists("/z/b")
    assert ours.getsize("/z/top") == 1


def test_whoever_has_a_removed_file_open_goes_on_with_it() -> None:
    ours = disk()
    with ours.open("/f", "w+") as file:
        ours.unlink("/f")
        file.write("still")
        file.seek(0)
        assert file.read() == "still"
    assert ours.listdir() == []


def test_a_full_disk_says_so_and_has_room_again_when_something_is_removed() -> None:
    ours = disk()
    ours.size_bytes = 1000
    write(ours, "/a", bytes(900), sync=False)
    file = ours.open("/b", "wb", buffering=0)
    assert error_of(file.write, bytes(200)) == errno.ENOSPC
    ours.truncate("/a", 100)
    assert file.write(bytes(200)) == 200
    ours.unlink("/a")
    assert file.write(bytes(800)) == 800
    file.close()
    ours.limit_files = 3
    write(ours, "/c", b"", sync=False)
    assert error_of(ours.mkdir, "/d") == errno.ENOSPC


# --- when it fails ---------------------------------------------------------------------------------------------------


def test_what_was_synced_is_there_after_a_crash_whatever_the_seed() -> None:
    for seed in range(50):
        ours = disk(seed)
        write(ours, "/f", b"kept" * 1000, sync=True)
        write(ours, "/f", b"more" * 1000, sync=False, mode="ab")
        ours.crash()
        assert ours.read_bytes("/f")[:4000] == b"kept" * 1000


def test_of_what_was_not_synced_a_crash_leaves_all_or_nothing_or_some_sectors() -> None:
    fates = set()
    for seed in range(60):
        ours = disk(seed)
        write(ours, "/f", b"a" * 4 * SECTOR_BYTES, sync=True)
        write(ours, "/f", b"b" * 4 * SECTOR_BYTES, sync=False, mode="rb+")
        ours.crash()
        left = ours.read_bytes("/f")
        sectors = [left[at : at + SECTOR_BYTES] for at in range(0, len(left), SECTOR_BYTES)]
        assert all(sector in (b"a" * SECTOR_BYTES, b"b" * SECTOR_BYTES) for sector in sectors)
        fates.add("".join(chr(sector[0]) for sector in sectors))
    assert {"aaaa", "bbbb"} < fates
    assert len(fates) > 6


def test_an_appended_record_may_be_torn_and_a_hole_in_it_reads_as_zeros() -> None:
    left = set()
    for seed in range(60):
        ours = disk(seed)
        write(ours, "/log", b"", sync=True)
        write(ours, "/log", b"r" * 3 * SECTOR_BYTES, sync=False, mode="ab")
        ours.crash()
        data = ours.read_bytes("/log")
        assert len(data) % SECTOR_BYTES == 0
        left.add(bytes(data[::SECTOR_BYTES]))
    assert {b"", b"rrr", b"r", b"\0\0r"} <= left


def test_a_new_files_name_may_be_lost_unless_it_was_synced() -> None:
    there = {True: 0, False: 0}
    for seed in range(40):
        ours = disk(seed)
        write(ours, "/new", b"x", sync=False)
        ours.crash()
        there[ours.exists("/new")] += 1
    assert all(there.values())
    for seed in range(40):
        ours = disk(seed)
        write(ours, "/new", b"x", sync=True)
        ours.crash()
        assert ours.exists("/new")


def test_on_a_strict_disk_a_name_needs_its_directory_synced() -> None:
    lost = 0
    for seed in range(40):
        ours = disk(seed)
        ours.strict = True
        write(ours, "/new", b"x", sync=True)
        ours.crash()
        lost += not ours.exists("/new")
    assert lost
    for seed in range(40):
        ours = disk(seed)
        ours.strict = True
        write(ours, "/new", b"x", sync=True)
        ours.fsync("/")
        ours.crash()
        assert ours.read_bytes("/new") == b"x"


def test_a_rename_is_whole_or_has_not_been() -> None:
    seen = set()
    for seed in range(40):
        ours = disk(seed)
        write(ours, "/state", b"old", sync=True)
        write(ours, "/state.tmp", b"new", sync=True)
        ours.rename("/state.tmp", "/state")
        ours.crash()
        seen.add((ours.read_bytes("/state"), tuple(ours.listdir())))
    assert seen == {(b"old", ("state", "state.tmp")), (b"new", ("state",))}


def test_a_file_that_was_renamed_before_its_fsync_may_be_empty() -> None:
    seen = set()
    for seed in range(60):
        ours = disk(seed)
        write(ours, "/state", b"old", sync=True)
        write(ours, "/state.tmp", b"new", sync=False)
        ours.rename("/state.tmp", "/state")
        ours.crash()
        seen.add(ours.read_bytes("/state"))
    assert seen == {b"old", b"new", b""}


def test_names_reach_the_disk_in_their_order() -> None:
    for seed in range(40):
        ours = disk(seed)
        for number in range(10):
            ours.mkdir(f"/{number}")
        ours.crash()
        assert ours.listdir() == [str(number) for number in range(len(ours.listdir()))]


def test_what_is_old_has_been_written_unasked() -> None:
    for seed in range(20):
        clock = Clock()
        ours = disk(seed, clock)
        write(ours, "/f", b"old", sync=False)
        clock.now += max(WRITEBACK_S, COMMIT_S)
        write(ours, "/f", b"new", sync=False, mode="ab")
        ours.crash()
        assert ours.read_bytes("/f").startswith(b"old")


def test_sync_brings_everything_to_the_disk() -> None:
    for seed in range(20):
        ours = disk(seed)
        ours.mkdir("/d")
        write(ours, "/d/f", b"x" * 5000, sync=False)
        ours.sync()
        ours.crash()
        assert ours.read_bytes("/d/f") == b"x" * 5000


def test_what_pythons_buffers_held_is_lost_and_their_late_flush_harms_nothing() -> None:
    ours = disk()
    write(ours, "/f", b"", sync=True)
    file = ours.open("/f", "wb")
    file.write(b"in the buffer only")
    ours.crash()
    file.close()
    assert ours.read_bytes("/f") == b""


def test_more_writes_than_may_wait_are_written_and_the_oldest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_module, "LIMIT_WRITES", 10)
    ours = disk(3)
    with ours.open("/f", "wb", buffering=0) as file:
        for number in range(100):
            file.write(bytes([number]))
        ours.fsync("/")
        for _ in range(90):
            file.write(b"!")
    ours.crash()
    assert ours.read_bytes("/f")[:180] == bytes(range(100)) + b"!" * 80


@given(st.integers(0, 10**6), st.data())
@settings(max_examples=60, deadline=None)
def test_after_a_crash_a_disk_is_what_it_says_and_crashes_no_further(seed: int, data: st.DataObject) -> None:
    ours = disk(seed)
    paths = ["/a", "/b", "/d/a"]
    for _ in range(data.draw(st.integers(0, 25))):
        action = data.draw(st.sampled_from(["write", "append", "sync", "rename", "unlink", "mkdir", "cut"]))
        path = data.draw(st.sampled_from(paths))
        try:
            if action in ("write", "append"):
                size = data.draw(st.integers(0, 2000))
                write(ours, path, b"x" * size, sync=False, mode="wb" if action == "write" else "ab")
            elif action == "sync":
                ours.fsync("/")
            elif action == "rename":
                ours.rename(path, data.draw(st.sampled_from(paths)))
            elif action == "unlink":
                ours.unlink(path)
            elif action == "mkdir":
                ours.mkdir("/d")
            else:
                ours.truncate(path, data.draw(st.integers(0, 3000)))
        except OSError:
            pass

    def files(directory: str = "/") -> dict[str, bytes]:
        found = {}
        for name in ours.listdir(directory):
            path = directory.rstrip("/") + "/" + name
            try:
                found.update(files(path))
            except NotADirectoryError:
                found[path] = ours.read_bytes(path)
        return found

    ours.crash()
    left = files()
    assert ours._used_bytes == sum(map(len, left.values()))
    ours.crash()
    assert files() == left


# --- on a host -------------------------------------------------------------------------------------------------------


def test_a_program_finds_after_a_crash_what_it_had_synced() -> None:
    async def count() -> None:
        disk = current_host().disk
        if not disk.exists("/starts"):
            disk.open("/starts", "w").close()
        with disk.open("/starts", "a") as file:
            file.write("start\n")
            file.flush()
            disk.fsync(file)
            file.write("and a line in the buffer\n")
            await asyncio.Event().wait()

    async def test(world: World) -> bytes:
        host = world.host("db", start=count)
        for _ in range(3):
            await asyncio.sleep(1)
            host.crash()
            host.restart()
        await asyncio.sleep(1)
        host.kill()
        return host.disk.read_bytes("/starts")

    assert World(1).run(test) == b"start\n" * 4


def test_a_killed_programs_writes_are_its_kernels_and_stay() -> None:
    async def test(world: World) -> bytes:
        async def note() -> None:
            with current_host().disk.open("/f", "wb", buffering=0) as file:
                file.write(b"never synced")
                await asyncio.Event().wait()

        host = world.host("db", start=note)
        await asyncio.sleep(1)
        host.kill()
        return host.disk.read_bytes("/f")

    assert {World(seed).run(test) for seed in range(10)} == {b"never synced"}


def test_what_a_crash_takes_is_the_seeds() -> None:
    async def test(world: World) -> bytes:
        disk = world.host("db").disk
        write(disk, "/f", b"", sync=True)
        for _ in range(5):
            write(disk, "/f", b"x" * 700, sync=False, mode="ab")
        world.host("db").crash()
        return disk.read_bytes("/f")

    left = [World(seed).run(test) for seed in range(10)]
    assert left == [World(seed).run(test) for seed in range(10)]
    assert len(set(left)) > 3
