"""What the interpreter reads, before the program, in a process below `underlay run`.

``underlay run`` puts this directory on PYTHONPATH, and Python imports a module
of this name at start-up (docs.python.org/3/library/site.html). This file knows
how to leave no trace of that: it takes its directory off ``sys.path`` again and
hands over to the ``sitecustomize`` that it hid. Then it sees to it that the
model that ``UNDERLAY_IO`` names is put beneath the program: at once in the
program itself, and in Python processes that the program starts at the moment
when they import asyncio, so that those that never do pay nothing.

It refuses to know any model. It also refuses to fail: any Python that the
program starts reads this file, older ones and those of other environments too.
So it keeps to the syntax of Python 3.6 and imports underlay only when needed.
"""

import os
import sys

# Annotations are quoted and typing is not imported: each Python process pays for it.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType

# The model that the program and the Python processes below it run on.
MODEL_VARIABLE = "UNDERLAY_IO"
# The user-space network that the program runs on. It is the program's alone: a device has one cable.
NET_VARIABLE = "UNDERLAY_NET"
# The file for what its device carries.
CAPTURE_VARIABLE = "UNDERLAY_CAPTURE"
# How the loops of the program and of the Python processes below it are watched: a threshold and a way.
WATCH_VARIABLE = "UNDERLAY_WATCH"
# The executor that stands in for its event loops' own threads. The program's alone, or workers would have workers.
EXECUTOR_VARIABLE = "UNDERLAY_EXECUTOR"
# The process id of the program itself, which exec() kept. It tells the program,
# where a model that cannot run is an error, from the processes that it starts.
PROGRAM_VARIABLE = "UNDERLAY_RUN"
# Behind the process id: SIGINT is blocked until this file has seen to it that it leaves no traceback.
INTERRUPT_WAITS = " SIGINT"
# underlay's own minimum (pyproject.toml, requires-python).
OLDEST_PYTHON = (3, 11)


class AfterImport:
    """A finder on ``sys.meta_path`` that calls ``action(module)`` right after ``name`` is imported.

    The module's real loader stays in its spec, so that resources and reloads
    work; only its ``exec_module`` is lengthened, on that one object and until it
    has run once. Merely looking for the module (``importlib.util.find_spec``)
    uses nothing up.
    """

    def __init__(self, name: str, action: "Callable[[ModuleType], None]") -> None:
        self.name = name
        self.action = action

    def watch(self) -> None:
        """Begin to wait for the import, or act at once where it has happened."""
        if self.name in sys.modules:
            self.action(sys.modules[self.name])
        else:
            sys.meta_path.insert(0, self)

    def unwatch(self) -> None:
        """Wait no longer."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """Find the module with everybody else's finders, and lengthen its loading."""
        if name != self.name:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None if finder is self or find is None else find(name, path, target)
            if spec is not None:
                self._lengthen(spec.loader)
                return spec
        return None

    def _lengthen(self, loader: "Loader | None") -> None:
        load = getattr(loader, "exec_module", None)
        if load is None or isinstance(loader, type):
            return  # a built-in or namespace module: none of ours to wait for

        def load_and_act(module: "ModuleType") -> None:
            vars(loader).pop("exec_module", None)
            load(module)
            self.unwatch()
            self.action(module)

        vars(loader)["exec_module"] = load_and_act


def start() -> None:
    """Hide this directory, run the ``sitecustomize`` it hid, and arrange for the model."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if entry != here]
    model = os.environ.get(MODEL_VARIABLE, "")
    program = os.environ.pop(PROGRAM_VARIABLE, "")
    is_program = program.replace(INTERRUPT_WAITS, "") == str(os.getpid())
    net = os.environ.pop(NET_VARIABLE, "")
    capture = os.environ.pop(CAPTURE_VARIABLE, None)
    executor = os.environ.pop(EXECUTOR_VARIABLE, "")
    if model and sys.version_info >= OLDEST_PYTHON:
        if is_program:
            with_quiet_interrupts(
                lambda: put_beneath(model, is_program=True, net=net, capture=capture, executor=executor),
                program.endswith(INTERRUPT_WAITS),
            )
        else:
            AfterImport("asyncio", lambda module: put_beneath(model, is_program=False)).watch()
    _run_the_hidden_one()


def with_quiet_interrupts(action: "Callable[[], None]", is_blocked: bool) -> None:
    """Call ``action``, during which Ctrl-C ends the process as it ends one that does not know of it.

    Nothing of the program runs yet, and a traceback would be of ours. A SIGINT that was blocked meanwhile comes now.
    """
    import signal

    is_ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if is_blocked:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    action()
    if is_ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def put_beneath(
    model: str, *, is_program: bool, net: str = "", capture: "str | None" = None, executor: str = ""
) -> None:
    """Put ``model``, or the network ``net``, beneath this process; where it cannot be, end the program, spare a child.

    What the network's device carries goes to the file ``capture``; what the program's loops
    would run in their own threads, to ``executor``.
    A child keeps the standard loop when it has no underlay (it may belong to
    another environment); when it has one but cannot run the model, it says so.
    """
    # The parent may have found underlay by its own first path, which is the
    # program's by now; so the directory that holds the package helps to find it.
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))
    if is_program:
        sys.path.append(root)
    try:
        from underlay.errors import UnderlayError
        from underlay.loop._install import install_named
    except ImportError:
        if not is_program:
            return
        raise
    finally:
        if is_program:
            sys.path.remove(root)
    undo: Callable[[], None] | None = None
    try:
        if capture is not None:
            # `loop` and `trace` do not know each other; this file belongs to neither.
            from underlay.trace import capture_process

            begin, undo = capture_process(capture)
        # Before a loop in C is imported, which keeps what it finds in asyncio.
        watch = os.environ.get(WATCH_VARIABLE, "")
        if watch:
            from underlay.loop._watch_run import begin as begin_to_watch

            begin_to_watch(watch)
        install_named(model, net)
        if undo is not None:
            begin()
        if executor:
            # Nor do `loop` and `workers` know each other.
            from underlay.workers import install_words, redirect_uvloop

            install_words(executor)
            AfterImport("uvloop", redirect_uvloop).watch()
    except (UnderlayError, OSError) as error:
        said: object = error
        if not isinstance(error, UnderlayError):
            said = f"the network {net}" if net else f"the model {model}"
            said = f"{said} cannot be had now: {error}"
        _say(said)
        if undo is not None:
            undo()
        if is_program:
            # Not sys.exit, nor the exception: Python would call the one a fatal error, and after the other,
            # which it only prints, the program would run on the standard loop.
            os._exit(getattr(error, "exit_status", 2 if net else 1))
    except Exception as error:
        # Our own mistake. Python would print it and run the program on the kernel's network, which nobody asked for.
        if not (is_program and net):
            raise
        if undo is not None:
            undo()
        _say(f"the network {net} cannot be had: {error!r}")
        os._exit(1)


def _say(said: object) -> None:
    if sys.stderr is not None:
        # In one write, also where Python is unbuffered: all processes of a program may say it at this moment.
        print(f"underlay: {said}\n", end="", file=sys.stderr, flush=True)


def _run_the_hidden_one() -> None:
    """Import the ``sitecustomize`` that Python would have found without us, if any."""
    ours = sys.modules.pop("sitecustomize")
    try:
        import sitecustomize  # type: ignore[import-not-found]  # noqa: F401
    except ImportError as error:
        if error.name != "sitecustomize":
            raise
        sys.modules["sitecustomize"] = ours  # the importer looks for it, to return it


if __name__ == "sitecustomize":  # and not when underlay.loop._install borrows AfterImport
    start()
