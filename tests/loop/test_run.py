"""`underlay run` cannot be told from `python`, but for the loop; and says plainly what it cannot run.

Most tests here run the same program twice, once by python and once by `underlay
run`, and compare all that a person or a shell sees: what it prints, its
tracebacks, its status. They know nothing of how `run` works.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zipapp
from pathlib import Path

import pytest

# A child that runs longer hangs; nothing is measured by it.
LIMIT_S = 60

Done = subprocess.CompletedProcess[str]

TELLS_ABOUT_ITSELF = """
import sys
print(sys.argv, sys.path, sys.flags, sys.warnoptions)
print(sorted(globals()))
print(__name__, __package__, __spec__ and __spec__.name, __builtins__, __doc__)
print(globals().get("__file__"), globals().get("__cached__"), type(__loader__))
print(sys.modules["__main__"].__dict__ is globals())
"""
FAILS = "def inner():\n    1 / 0\n\ninner()\n"

LOOP_OF_ASYNCIO_RUN = """
import asyncio

async def main():
    return type(asyncio.get_running_loop()).__name__

"""


def run(where: Path, *words: str | Path, stdin: str = "", **environment: str) -> Done:
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=where,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env={**os.environ, **environment},
        check=False,
    )


def ours(where: Path, *words: str | Path, model: str = "epoll", stdin: str = "", **environment: str) -> Done:
    return run(where, "-m", "underlay", "run", "--io", model, *words, stdin=stdin, **environment)


def same_as_python(where: Path, *words: str | Path, stdin: str = "", **environment: str) -> Done:
    """Run the program both ways, compare all that can be seen, and return it."""
    plain = run(where, *words, stdin=stdin, **environment)
    with_us = ours(where, *words, stdin=stdin, **environment)
    assert (with_us.stdout, with_us.stderr, with_us.returncode) == (plain.stdout, plain.stderr, plain.returncode)
    return with_us


def write(where: Path, name: str, text: str) -> str:
    (where / name).parent.mkdir(parents=True, exist_ok=True)
    (where / name).write_text(text)
    return name


def test_a_script_sees_the_same_argv_path_flags_and_main_module(tmp_path: Path) -> None:
    script = write(tmp_path, "app.py", TELLS_ABOUT_ITSELF)
    done = same_as_python(tmp_path, script, "--port", "0", "--io", "x", "-m", "y", "--", "--help")
    assert "['app.py', '--port', '0', '--io', 'x', '-m', 'y', '--', '--help']" in done.stdout


@pytest.mark.parametrize("way", ["./app.py", "../{here}/app.py", "{whole}/app.py"])
def test_a_script_by_another_path_sees_the_same(tmp_path: Path, way: str) -> None:
    write(tmp_path, "app.py", TELLS_ABOUT_ITSELF + FAILS)
    done = same_as_python(tmp_path, way.format(here=tmp_path.name, whole=tmp_path))
    assert done.returncode == 1


def test_a_script_by_a_symbolic_link_finds_the_modules_beside_its_target(tmp_path: Path) -> None:
    write(tmp_path, "real/beside.py", "print('beside')")
    write(tmp_path, "real/app.py", "import beside\n" + TELLS_ABOUT_ITSELF)
    (tmp_path / "link.py").symlink_to("real/app.py")
    assert same_as_python(tmp_path, "link.py").stdout.startswith("beside\n")


def test_a_module_a_package_and_a_module_in_a_package_see_the_same(tmp_path: Path) -> None:
    for name in ("alone.py", "pack/__init__.py", "pack/__main__.py", "pack/part.py"):
        write(tmp_path, name, TELLS_ABOUT_ITSELF)
    for module in ("alone", "pack", "pack.part"):
        assert same_as_python(tmp_path, "-m", module, "-x", "--", "--io").returncode == 0
        assert same_as_python(tmp_path, f"-m{module}", "--io").returncode == 0


def test_a_module_that_the_current_directory_shadows_is_the_one_python_runs(tmp_path: Path) -> None:
    write(tmp_path, "colorsys.py", "print('mine')")
    assert same_as_python(tmp_path, "-m", "colorsys").stdout == "mine\n"


def test_a_directory_and_a_zip_file_with_a_main_module_see_the_same(tmp_path: Path) -> None:
    write(tmp_path, "tool/__main__.py", TELLS_ABOUT_ITSELF + FAILS)
    zipapp.create_archive(tmp_path / "tool", tmp_path / "tool.pyz", interpreter="/usr/bin/env python3")
    for program in ("tool", "tool.pyz"):
        assert same_as_python(tmp_path, program, "a").returncode == 1


def test_code_on_the_command_line_and_a_script_on_stdin_see_the_same(tmp_path: Path) -> None:
    same_as_python(tmp_path, "-c", TELLS_ABOUT_ITSELF, "--io", "-c", "--", "x")
    same_as_python(tmp_path, "-c", "-1")
    same_as_python(tmp_path, "-", "--io", "x", stdin=TELLS_ABOUT_ITSELF)


def test_a_script_reads_the_same_stdin(tmp_path: Path) -> None:
    script = write(tmp_path, "app.py", "import sys; print(sys.stdin.read().upper())")
    assert same_as_python(tmp_path, script, stdin="hello").stdout == "HELLO\n"


@pytest.mark.parametrize("status", ["0", "3", "None", "'a word'", "True", "256", "(1, 2)"])
def test_sys_exit_gives_the_same_status(tmp_path: Path, status: str) -> None:
    same_as_python(tmp_path, write(tmp_path, "app.py", f"import sys; sys.exit({status})"))


@pytest.mark.parametrize(
    "end",
    [
        FAILS,
        "x = (\n1 +* 2)",
        "raise KeyboardInterrupt",
        "import sys\nsys.stdout.close()",
        "import os; os._exit(7)",
        "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise LookupError from error",
        "raise ExceptionGroup('both', [ValueError(1), BrokenPipeError(32, 'gone')])",
        "from underlay.errors import UsageError\nraise UsageError('the program has its own')",
        "import sys\nsys.excepthook = lambda *error: print('hooked', error[:2])\n1 / 0",
        "import sys\nsys.excepthook = None\n1 / 0",
        "import atexit\natexit.register(print, 'last')\nraise SystemExit(4)",
        "import traceback\ntraceback.print_stack()",
        "import threading\nthreading.Thread(target=lambda: 1 / 0, name='t').start()",
        "import warnings\nwarnings.warn('old', DeprecationWarning)",
        "open(__file__)",
    ],
)
def test_a_program_ends_in_the_same_way(tmp_path: Path, end: str) -> None:
    same_as_python(tmp_path, write(tmp_path, "app.py", end), PYTHONDEVMODE="1")


def test_a_program_that_raises_in_a_module_run_by_m_leaves_the_same_traceback(tmp_path: Path) -> None:
    write(tmp_path, "pack/__init__.py", "")
    write(tmp_path, "pack/part.py", FAILS)
    write(tmp_path, "broken/__init__.py", FAILS)
    write(tmp_path, "broken/part.py", "")
    same_as_python(tmp_path, "-m", "pack.part")
    same_as_python(tmp_path, "-m", "broken.part")


def test_what_asyncio_says_in_debug_mode_has_no_frame_of_ours(tmp_path: Path) -> None:
    script = write(
        tmp_path,
        "app.py",
        "import asyncio, traceback\n"
        "async def main():\n"
        "    traceback.print_stack()\n"
        "    task = asyncio.create_task(asyncio.sleep(0))\n"
        "    print(''.join(traceback.format_list(task._source_traceback)))\n"
        "asyncio.run(main())\n",
    )
    done = ours(tmp_path, script, PYTHONASYNCIODEBUG="1")
    assert done.returncode == 0, done.stderr
    assert "_run.py" not in done.stdout + done.stderr
    assert "cli.py" not in done.stdout + done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE])
def test_a_signal_ends_a_program_as_it_ends_python(tmp_path: Path, number: signal.Signals) -> None:
    script = write(
        tmp_path,
        "app.py",
        "import atexit, os, signal, sys, time\n"
        "atexit.register(print, 'last')\n"
        "print(signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGPIPE), flush=True)\n"
        f"os.kill(os.getpid(), {int(number)})\n"
        "for _ in range(100):\n    time.sleep(0.001)\n",
    )
    same_as_python(tmp_path, script)


def test_ctrl_c_in_asyncio_run_kills_by_sigint_as_python_does(tmp_path: Path) -> None:
    script = write(
        tmp_path,
        "app.py",
        "import asyncio, os, signal\n"
        "async def main():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        await asyncio.sleep(3600)\n"
        "    finally:\n"
        "        print('cancelled')\n"
        "asyncio.run(main())\n",
    )
    done = ours(tmp_path, script)
    assert (done.returncode, done.stdout) == (-signal.SIGINT, "cancelled\n")
    assert done.stderr.endswith("KeyboardInterrupt\n")


def test_the_flags_of_the_interpreter_are_handed_on(tmp_path: Path) -> None:
    script = write(tmp_path, "app.py", "import sys; print(sys.flags, sys.warnoptions, sys._xoptions)\nassert not 1")
    flags = ["-X", "dev", "-X", "utf8", "-W", "error::DeprecationWarning", "-O", "-B", "-s"]
    plain = run(tmp_path, *flags, script)
    with_us = run(tmp_path, *flags, "-m", "underlay", "run", "--io", "epoll", script)
    assert with_us.stdout == plain.stdout
    assert plain.returncode == with_us.returncode == 0


def test_an_unbuffered_python_stays_unbuffered(tmp_path: Path) -> None:
    code = "import sys; print(sys.stdout.write_through)"
    assert run(tmp_path, "-u", "-m", "underlay", "run", "-c", code).stdout == "True\n"
    assert run(tmp_path, "-m", "underlay", "run", "-c", code, PYTHONUNBUFFERED="").stdout == "False\n"


def test_safe_path_keeps_the_directory_of_the_script_off_the_path(tmp_path: Path) -> None:
    script = write(tmp_path, "app.py", TELLS_ABOUT_ITSELF)
    same_as_python(tmp_path, script, PYTHONSAFEPATH="1")


def test_the_users_own_pythonpath_and_sitecustomize_stay_in_force(tmp_path: Path) -> None:
    write(tmp_path, "lib/sitecustomize.py", "import sys; sys.mark = 'theirs'")
    script = write(tmp_path, "app.py", TELLS_ABOUT_ITSELF + "print(sys.mark)")
    done = same_as_python(tmp_path, script, PYTHONPATH=str(tmp_path / "lib"))
    assert done.stdout.endswith("theirs\n")


def test_a_class_of_the_main_module_is_pickled_to_a_spawned_process(tmp_path: Path) -> None:
    script = write(
        tmp_path,
        "app.py",
        LOOP_OF_ASYNCIO_RUN + "import multiprocessing\n"
        "class Thing:\n"
        "    def __call__(self, _):\n"
        "        return type(self).__module__, asyncio.run(main())\n"
        "if __name__ == '__main__':\n"
        "    for method in ('fork', 'spawn', 'forkserver'):\n"
        "        with multiprocessing.get_context(method).Pool(1) as pool:\n"
        "            print(method, *pool.map(Thing(), [0]))\n",
    )
    done = ours(tmp_path, script, model="poll")
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "fork ('__main__', 'PollLoop')",
        "spawn ('__mp_main__', 'PollLoop')",
        "forkserver ('__mp_main__', 'PollLoop')",
    ]


def test_a_python_process_that_the_program_starts_runs_on_the_same_model(tmp_path: Path) -> None:
    child = write(tmp_path, "child.py", LOOP_OF_ASYNCIO_RUN + "print(asyncio.run(main()))")
    script = write(
        tmp_path,
        "app.py",
        "import os, subprocess, sys\n"
        f"command = [sys.executable, {child!r}]\n"
        "subprocess.run(command)\n"
        "subprocess.run(command, env={**os.environ, 'UNDERLAY_IO': 'asyncio'})\n"
        "subprocess.run(command, env={**os.environ, 'UNDERLAY_IO': 'nonsense'})\n"
        "os.execv(sys.executable, command)\n",  # as auto-reloaders do
    )
    done = ours(tmp_path, script, model="poll")
    assert done.stdout.split() == ["PollLoop", "_UnixSelectorEventLoop", "_UnixSelectorEventLoop", "PollLoop"]
    assert done.stderr.startswith("underlay: there is no I/O model 'nonsense'")
    assert done.returncode == 0


def test_a_python_process_that_never_imports_asyncio_does_not_pay_for_it(tmp_path: Path) -> None:
    look = "import sys; print([name for name in sys.modules if name.startswith(('asyncio', 'underlay'))])"
    script = write(tmp_path, "app.py", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {look!r}])")
    assert ours(tmp_path, script).stdout == "[]\n"


@pytest.mark.parametrize("variable", [{}, {"UNDERLAY_IO": "poll"}])
def test_without_io_the_variable_and_then_auto_decide(tmp_path: Path, variable: dict[str, str]) -> None:
    script = write(tmp_path, "app.py", LOOP_OF_ASYNCIO_RUN + "print(asyncio.run(main()))")
    done = run(tmp_path, "-m", "underlay", "run", script, **variable)
    if variable:
        assert done.stdout == "PollLoop\n"
    else:
        assert done.stdout in ("EpollLoop\n", "PollLoop\n", "SelectLoop\n", "UringLoop\n")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nosuch.py"], "there is no script nosuch.py; check the path"),
        (["ap.py"], "there is no script ap.py; did you mean 'app.py'?"),
        (["nowhere/app.py"], "there is no script nowhere/app.py; there is no directory nowhere either"),
        (["app"], "there is no script app; for the module of that name say -m app"),
        (["empty"], "empty is a directory without a __main__.py; name a script in it"),
        (["empty.zip"], "empty.zip is a zip file without a __main__.py; name a script in it"),
        (["-m", "nosuch"], "there is no module nosuch; is it installed for "),
        (["-m", "app.py"], "app is a module, not a package, and holds no py; a script is named without -m"),
        (["-m", "nosuch.py"], "there is no module nosuch; a script is named without -m"),
        (["-m", "pack"], "pack is a package without a __main__.py; name one of its modules"),
        (["-m", "pack.nosuch"], "there is no module pack.nosuch; is it installed"),
        (["-m"], "-m needs the name of a module; name a script, or a module with -m"),
        (["-c"], "-c needs the code to run; name a script"),
        ([], "no program to run; name a script"),
        (["--model", "epoll", "app.py"], "no option --model here"),
        (["--io", "epol", "app.py"], "there is no I/O model 'epol'; did you mean 'epoll'?"),
        (["--io"], "run: argument --io: it takes a word behind it"),
        (["--io", "epoll", "--net", "lo", "app.py"], "--io and --net exclude each other; leave one out"),
        (["--net=lo", "--io=auto", "app.py"], "--io and --net exclude each other; leave one out"),
        (
            ["--capture", "out", "app.py"],
            "--capture is of a network of the program's own, and there is none; say --net",
        ),
        (["--capture", "out", "--net", "lo", "app.py"], "--capture writes what a device carries, and the network lo"),
        (["--capture=", "--net=lo", "app.py"], "--capture needs the name of a file; an example: --capture out.pcapng"),
        (["--io=", "app.py"], "--io needs the name of a model; `underlay models` lists them"),
    ],
)
def test_what_cannot_be_run_is_told_in_one_sentence_with_status_2(
    tmp_path: Path, words: list[str], sentence: str
) -> None:
    write(tmp_path, "app.py", "print('the program ran')")
    write(tmp_path, "pack/__init__.py", "")
    write(tmp_path, "empty/notes.txt", "")
    (tmp_path / "empty.zip").write_bytes(b"PK\x05\x06" + bytes(18))  # an archive's end, and nothing before it
    done = run(tmp_path, "-m", "underlay", "run", *words)
    assert done.stderr.startswith(f"underlay: {sentence}")
    assert done.stderr.count("\n") == 1
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_a_program_whose_standard_streams_are_closed_runs_as_on_python(tmp_path: Path, closed: str) -> None:
    write(tmp_path, "app.py", "import sys; sys.exit(4 if None in (sys.stdin, sys.stdout, sys.stderr) else 5)")
    command = f"exec '{sys.executable}' -m underlay run app.py {closed}"
    assert subprocess.run(["sh", "-c", command], cwd=tmp_path, timeout=LIMIT_S).returncode == 4


def test_a_program_whose_model_the_kernel_refuses_does_not_run_on_another(tmp_path: Path) -> None:
    write(tmp_path, "lib/uvloop/__init__.py", "raise OSError(12, 'Cannot allocate memory')")
    script = write(tmp_path, "app.py", "print('the program ran')")
    done = ours(tmp_path, script, model="uvloop", PYTHONPATH=str(tmp_path / "lib"))
    assert done.stderr == "underlay: the model uvloop cannot be had now: [Errno 12] Cannot allocate memory\n"
    assert (done.returncode, done.stdout) == (1, "")


def test_a_module_is_found_from_a_directory_that_was_removed(tmp_path: Path) -> None:
    command = f"mkdir gone && cd gone && rmdir ../gone && exec '{sys.executable}' -m underlay run -m this"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("The Zen of Python")


def test_a_python_that_ignores_its_environment_is_refused(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2] / "src"
    code = f"import sys; sys.path.insert(0, {str(root)!r}); sys.argv[1:] = ['run', 'x.py']\nimport underlay.cli as c; "
    done = run(tmp_path, "-I", "-c", code + "c.entry()")
    assert done.returncode == 2
    assert "-I, -E and -S keep underlay from putting a model beneath a program; leave them out" in done.stderr


def test_a_model_that_this_machine_lacks_ends_the_program_before_it_begins(tmp_path: Path) -> None:
    write(tmp_path, "lib/uvloop/__init__.py", "raise ImportError('not for this machine')")
    script = write(tmp_path, "app.py", "print('the program ran')")
    done = ours(tmp_path, script, model="uvloop", PYTHONPATH=str(tmp_path / "lib"))
    assert done.stderr == "underlay: the model uvloop is not available here: it isn't installed; pip install uvloop\n"
    assert (done.returncode, done.stdout) == (2, "")
