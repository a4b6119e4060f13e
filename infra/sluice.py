"""The program `sluice`, before anything slow is imported: a signal ends it without a trace, and the `flows` that it imports is ours.

It has a name of its own, since those of our packages are common: a folder `flows` on PYTHONPATH would stand in for the program.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

REPEATED_S = 3.0  # a signal so soon after another says nothing new
ENDS = (signal.SIGTERM, signal.SIGHUP)
PACKAGE, PARTS = "flows", ("cli/main.py", "host/workspace.py")  # what tells our package from another of that name


def main() -> int:
    """Run the command line; return its exit code.

    A signal ends the program at once, and silently, while it imports and when the command is over; within a command it is raised, so that
    the command clears up. Where one is ignored, as Ctrl-C in the background of a script or SIGHUP under nohup, it stays so.
    """
    heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heard:
        signal.signal(signal.SIGINT, _end)
    ends = [number for number in ENDS if signal.getsignal(number) is signal.SIG_DFL]
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])  # infra/setup.sh has it held back until here
    sys.unraisablehook = _unraisable
    try:
        if folder := in_the_way():
            return _say(
                f"{folder} is another package of the name {PACKAGE} and stands before ours: take it out of PYTHONPATH, or rename it", 2
            )
        from flows.cli import main as command
    except Exception as error:
        return _say(f"cannot start: {_why(error)}: 'make setup' mends the environment; what has a library's name on PYTHONPATH must go", 1)
    try:
        answer = _once(_raise)
        for number in [*ends, *([signal.SIGINT] if heard else [])]:
            signal.signal(number, answer)
        try:
            command.main()
        finally:
            if heard:
                signal.signal(signal.SIGINT, _end)
            for number in ends:
                signal.signal(number, signal.SIG_DFL)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def in_the_way() -> str:
    """Where the package lies that would be imported in place of ours; "" where it is ours. Another checkout's is ours as well."""
    from importlib.util import find_spec

    found = find_spec(PACKAGE)
    folders = [] if found is None else list(found.submodule_search_locations or ())
    if found is None or any(all(os.path.isfile(os.path.join(folder, part)) for part in PARTS) for folder in folders):
        return ""
    return os.path.abspath((folders or [str(found.origin)])[0])


def _why(error: Exception) -> str:
    """What an import failed of, and the file where it did: a library's that is not the library is named itself."""
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None:
        frames = frames.tb_next
    raised = frames.tb_frame.f_code.co_filename if frames is not None else ""
    place = getattr(error, "path", None) or getattr(getattr(error, "obj", None), "__file__", None) or raised
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]} ({place})"


def _once(answer: Callable[[int, Any], None]) -> Callable[[int, Any], None]:
    """`answer`, but not to what comes within REPEATED_S: people press Ctrl-C twice, CI follows it by SIGTERM, and both would end in the
    middle of what clears up after the first."""
    last = -REPEATED_S

    def handler(number: int, frame: Any) -> None:
        nonlocal last
        if time.monotonic() - last >= REPEATED_S:
            last = time.monotonic()
            answer(number, frame)

    return handler


def _raise(number: int, _frame: object) -> None:
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


def _end(number: int, _frame: object) -> None:
    os._exit(128 + number)


def _unraisable(lost: "sys.UnraisableHookArgs") -> None:
    """A signal where nothing can be raised, as in a finaliser, would be shown as a trace, and lost."""
    if isinstance(lost.exc_value, KeyboardInterrupt):
        _end(signal.SIGINT, None)
    if isinstance(lost.exc_value, SystemExit) and isinstance(lost.exc_value.code, int):
        os._exit(lost.exc_value.code)
    sys.__unraisablehook__(lost)


def _say(line: str, code: int) -> int:
    print(f"sluice: {line}", file=sys.stderr)
    return code
