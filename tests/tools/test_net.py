"""`underlay net` makes what it says, tells it, and leaves nothing: after `down`, after a failure, after a crash.

Each test has a machine of its own: a thread in new mount and network namespaces, whose /run is empty and whose
/dev/net/tun anybody may open. The commands run in it, and it ends with the thread.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest
from tests._kernel import DEVICE, needs_program

from underlay.link import CLONE_NEWNET, Rtnetlink, unshare
from underlay.tools._net_places import here

LIMIT_S = 60
CLONE_NEWNS = 0x0002_0000  # linux/sched.h
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18  # linux/mount.h
NOBODY = 65534

Done = subprocess.CompletedProcess[str]
_T = TypeVar("_T")


def mount(source: str, target: str, kind: str, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), None) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), target)


class Machine:
    """Namespaces in which `underlay net` may do what it likes."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._thread = ThreadPoolExecutor(1)

    def begin(self) -> None:
        unshare(CLONE_NEWNS | CLONE_NEWNET)
        mount("none", "/", "none", MS_REC | MS_PRIVATE)
        mount("none", "/run", "tmpfs", 0)
        mount("none", str(self._scratch), "tmpfs", 0)
        device = self._scratch / "tun"
        os.mknod(device, 0o020666, os.makedev(10, 200))
        device.chmod(0o666)
        mount(str(device), str(DEVICE), "none", MS_BIND)
        Path("/run/own").mkdir()  # as /run/user/N: a user cannot pass through pytest's own directories
        os.chown("/run/own", NOBODY, NOBODY)

    def do(self, work: Callable[[], _T]) -> _T:
        return self._thread.submit(work).result(LIMIT_S)

    def python(self, code: str, *words: str, environment: dict[str, str] | None = None) -> Done:
        def work() -> Done:
            return subprocess.run(
                [sys.executable, "-W", "error", "-c", code, *words],
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
                env={**os.environ, "COLUMNS": "80", **(environment or {})},
            )

        return self.do(work)

    def net(self, *words: str) -> Done:
        return self.python("from underlay.cli import entry; entry()", "net", *words)

    def as_nobody(self, *words: str, apart: bool = False, home: bool = True) -> Done:
        """Run it as a user, also ``apart`` in the namespaces of `net shell`, or without a ``home`` for records."""
        code = (
            "import os, sys; from underlay.cli import entry; import underlay.tools._net\n"
            f"os.setgroups([]); os.setresgid(*[{NOBODY}] * 3); os.setresuid(*[{NOBODY}] * 3)\n"
            # exec(2) makes a process readable in /proc again; here there is none: PR_SET_DUMPABLE
            "import ctypes; ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)\n"
            f"underlay.tools._net_shell._leave(False) if {apart} else None\n"
            "entry()"
        )
        return self.python(code, "net", *words, environment={"XDG_RUNTIME_DIR": "/run/own" if home else ""})

    def interfaces(self) -> set[str]:
        def work() -> set[str]:
            with Rtnetlink() as kernel:
                return {link.name for link in kernel.links()}

        return self.do(work) - {"lo"}

    def left(self) -> list[str]:
        """What is in /run, but for the lock."""
        return self.do(
            lambda: sorted(str(path) for path in Path("/run").rglob("*") if path.suffix or "netns" in str(path))
        )

    def end(self) -> None:
        self._thread.shutdown()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    if os.geteuid() != 0:
        pytest.skip("only root may make mount and network namespaces; remedy: run the tests as root")
    if not DEVICE.exists():
        pytest.skip(f"there is no {DEVICE}; remedy: modprobe tun")
    found = Machine(tmp_path)
    try:
        try:
            found.do(found.begin)
        except OSError as error:
            pytest.skip(f"no namespaces may be made here ({error}); remedy: run with CAP_SYS_ADMIN")
        yield found
    finally:
        found.end()


def sentence(done: Done) -> str:
    """The one sentence of wrong use."""
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stdout == ""
    assert done.stderr.startswith("underlay: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("underlay: ").rstrip("\n")


def listed(machine: Machine) -> list[dict[str, object]]:
    done = machine.net("list", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["schema"] == "underlay.net/1"
    devices: list[dict[str, object]] = answer["devices"]
    return devices


def test_a_device_is_made_listed_and_removed(machine: Machine) -> None:
    done = machine.net("up", "tap7", "--address", "10.9.0.1/24", "--address", "fd00::1/64", "--mtu", "9000")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "tap7 is up with 10.9.0.1/24, fd00::1/64; `underlay net down tap7` removes it\n"

    def look() -> tuple[str, int, bool, set[str]]:
        with Rtnetlink() as kernel:
            link = kernel.link("tap7")
            texts = {address.text for address in kernel.addresses() if address.index == link.index}
            return link.kind, link.mtu_bytes, link.is_up, texts

    kind, mtu_bytes, is_up, addresses = machine.do(look)
    assert (kind, mtu_bytes, is_up) == ("tun", 9000, True)
    assert {"10.9.0.1/24", "fd00::1/64"} <= addresses
    assert listed(machine) == [
        {
            "name": "tap7",
            "kind": "tap",
            "state": "up",
            "in_use": False,
            "addresses": ["10.9.0.1/24", "fd00::1/64"],
            "mtu_bytes": 9000,
            "owner": 0,
            "namespace": None,
            "network": machine.do(here),
        }
    ]
    done = machine.net("down", "tap7")
    assert (done.returncode, done.stdout) == (0, "tap7 is removed\n")
    assert (machine.interfaces(), machine.left(), listed(machine)) == (set(), [], [])


def test_the_list_is_a_table_for_a_person(machine: Machine) -> None:
    assert machine.net("list").stdout == "nothing is up; `underlay net up NAME` makes a device\n"
    machine.net("up", "tun7", "--tun", "--address", "10.9.0.1/24", "--namespace", "lab")
    head, row = machine.net("list").stdout.splitlines()
    assert head.split() == ["device", "kind", "state", "cable", "addresses", "namespace", "user"]
    assert row.split() == ["tun7", "tun", "up", "free", "10.9.0.1/24", "lab", "root"]


def test_a_program_attaches_to_the_device_as_the_user_it_was_made_for(machine: Machine) -> None:
    assert machine.net("up", "tun7", "--tun", "--address", "10.9.0.1/24", "--user", str(NOBODY)).returncode == 0
    code = (
        "import os, subprocess, sys; from underlay.link import TunTap\n"
        f"os.setresuid({NOBODY}, {NOBODY}, {NOBODY})\n"
        "with TunTap.open('tun7') as device: print(device.mtu_bytes, device.offload); input()"
    )

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    child = machine.do(start)
    assert child.stdout is not None
    assert child.stdout.readline().startswith("1500 ")
    assert listed(machine)[0]["in_use"] is True
    child.communicate("\n")
    assert child.returncode == 0
    assert listed(machine)[0]["in_use"] is False


HOLD = "from underlay.link import TunTap\nwith TunTap.open('tun7') as device: print(device.name, flush=True); input()"


@pytest.mark.parametrize("where", [[], ["--namespace", "lab"]], ids=["here", "namespace"])
def test_a_device_in_use_is_removed_only_by_force_and_its_user_is_named(machine: Machine, where: list[str]) -> None:
    assert machine.net("up", "tun7", "--tun", *where).returncode == 0
    ip = [needs_program("ip"), "netns", "exec", "lab"] if where else []

    def start() -> subprocess.Popen[str]:
        words = [*ip, sys.executable, "-c", HOLD]
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    with machine.do(start) as child:
        assert child.stdout is not None and child.stdout.readline() == "tun7\n"
        said = sentence(machine.net("down", "tun7"))
        assert said.startswith(f"tun7 is in use by process {child.pid} ({sys.executable} -c from underlay")
        assert said.endswith("; end it, or say `underlay net down --force tun7`")
        assert listed(machine)[0]["in_use"] is True
        assert machine.net("down", "--force", "tun7").stdout == "tun7 is removed\n"
        child.communicate("\n")
    assert (machine.interfaces(), machine.left(), listed(machine)) == (set(), [], [])


def test_a_namespace_in_which_a_program_runs_goes_only_by_force(machine: Machine) -> None:
    ip = needs_program("ip")
    for name in ("tap7", "tap8"):
        assert machine.net("up", name, "--namespace", "lab").returncode == 0

    def start() -> subprocess.Popen[str]:
        words = [ip, "netns", "exec", "lab", "sh", "-c", "echo here; read line"]
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    with machine.do(start) as child:
        assert child.stdout is not None and child.stdout.readline() == "here\n"
        assert machine.net("down", "tap8").returncode == 0  # the namespace stays for tap7
        said = sentence(machine.net("down", "tap7"))
        assert said.startswith(f"the namespace lab goes with tap7, and in it runs process {child.pid} (sh -c echo here")
        assert machine.net("down", "--force", "tap7").returncode == 0
        child.communicate("\n")
    assert (machine.interfaces(), machine.left()) == (set(), [])


def test_sudo_makes_it_for_the_person_who_called_it(machine: Machine) -> None:
    done = machine.python(
        "from underlay.cli import entry; entry()", "net", "up", "tun7", environment={"SUDO_UID": "1234"}
    )
    assert done.returncode == 0, done.stderr
    assert listed(machine)[0]["owner"] == 1234


def test_a_user_who_may_not_open_the_device_file_is_told_so(machine: Machine) -> None:
    assert machine.net("up", "tun7", "--user", str(NOBODY)).stderr == ""
    machine.do(lambda: DEVICE.chmod(0o600))
    done = machine.net("up", "tun8", "--user", str(NOBODY))
    assert done.returncode == 0
    assert done.stderr == (
        "underlay: note: only root may open /dev/net/tun here; `chmod 666 /dev/net/tun` lets users\n"
    )


def test_down_twice_is_no_error(machine: Machine) -> None:
    machine.net("up", "tap7")
    assert machine.net("down", "tap7").returncode == 0
    done = machine.net("down", "tap7")
    assert (done.returncode, done.stdout) == (0, "tap7 is not up, nothing to remove\n")


def test_a_namespace_is_made_entered_and_goes_with_its_last_device(machine: Machine) -> None:
    ip = needs_program("ip")
    for name in ("tap7", "tap8"):
        assert machine.net("up", name, "--address", "10.9.0.1/24", "--namespace", "lab").returncode == 0
    assert machine.interfaces() == set()
    # ip-netns(8) finds it as one of its own.
    by_ip = machine.do(lambda: subprocess.run([ip, "netns", "exec", "lab", ip, "link"], capture_output=True, text=True))
    assert "tap7" in by_ip.stdout and "tap8" in by_ip.stdout
    assert "LOOPBACK,UP" in by_ip.stdout
    done = machine.net("shell", "tap7", "--", ip, "-brief", "address")
    assert done.returncode == 0 and "tap8" in done.stdout
    machine.net("down", "tap7")
    assert machine.left() == ["/run/netns", "/run/netns/lab", "/run/underlay/net/tap8.json"]
    machine.net("down", "tap8")
    assert machine.left() == []


def test_a_namespace_that_was_there_stays(machine: Machine) -> None:
    ip = needs_program("ip")
    machine.do(lambda: subprocess.run([ip, "netns", "add", "theirs"], check=True))
    assert machine.net("up", "tap7", "--namespace", "theirs").returncode == 0
    assert machine.net("down", "tap7").returncode == 0
    listing = machine.do(lambda: subprocess.run([ip, "netns", "exec", "theirs", ip, "link"], capture_output=True))
    assert listing.returncode == 0 and b"tap7" not in listing.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["up", "a-name-of-16-byt"], "is too long for an interface; its name has at most 15 bytes"),
        (["up", "tap%d"], "'tap%d' is no name for an interface; choose letters and digits, like tap0"),
        (["up", ""], "'' is no name for an interface"),
        (["up", "tap 7"], "'tap 7' is no name for an interface"),
        (["up", "a/b"], "'a/b' is no name for an interface"),
        (["up", ".."], "'..' is no name for an interface"),
        (["shell", "tap%d", "true"], "'tap%d' is no name for an interface"),
        (["up", "tap7", "--address", "10.9.0"], "'10.9.0' is no IP address"),
        (["up", "tap7", "--address", "10.9.0.1"], "10.9.0.1 lacks the length of its prefix; write it like 10.9.0.1/24"),
        (["up", "tap7", "--mtu", "5", "--namespace", "lab"], "tap7 cannot have an MTU of 5 bytes"),
        (["up", "tap7", "--mtu", "many"], "net up: argument --mtu: 'many' is no whole number"),
        (["up", "tap7", "--mtu", "1000", "--address", "fd00::1/64", "--namespace", "lab"], "takes no IPv6 address"),
        (["up", "tap7", "--user", "nobody-of-that-name"], "there is no user 'nobody-of-that-name'"),
        (["up", "tap7", "--namespace", "a/b"], "'a/b' is no name for a namespace"),
        (["up", "tap7", "--namespace", ".."], "'..' is no name for a namespace"),
        (["up", "lo"], "there is already an interface called lo"),
        (["up", "lo", "--namespace", "lab"], "there is already an interface called lo"),
        (["up", "tap7", "--tap", "--tun"], "net up: argument --tun: not allowed with argument --tap"),
        (["down", "lo"], "the interface lo was not made by `underlay net up`"),
        (["shell", "tap7", "--address", "10.9.0.1/24"], "options come before NAME"),
        (["shell", "--address", "10.9.0.1", "tap7"], "10.9.0.1 lacks the length of its prefix"),
        (["shell", "tap7", "no-such-program"], "no program is called 'no-such-program'"),
        (["shell", "tap7", "/etc/passwd"], "'/etc/passwd' may not be run"),
        ([], "net: the following arguments are required: ACTION"),
        (["upp"], "net: argument ACTION: invalid choice: 'upp'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use_is_one_sentence_and_leaves_nothing(machine: Machine, words: list[str], said: str) -> None:
    assert said in sentence(machine.net(*words))
    assert (machine.interfaces(), machine.left()) == (set(), [])


def test_a_device_that_is_up_is_not_made_again_and_stays_as_it_is(machine: Machine) -> None:
    machine.net("up", "tap7", "--address", "10.9.0.1/24")
    said = sentence(machine.net("up", "tap7", "--address", "10.8.0.1/24"))
    assert said == "tap7 is up already; `underlay net down tap7` removes it"
    assert listed(machine)[0]["addresses"] == ["10.9.0.1/24"]


def test_a_device_of_the_same_name_that_somebody_else_made_is_left_alone(machine: Machine) -> None:
    machine.net("up", "tap7")

    def swap() -> None:
        with Rtnetlink() as kernel:
            kernel.delete_link(kernel.link("tap7").index)
            kernel.create_veth("tap7", "peer")

    machine.do(swap)
    assert listed(machine)[0]["state"] == "gone"
    assert machine.net("down", "tap7").returncode == 0
    assert machine.interfaces() == {"tap7", "peer"}
    assert machine.left() == []


# Where `up` is killed: after the record, after the namespace, before and after the device stays.
CRASHES = {
    "recorded": "_net_devices.Namespace.create_named = kill",
    "namespace": "_net_devices.TunTap.open = kill",
    "device": "_net_devices.TunTap.set_persistent = kill",
    "whole": "_net.print = kill",
}


@pytest.mark.parametrize("where", CRASHES)
def test_what_a_crash_left_is_removed(machine: Machine, where: str) -> None:
    code = (
        "import os, signal\n"
        "from underlay.tools import _net, _net_devices\n"
        "from underlay.cli import entry\n"
        "def kill(*a, **k): os.kill(os.getpid(), signal.SIGKILL)\n"
        f"{CRASHES[where]}\n"
        "entry()"
    )
    done = machine.python(code, "net", "up", "tap7", "--address", "10.9.0.1/24", "--namespace", "lab")
    assert done.returncode == -signal.SIGKILL
    assert [(each["name"], each["state"]) for each in listed(machine)] == [
        ("tap7", "up" if where == "whole" else "gone")
    ]
    if where != "whole":  # it may also simply be made again
        assert machine.net("up", "tap7", "--namespace", "lab").returncode == 0
        assert listed(machine)[0]["state"] == "up"
    assert machine.net("down", "tap7").stdout == "tap7 is removed\n"
    assert (machine.interfaces(), machine.left(), listed(machine)) == (set(), [], [])


INTERRUPTS = {
    **{where: patch for where, patch in CRASHES.items() if where != "whole"},
    "made": "make = _net_devices._make; _net_devices._make = lambda record: (make(record), kill())",
    "in the thread": (
        "persist = _net_devices.TunTap.set_persistent\n"
        "_net_devices.TunTap.set_persistent = lambda *a: (kill(), time.sleep(0.3), persist(*a))"
    ),
}


@pytest.mark.parametrize("namespace", ["lab", "theirs", None])
@pytest.mark.parametrize("where", INTERRUPTS)
def test_an_interrupted_up_leaves_nothing(machine: Machine, where: str, namespace: str | None) -> None:
    if namespace is None and where == "recorded":
        pytest.skip("without a namespace none is made")
    if namespace == "theirs":
        ip = needs_program("ip")
        machine.do(lambda: subprocess.run([ip, "netns", "add", "theirs"], check=True))
    code = (
        "import os, signal, time\n"
        "from underlay.tools import _net, _net_devices\n"
        "from underlay.cli import entry\n"
        "def kill(*a, **k): os.kill(os.getpid(), signal.SIGINT); time.sleep(0.01)\n"
        f"{INTERRUPTS[where]}\n"
        "entry()"
    )
    before = machine.left()
    words = [] if namespace is None else ["--namespace", namespace]
    done = machine.python(code, "net", "up", "tap7", "--address", "10.9.0.1/24", *words)
    if namespace == "theirs" and where == "recorded":
        assert done.returncode == 0  # it is there, so none is made, and nobody interrupts
        return
    assert (done.returncode, done.stdout) == (130, ""), done.stderr
    assert "KeyboardInterrupt" not in done.stderr
    assert (machine.interfaces(), machine.left(), listed(machine)) == (set(), before, [])
    if namespace == "theirs":
        assert (
            "tap7"
            not in machine.do(
                lambda: subprocess.run([ip, "netns", "exec", "theirs", ip, "link"], capture_output=True, text=True)
            ).stdout
        )


def test_a_name_of_a_namespace_that_was_never_mounted_is_taken_again(machine: Machine) -> None:
    def leave() -> None:
        Path("/run/netns").mkdir()
        Path("/run/netns/lab").touch()

    machine.do(leave)
    assert machine.net("up", "tap7", "--namespace", "lab").returncode == 0
    machine.net("down", "tap7")
    assert machine.left() == []


def test_a_command_gets_a_network_of_its_own_and_nothing_stays(machine: Machine) -> None:
    ip = needs_program("ip")
    done = machine.net("shell", "--tun", "--address", "10.9.0.1/24", "--mtu", "1400", "tun7", ip, "address")
    assert done.returncode == 0, done.stderr
    assert "tun7" in done.stdout and "inet 10.9.0.1/24" in done.stdout and "mtu 1400" in done.stdout
    assert (machine.interfaces(), machine.left()) == (set(), [])


def test_the_status_of_the_command_is_the_status(machine: Machine) -> None:
    assert machine.net("shell", "tap7", "sh", "-c", "exit 7").returncode == 7


def test_a_user_without_permission_gets_one_by_a_user_namespace(machine: Machine) -> None:
    ip = needs_program("ip")
    done = machine.as_nobody("shell", "--address", "10.9.0.1/24", "tap7", ip, "address")
    if "lets users make no network" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    assert "inet 10.9.0.1/24" in done.stdout
    assert (machine.interfaces(), machine.left()) == (set(), [])


def test_a_user_without_permission_is_told_what_needs_none(machine: Machine) -> None:
    said = sentence(machine.as_nobody("up", "tap7"))
    assert said == (
        "no permission to make tap7: it takes CAP_NET_ADMIN; become root, or use `underlay net shell tap7`, which"
        " needs no permission"
    )
    machine.net("up", "tap8")
    assert "tap8 " in machine.as_nobody("list").stdout
    assert machine.net("down", "tap8").returncode == 0


def test_a_system_that_forbids_user_namespaces_is_told_the_remedy(machine: Machine) -> None:
    limit = Path("/proc/sys/user/max_user_namespaces")
    code = (
        "import os, sys\n"
        "from underlay.tools import _net_shell\n"
        "from underlay.cli import entry\n"
        "def refuse(flags): raise PermissionError(1, 'Operation not permitted')\n"
        "_net_shell.unshare = refuse\n"
        "_net_shell._SWITCHES = (('user/max_user_namespaces', sys.argv.pop(1), 'sysctl -w x=1'),)\n"
        "entry()"
    )
    forbids = limit.read_text().strip()
    said = sentence(machine.python(code, forbids, "net", "shell", "tap7", "true"))
    assert said == (
        "this system lets users make no network namespace; become root, or let root allow it: `sysctl -w x=1`"
    )
    said = sentence(machine.python(code, "another", "net", "shell", "tap7", "true"))
    assert said.endswith("become root; a container must allow unshare(2) of user namespaces")


def test_a_device_outside_a_namespace_has_no_shell(machine: Machine) -> None:
    machine.net("up", "tap7")
    assert "tap7 is in this network, in no namespace of its own" in sentence(machine.net("shell", "tap7", "true"))
    assert "tap7 is up already, as it is" in sentence(machine.net("shell", "--tun", "tap7", "true"))


# --- another network namespace, and the same /run ---


def _in(machine: Machine, *words: str) -> Done:
    """Run `underlay net` in the namespace other, as `ip netns exec other` does."""
    ip = needs_program("ip")
    command = [ip, "netns", "exec", "other", sys.executable, "-m", "underlay", "net", *words]
    return machine.do(lambda: subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False))


@pytest.fixture
def two(machine: Machine) -> Machine:
    """A machine with tap7 in a second network namespace, called other."""
    ip = needs_program("ip")
    machine.do(lambda: subprocess.run([ip, "netns", "add", "other"], check=True))
    assert _in(machine, "up", "tap7", "--address", "10.9.0.1/24").returncode == 0
    return machine


def test_a_device_of_another_namespace_is_told_and_not_forgotten(two: Machine) -> None:
    assert [(each["name"], each["state"]) for each in listed(two)] == [("tap7", "elsewhere")]
    row = two.net("list").stdout.splitlines()[1].split()
    assert row == ["tap7", "tap", "elsewhere", "-", "10.9.0.1/24", "other", "root"]
    for words in (["down", "tap7"], ["down", "--force", "tap7"]):
        assert sentence(two.net(*words)) == (
            "tap7 stands in another network namespace, other; say so there: `ip netns exec other underlay net down"
            " tap7`"
        )
    assert " up " in _in(two, "list").stdout
    assert _in(two, "down", "tap7").stdout == "tap7 is removed\n"
    assert listed(two) == []


def test_two_namespaces_may_have_a_device_of_one_name(two: Machine) -> None:
    assert two.net("up", "tap7", "--address", "10.8.0.1/24").returncode == 0
    assert sorted(str(each["state"]) for each in listed(two)) == ["elsewhere", "up"]
    assert two.net("down", "tap7").stdout == "tap7 is removed\n"
    assert [each["state"] for each in listed(two)] == ["elsewhere"]
    assert _in(two, "down", "tap7").returncode == 0
    assert listed(two) == []


def test_a_device_whose_namespace_ended_is_gone_and_can_be_forgotten(two: Machine) -> None:
    ip = needs_program("ip")
    two.do(lambda: subprocess.run([ip, "netns", "delete", "other"], check=True))
    assert [each["state"] for each in listed(two)] == ["gone"]
    assert two.net("down", "tap7").returncode == 0
    assert listed(two) == []


def test_a_namespace_that_only_a_process_keeps_is_elsewhere(two: Machine) -> None:
    ip = needs_program("ip")

    def start() -> subprocess.Popen[str]:
        words = [ip, "netns", "exec", "other", "sh", "-c", "echo here; read line"]
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    with two.do(start) as child:
        assert child.stdout is not None and child.stdout.readline() == "here\n"
        two.do(lambda: subprocess.run([ip, "netns", "delete", "other"], check=True))
        assert [each["state"] for each in listed(two)] == ["elsewhere"]
        said = sentence(two.net("down", "tap7"))
        assert f"`nsenter --net=/proc/{child.pid}/ns/net underlay net down tap7`" in said
        child.communicate("\n")


def test_a_shell_of_a_user_sees_that_the_device_stands_elsewhere(machine: Machine) -> None:
    machine.net("up", "tap7")
    done = machine.as_nobody("list", apart=True)
    if "lets users make no network" in done.stderr:
        pytest.skip(done.stderr)
    assert done.stdout.splitlines()[1].split()[:3] == ["tap7", "tap", "elsewhere"]
    for words in (["down", "tap7"], ["down", "--force", "tap7"]):
        said = sentence(machine.as_nobody(*words, apart=True))
        assert said.startswith("tap7 stands in another network namespace, net:[")
    assert machine.as_nobody("up", "tap7", apart=True).returncode == 0  # gone with that network
    assert sorted(str(each["state"]) for each in listed(machine)) == ["up"]
    assert machine.net("down", "tap7").stdout == "tap7 is removed\n"


def test_a_user_is_told_who_may_remove_what_root_made(machine: Machine) -> None:
    machine.net("up", "tap7")
    wanted = "no permission to remove tap7; become root, or the user who made it"
    for home in (True, False):
        assert sentence(machine.as_nobody("down", "tap7", home=home)) == wanted
    assert listed(machine)[0]["state"] == "up"
