"""The command line: its help, its one-sentence errors, its exit statuses."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import subprocess
import sys
import types
from collections.abc import Callable

import pytest

import underlay as package
from underlay import cli
from underlay.errors import ModelUnavailable, UnderlayError, UsageError

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., int]], None]:
    """Put a command of the test's own, called ``probe-me``, into the table."""

    def install(work: Callable[..., int]) -> None:
        def configure(parser: argparse.ArgumentParser) -> None:
            parser.add_argument("--size", type=int, default=1)

        module = types.ModuleType("underlay._test_command")
        vars(module).update(configure=configure, main=work)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(cli.COMMANDS, "probe-me", ("._test_command", "test only: an I/O probe"))

    return install


def test_help_names_every_command_and_fits_80_columns(underlay: Run) -> None:
    done = underlay("--help")
    assert done.returncode == 0
    assert done.stderr == ""
    for name, (_, text) in cli.COMMANDS.items():
        assert f"  {name}" in done.stdout
        assert text in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize("arguments", [(), ("-h",), ("help",)], ids=["nothing", "-h", "help"])
def test_other_ways_to_ask_give_the_same_help(underlay: Run, arguments: tuple[str, ...]) -> None:
    assert underlay(*arguments).stdout == underlay("--help").stdout


def test_help_imports_no_command(child_environment: dict[str, str]) -> None:
    code = (
        "import sys; from underlay.cli import main; main(['--help']);"
        "sys.exit(', '.join(m for m in sys.modules if m.startswith('underlay.') and"
        " m not in ('underlay.cli', 'underlay.errors')) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=child_environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["capture", "path", "ports", "speed", "stat"])
def test_a_command_that_asks_the_machine_opens_nothing_slow_for_its_options(
    child_environment: dict[str, str], name: str
) -> None:
    # asyncio and TLS they have no use for, and rich only once there is something to show.
    code = (
        f"import sys; from underlay.cli import main; main([{name!r}, '--help']);"
        "slow = {'asyncio', 'ssl', 'rich'} & set(sys.modules); sys.exit(', '.join(slow) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=child_environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_list_of_sockets_in_a_pipe_opens_nothing_that_takes_longer_than_the_list(
    child_environment: dict[str, str],
) -> None:
    # `dataclasses` alone, with what it imports, takes as long as to list some thousand sockets.
    code = (
        "import argparse, sys; argparse.ArgumentParser(); theirs = set(sys.modules);"  # dataclasses, from 3.14 on
        "from underlay.cli import main; main(['ports', 'proto:tcp', 'state:listen']);"
        "slow = {'asyncio', 'dataclasses', 'inspect', 'json', 'rich', 'ssl', 'textwrap', 'ctypes'};"
        "sys.exit(', '.join(slow & set(sys.modules) - theirs) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=child_environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_version_is_the_packages_own(underlay: Run) -> None:
    assert underlay("--version").stdout == f"underlay {package.__version__}\n"


def test_the_console_script_is_installed_and_is_the_same_command(
    child_environment: dict[str, str],
) -> None:
    done = subprocess.run(["underlay", "--version"], env=child_environment, capture_output=True, text=True)
    assert done.stdout == f"underlay {package.__version__}\n"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_that_fits_80_columns(underlay: Run, name: str) -> None:
    done = underlay(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: underlay {name}")
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize("words", [["--help"], ["ports", "--help"]], ids=" ".join)
def test_help_that_cannot_be_written_is_a_failure(words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "underlay", *words]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("underlay: this machine refused what the command needs: No space left on device; ")


def test_a_complaint_writes_no_word_to_the_terminal_that_it_would_obey(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["speed", "a\x1b[31mb"], ["connect", "a\x1b[31mb:1"], ["path", "a\x1b[31mb"]):
        assert cli.main(words) in (1, 2)
        said = capsys.readouterr().err
        assert ("a\\x1b[31mb" in said, "\x1b" in said) == (True, False)


def _one_line_of_complaint(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("underlay: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_an_unknown_command_is_told_its_nearest(underlay: Run) -> None:
    said = _one_line_of_complaint(underlay("comprae"))
    assert said == "underlay: no command is called 'comprae'; did you mean 'compare'?\n"


def test_an_unknown_option_before_the_command_is_one_sentence(underlay: Run) -> None:
    assert "no option --io here" in _one_line_of_complaint(underlay("--io", "epoll", "run"))


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_an_unknown_option_of_a_command_is_one_sentence(underlay: Run, name: str) -> None:
    said = _one_line_of_complaint(underlay(name, "--no-such-option"))
    assert f"`underlay {name} --help`" in said


def test_a_commands_status_is_the_exit_status(command: Callable[..., None]) -> None:
    command(lambda args: int(args.size))
    assert cli.main(["probe-me", "--size", "7"]) == 7


def test_a_command_that_finds_no_memory_is_one_sentence(
    command: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    def work(args: argparse.Namespace) -> int:
        raise MemoryError

    command(work)
    assert cli.main(["probe-me", "--size", "7"]) == 1
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert told.err.startswith("underlay: this machine refused what the command needs: Cannot allocate memory; ")


def test_a_commands_help_keeps_the_capitals_of_its_line(
    command: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    command(lambda args: 0)
    assert cli.main(["probe-me", "--help"]) == 0
    assert "Test only: an I/O probe." in capsys.readouterr().out


def test_help_then_a_command_is_the_commands_help(
    command: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    command(lambda args: 0)
    assert cli.main(["help", "probe-me"]) == 0
    assert capsys.readouterr().out.startswith("usage: underlay probe-me")


def test_a_wrong_value_is_one_sentence_with_status_2(
    command: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    command(lambda args: 0)
    assert cli.main(["probe-me", "--size", "big"]) == 2
    assert capsys.readouterr().err == (
        "underlay: probe-me: argument --size: 'big' is no whole number; "
        "`underlay probe-me --help` tells how it is used\n"
    )


@pytest.mark.parametrize(
    "error",
    [UnderlayError("it broke"), UsageError("no"), ModelUnavailable("uring", "old kernel")],
    ids=lambda error: type(error).__name__,
)
def test_our_own_errors_are_one_line_with_their_exit_status(
    command: Callable[..., None], capsys: pytest.CaptureFixture[str], error: UnderlayError
) -> None:
    def fail(_: argparse.Namespace) -> int:
        raise error

    command(fail)
    assert cli.main(["probe-me"]) == error.exit_status
    assert capsys.readouterr().err == f"underlay: {error}\n"


def test_an_interrupted_command_ends_with_status_130(command: Callable[..., None]) -> None:
    def interrupted(_: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    command(interrupted)
    assert cli.main(["probe-me"]) == 130


RUN = ("run", "--net", "lo", "-c", "pass")


@pytest.mark.parametrize(
    ("arguments", "moment"),
    [
        (("--help",), "argparse"),
        (("--help",), "underlay.errors"),
        (("--help",), "underlay.cli"),
        (("net", "list"), "underlay.cli"),
        (("net", "list"), "underlay.link._segmentation"),
        (("net", "list"), "underlay.tools._net_shell"),
        (("models",), "underlay.loop._models"),
        (RUN, "argparse"),
        (RUN, "underlay.cli"),
        (RUN, "underlay.loop._net_spec"),
        (RUN, "underlay.loop._site.sitecustomize"),
        # In the interpreter that the first becomes, before the program begins.
        (RUN, "asyncio.events"),
        (RUN, "underlay.loop._install"),
        (RUN, "underlay.link"),
        (RUN, "underlay.loop._bridge"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else value,
)
def test_ctrl_c_shows_no_traceback_of_ours_however_early(
    child_environment: dict[str, str], arguments: tuple[str, ...], moment: str
) -> None:
    with subprocess.Popen(
        # It tells of each module that is imported: moments that do not depend on the clock.
        [sys.executable, "-X", "importtime", "-m", "underlay", *arguments],
        env=child_environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stderr is not None
        for line in child.stderr:
            if line.rpartition("|")[2].strip() == moment:
                child.send_signal(signal.SIGINT)
                break
        else:
            pytest.fail(f"{moment} was never imported")
        rest = child.stderr.read()
    # A child that was quicker than the signal has ended well.
    assert child.returncode in (-signal.SIGINT, 130, 0)
    assert "Traceback" not in rest and "KeyboardInterrupt" not in rest, rest


def test_a_program_begins_with_the_interrupts_of_python(child_environment: dict[str, str]) -> None:
    code = (
        "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler,"
        " signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    )
    for blocked, told in [(False, "True set()\n"), (True, f"True {{{signal.SIGINT!r}}}\n")]:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT] if blocked else [])
        try:
            words = [sys.executable, "-m", "underlay", "run", "-c", code]
            done = subprocess.run(words, env=child_environment, capture_output=True, text=True, check=True)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        assert done.stdout == told


def test_an_ignored_ctrl_c_stays_ignored(child_environment: dict[str, str]) -> None:
    code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"
    command = f"trap '' INT; exec '{sys.executable}' -m underlay run -c '{code}'"
    done = subprocess.run(["sh", "-c", command], env=child_environment, capture_output=True, text=True)
    assert done.stdout == "True\n"


def test_the_file_of_the_command_changes_no_signal_for_who_imports_it(child_environment: dict[str, str]) -> None:
    code = "import signal, underlay.cli; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    done = subprocess.run([sys.executable, "-c", code], env=child_environment, capture_output=True, text=True)
    assert done.stdout == "True\n"


def test_a_command_whose_module_is_absent_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(cli.COMMANDS, "ghost", ("._no_such_room._command", "not there"))
    assert cli.main(["ghost"]) == 2
    assert "has no command 'ghost'" in capsys.readouterr().err


def test_a_library_that_a_command_lacks_is_not_hidden(
    monkeypatch: pytest.MonkeyPatch, tmp_path: os.PathLike[str]
) -> None:
    name = "underlay_test_needs_more"
    with open(os.path.join(tmp_path, f"{name}.py"), "w") as file:
        file.write("import no_such_library_anywhere\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(cli.COMMANDS, "lacking", (name, "not there"))
    with pytest.raises(ModuleNotFoundError, match="no_such_library_anywhere"):
        cli.main(["lacking"])


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_a_reader_who_leaves_ends_the_command_quietly(child_environment: dict[str, str], unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "underlay", "--help"],
            env={**child_environment, "PYTHONUNBUFFERED": unbuffered},
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_broken_pipe_that_is_not_our_stdout_is_not_hidden(command: Callable[..., None]) -> None:
    def broken(_: argparse.Namespace) -> int:
        raise BrokenPipeError(32, "some socket")

    command(broken)
    with pytest.raises(BrokenPipeError, match="some socket"):
        cli.main(["probe-me"])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is Linux's")
@pytest.mark.parametrize(
    ("arguments", "status"), [(["nosuch"], 2), (["ports", "nonsense"], 2), (["ports", "inode:1"], 1)]
)
def test_a_stderr_that_takes_nothing_does_not_change_the_exit_status(
    child_environment: dict[str, str], arguments: list[str], status: int
) -> None:
    with open("/dev/full", "wb") as full:
        argv = [sys.executable, "-m", "underlay", *arguments]
        environment = {**child_environment, "PYTHONUNBUFFERED": ""}
        done = subprocess.run(argv, env=environment, stdout=subprocess.PIPE, stderr=full)
    assert done.returncode == status


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is Linux's")
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("arguments", [["--help"], ["models"], ["models", "--json"]], ids=" ".join)
def test_a_full_disk_behind_stdout_is_one_sentence(
    child_environment: dict[str, str], arguments: list[str], unbuffered: str
) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "underlay", *arguments],
            env={**child_environment, "PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "No space left on device; make room on the disk" in done.stderr


@pytest.mark.parametrize(("arguments", "status"), [("--help", 0), ("models", 0), ("nonsense", 2)])
def test_closed_standard_streams_change_no_status(
    child_environment: dict[str, str], arguments: str, status: int
) -> None:
    command = f"exec '{sys.executable}' -m underlay {arguments} >&- 2>&-"
    assert subprocess.run(["sh", "-c", command], env=child_environment).returncode == status


def test_help_for_a_command_that_is_none_says_so(underlay: Run) -> None:
    done = underlay("help", "comparr")
    assert done.returncode == 2
    assert "did you mean 'compare'?" in done.stderr


def test_a_process_out_of_descriptors_is_told_what_to_raise(
    command: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    def exhausted(_: argparse.Namespace) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    command(exhausted)
    assert cli.main(["probe-me"]) == 1
    assert "raise the limit of open files (`ulimit -n`)" in capsys.readouterr().err
