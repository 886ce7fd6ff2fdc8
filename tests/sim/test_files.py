"""Programs that know nothing of a world and keep files: on a host's disk they find what the real machine would give.

It knows the calls. What a crash leaves of a file is in `test_disk.py`, and at the end here by plain ``open``.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import glob
import json
import os
import pathlib
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from os import replace as replace_imported_before

import pytest

from underlay.errors import UnderlayError, UsageError
from underlay.sim import World

ROOT = "/var/lib/a-db-of-no-real-machine"


def on_a_host(program: Callable[[str], object], seed: int = 1, root: str = ROOT) -> object:
    """What a program says of a directory on a host's disk."""

    async def test(world: World) -> object:
        async with world.host("db", disk=root):
            return program(root)

    return World(seed).run(test)


def errno_of(call: Callable[..., object], *arguments: object, **words: object) -> tuple[int | None, str, str]:
    try:
        call(*arguments, **words)
    except OSError as error:
        one, other = (
            "" if name is None else os.fspath(name).rpartition("/")[2] for name in (error.filename, error.filename2)
        )
        return error.errno, one, other
    return None, "", ""


# --- programs, each run on a host and on the real machine -----------------------------------------------------------


def open_and_read(root: str) -> object:
    with open(f"{root}/a", "w") as file:
        file.write("one\ntwo\n")
        mode, name = file.mode, file.name.removeprefix(root)
    with open(f"{root}/a", "rb") as file:
        file.seek(4)
        rest = file.read()
    with open(f"{root}/a") as file:
        return mode, name, rest, list(file)


def pathlib_does(root: str) -> object:
    here = pathlib.Path(root)
    (here / "x" / "y").mkdir(parents=True)
    here.mkdir(parents=True, exist_ok=True)
    (here / "x" / "f.txt").write_text("text")
    (here / "x" / "g.bin").write_bytes(b"bytes")
    (here / "x" / "f.txt").rename(here / "x" / "h.txt")
    (here / "x" / "g.bin").replace(here / "x" / "y" / "g.bin")
    (here / "touched").touch()
    seen = sorted(str(each.relative_to(here)) for each in here.rglob("*"))
    status = (here / "x" / "h.txt").stat()
    kinds = [(here / "x").is_dir(), (here / "x/h.txt").is_file(), (here / "no").exists(), (here / "x").is_symlink()]
    (here / "touched").unlink()
    (here / "touched").unlink(missing_ok=True)
    return seen, status.st_size, status.st_nlink, kinds, (here / "x/y/g.bin").resolve().name


def os_does(root: str) -> object:
    number = os.open(f"{root}/log", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
    said: list[object] = [os.write(number, b"0123456789"), os.lseek(number, 2, os.SEEK_SET), os.read(number, 3)]
    said += [os.pwrite(number, b"ab", 8), os.pread(number, 4, 6), os.lseek(number, 0, os.SEEK_CUR)]
    said += [os.fstat(number).st_size, oct(os.fstat(number).st_mode), os.isatty(number)]
    os.lseek(number, 0, os.SEEK_SET)
    two = bytearray(3), bytearray(20)
    said += [os.readv(number, two), bytes(two[0]), bytes(two[1]), os.writev(number, [b"x", b"yz"])]
    os.ftruncate(number, 4)
    os.fsync(number)
    os.fdatasync(fd=number)
    fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with os.fdopen(number, "rb") as file:
        said.append(file.read())
    said.append(errno_of(os.read, number, 1)[0])
    directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(directory)
    said += [os.listdir(directory), errno_of(os.read, directory, 1)[0]]
    inner = os.open("log", os.O_WRONLY | os.O_APPEND, dir_fd=directory)
    os.write(inner, b"!")
    os.close(inner)
    os.close(directory)
    os.truncate(f"{root}/log", 6)
    os.chmod(f"{root}/log", 0o600)
    os.utime(f"{root}/log", (1.0, 2.5))
    status = os.stat(f"{root}/log")
    return [*said, status.st_size, oct(status.st_mode), status.st_mtime, status.st_mtime_ns, os.access(root, os.R_OK)]


def walk_and_remove(root: str) -> object:
    for name in ("a/b/c", "a/d", "e"):
        os.makedirs(f"{root}/{name}")
        with open(f"{root}/{name}/file", "x") as file:
            file.write(name)
    walked = [(at.removeprefix(root), sorted(below), files) for at, below, files in os.walk(root)]
    found = sorted(each.removeprefix(root) for each in glob.glob(f"{root}/**/file", recursive=True))
    with os.scandir(root) as entries:
        listed = sorted((each.name, each.is_dir(), each.path.removeprefix(root)) for each in entries)
    shutil.copytree(f"{root}/a", f"{root}/copy")
    shutil.copy2(f"{root}/e/file", f"{root}/copied")
    shutil.move(f"{root}/copied", f"{root}/moved")
    shutil.rmtree(f"{root}/a")
    return sorted(walked), found, listed, sorted(os.listdir(root)), pathlib.Path(root, "copy/b/c/file").read_text()


def write_then_rename(root: str) -> object:
    """As most databases and editors save."""
    with tempfile.NamedTemporaryFile("w", dir=root, delete=False) as file:
        json.dump({"a": 1}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(file.name, f"{root}/state.json")
    replace_imported_before(f"{root}/state.json", f"{root}/new.json")
    with tempfile.TemporaryDirectory(dir=root) as directory:
        pathlib.Path(directory, "x").touch()
    with tempfile.TemporaryFile(dir=root) as unnamed:
        unnamed.write(b"x")
    return os.listdir(root), json.loads(pathlib.Path(root, "new.json").read_text())


def errors(root: str) -> object:
    os.mkdir(f"{root}/full")
    with open(f"{root}/full/file", "w"):
        pass
    return [
        errno_of(open, f"{root}/no"),
        errno_of(open, f"{root}/no/where", "w"),
        errno_of(open, f"{root}/full"),
        errno_of(open, f"{root}/full", "w"),
        errno_of(open, f"{root}/full/file", "x"),
        errno_of(open, f"{root}/full/file/x"),
        errno_of(os.rename, f"{root}/no", f"{root}/x"),
        errno_of(os.rename, f"{root}/full", f"{root}/full/file"),
        errno_of(os.rmdir, f"{root}/full"),
        errno_of(os.unlink, f"{root}/no"),
        errno_of(os.mkdir, f"{root}/full"),
        errno_of(os.stat, f"{root}/no"),
        errno_of(os.listdir, f"{root}/full/file"),
        errno_of(os.scandir, f"{root}/no"),
        errno_of(os.readlink, f"{root}/full/file"),
        errno_of(os.open, f"{root}/full/file", os.O_RDONLY | os.O_DIRECTORY),
        errno_of(pathlib.Path(root, "full").unlink),
    ]


PROGRAMS = [open_and_read, pathlib_does, os_does, walk_and_remove, write_then_rename, errors]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_finds_on_a_hosts_disk_what_the_real_machine_gives(
    program: Callable[[str], object], tmp_path: pathlib.Path
) -> None:
    assert on_a_host(program) == program(str(tmp_path))
    assert not os.path.exists(ROOT)


def test_a_disk_is_known_by_other_ways_to_write_its_path(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "disk"

    def program(_: str) -> list[str]:
        for path in (b"disk/bytes", root / "path", "disk/../disk/relative", f"{root}//doubled"):
            with open(path if not isinstance(path, bytes) else os.fsencode(root) + b"/bytes", "w"):
                pass
        with open("beside", "w"), pytest.raises(OSError, match="Invalid cross-device link"):
            os.rename("beside", root / "beside")
        return os.listdir(root)

    assert on_a_host(program, root=str(root)) == ["bytes", "doubled", "path", "relative"]
    assert os.listdir(tmp_path) == ["beside"]


def test_a_path_from_a_directory_of_the_real_machine_is_the_real_machines(tmp_path: pathlib.Path) -> None:
    (tmp_path / "var/lib").mkdir(parents=True)
    (tmp_path / ROOT[1:]).write_text("real")

    def program(root: str) -> int:
        directory = os.open(tmp_path, os.O_RDONLY)
        try:
            return os.stat(root[1:], dir_fd=directory).st_size
        finally:
            os.close(directory)

    assert on_a_host(program) == 4


def test_a_host_without_a_directory_for_its_disk_has_the_real_machines_files(tmp_path: pathlib.Path) -> None:
    async def test(world: World) -> None:
        async with world.host("plain"):
            (tmp_path / "real").write_text("seen by all")

    World(1).run(test)
    assert (tmp_path / "real").read_text() == "seen by all"


def test_each_host_has_a_disk_of_its_own_that_outlives_its_program_and_the_test_sees_it() -> None:
    async def test(world: World) -> list[object]:
        one, other = world.host("one", disk=ROOT), world.host("other", disk=ROOT)
        async with one:
            pathlib.Path(ROOT, "name").write_text("one")
        async with other:
            seen: list[object] = [os.listdir(ROOT)]
        return [*seen, one.disk.read_bytes(f"{ROOT}/name"), other.disk.listdir(ROOT)]

    assert World(1).run(test) == [[], b"one", []]


def test_files_have_the_time_of_their_host() -> None:
    async def test(world: World) -> float:
        host = world.host("late", disk=ROOT)
        host.clock.offset_s = -3600
        async with host:
            await asyncio.sleep(5)
            pathlib.Path(ROOT, "now").write_text("")
            return os.path.getmtime(f"{ROOT}/now")

    assert World(1).run(test) == 1_893_456_000.0 - 3600 + 5


@pytest.mark.parametrize("disk", ["var/lib", "/", "//", ""])
def test_a_directory_that_cannot_be_a_disk_is_refused(disk: str) -> None:
    async def test(world: World) -> None:
        world.host("db", disk=disk)

    with pytest.raises(UsageError, match="name a directory of its own"):
        World(1).run(test)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: sqlite3.connect(f"{ROOT}/x.db"), "sqlite3 was to open '.*x.db' on the disk of the simulated host db"),
        (lambda: sqlite3.connect(f"file:{ROOT}/x.db?mode=ro", uri=True), "sqlite3 was to open"),
        (lambda: os.chdir(ROOT), "the simulated host db was to work in '.*', and the process is of all hosts"),
    ],
)
def test_what_would_pass_the_disk_by_is_refused_with_file_and_line(call: Callable[[], object], said: str) -> None:
    with pytest.raises(UnderlayError, match=rf"test_files\.py:\d+: {said}"):
        on_a_host(lambda _: call())


def test_links_are_not_to_be_had() -> None:
    def program(root: str) -> list[int | None]:
        pathlib.Path(root, "a").touch()
        return [errno_of(call, f"{root}/a", f"{root}/b")[0] for call in (os.link, os.symlink)]

    assert on_a_host(program) == [errno.EPERM] * 2


def test_sqlite_in_memory_works() -> None:
    def program(_: str) -> object:
        with contextlib.closing(sqlite3.connect(":memory:")) as database:
            return database.execute("select 1").fetchone()

    assert on_a_host(program) == (1,)


# --- crashes ---------------------------------------------------------------------------------------------------------


def after_a_crash(save: Callable[[str], None]) -> set[bytes | None]:
    """What a file ``state`` may be after a crash, of 100 seeds; None: there is none."""

    async def test(world: World) -> bytes | None:
        found: list[bytes | None] = []

        async def program() -> None:
            path = pathlib.Path(ROOT, "state")
            if world.host("db").boots == 1:
                path.write_bytes(b"old")
                os.sync()
                save(ROOT)
            else:
                found.append(path.read_bytes() if path.exists() else None)

        db = world.host("db", start=program, disk=ROOT)
        await asyncio.sleep(1)
        db.crash()
        db.restart()
        await asyncio.sleep(1)
        return found[0]

    return {World(seed).run(test) for seed in range(100)}


def carelessly(root: str) -> None:
    with open(f"{root}/new", "wb") as file:
        file.write(b"new")
    os.replace(f"{root}/new", f"{root}/state")


def carefully(root: str) -> None:
    with open(f"{root}/new", "wb") as file:
        file.write(b"new")
        file.flush()
        os.fsync(file.fileno())
    os.replace(f"{root}/new", f"{root}/state")


def most_carefully(root: str) -> None:
    carefully(root)
    directory = os.open(root, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def in_place(root: str) -> None:
    with open(f"{root}/state", "r+b") as file:
        file.write(b"n" * 1024)


def synced_at_once(root: str) -> None:
    number = os.open(f"{root}/state", os.O_WRONLY | os.O_SYNC)
    os.write(number, b"new")
    os.close(number)


@pytest.mark.parametrize(
    ("save", "may_be"),
    [
        (carelessly, {b"old", b"new", b""}),
        (carefully, {b"old", b"new"}),
        (most_carefully, {b"new"}),
        (synced_at_once, {b"new"}),
        (
            in_place,
            {b"old", b"n" * 1024, b"n" * 512, b"old" + bytes(509) + b"n" * 512},  # all, nothing, one sector, the other
        ),
    ],
)
def test_what_plain_open_wrote_is_kept_by_a_crash_as_fsync_promised(
    save: Callable[[str], None], may_be: set[bytes | None]
) -> None:
    assert after_a_crash(save) == may_be
