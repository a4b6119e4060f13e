"""Child processes that a flow owns: each in its own group, streamed line by line, gone when the flow is gone."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

GUARD = Path(__file__).with_name("guard.py")
GRACE_S = 20.0  # from SIGTERM to SIGKILL: time for a training to end its step, write a checkpoint and close its run; others need none

_groups: dict[int, subprocess.Popen[str]] = {}  # by the leader's process, which is the group's name
_stopping = threading.Event()


def program(name: str) -> str:
    """The path of a program of this environment."""
    return str(Path(sys.executable).with_name(name))


def start(command: Sequence[str], cwd: Path, env: dict[str, str], stdout: int | None = None, spared: bool = False) -> subprocess.Popen[str]:
    """Start `command` under the guard, in a process group of its own, stderr joined to stdout; `stop_all` leaves one that is `spared`."""
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", str(GUARD), str(os.getpid()), *command],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        process_group=0,
    )
    if not spared:
        _groups[child.pid] = child
    return child


def stop(child: subprocess.Popen[str], grace_s: float = GRACE_S) -> None:
    """End the child's whole group: ask, wait, kill. Safe on one that has ended."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(grace_s if sign == signal.SIGTERM else None)
    _groups.pop(child.pid, None)


def stop_all() -> None:
    """Kill every group of this process, now and for any that is about to start: the flow is over."""
    _stopping.set()
    for sign, pause in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, 0.0)):
        for group in list(_groups):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, sign)
        _wait_for_groups(pause)
    _groups.clear()


def _wait_for_groups(seconds: float) -> None:
    pause = threading.Event()
    for _ in range(int(seconds * 10)):
        if not any(_exists(child) for child in list(_groups.values())):
            return
        pause.wait(0.1)


def _exists(child: subprocess.Popen[str]) -> bool:
    """Whether a process of the child's group is left; one that has ended counts until somebody asks how."""
    child.poll()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, 0)
        return True
    return False


def reset() -> None:
    """Allow new children again: a new flow begins."""
    _stopping.clear()


def stopping() -> bool:
    """Whether stop_all was called: nothing more may start."""
    return _stopping.is_set()


class TimeLimitError(Exception):
    """The command ran past its limit and was killed."""


def stream(
    command: Sequence[str], cwd: Path, env: dict[str, str], on_line: Callable[[str], object], timeout_s: float, from_line: str | None = None
) -> int:
    """Run `command`, hand each line of its output to `on_line`, return its exit code.

    Raises TimeLimitError `timeout_s` after the line `from_line` (the start, where none is given): waiting for a slot does not count.
    Whatever ends the call, no process of the group is left.
    """
    child = start(command, cwd, env, subprocess.PIPE)
    late = threading.Event()

    def expire() -> None:
        late.set()
        stop(child)

    timer = threading.Timer(timeout_s, expire)
    timer.daemon = True
    if from_line is None:
        timer.start()
    try:
        if stopping():
            return 130
        assert child.stdout is not None
        for line in map(str.rstrip, child.stdout):
            if line == from_line and not timer.is_alive():
                timer.start()
            on_line(line)
        code = child.wait()
    finally:
        timer.cancel()
        stop(child)
        if child.stdout is not None:
            child.stdout.close()
    if late.is_set():
        raise TimeLimitError
    return code
