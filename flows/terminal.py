"""What a person sees while a flow works: its log, one line at a time; progress overwrites itself on a terminal."""

import contextlib
import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PROGRESS = re.compile(r"^\S+  step (\d+)/(\d+)")
QUIET_S = 10.0  # between two lines of progress where lines cannot be overwritten
NOISE = (
    "ERROR: failed to reproduce",
    "Running stage",
    "> sluice stage",
    "Updating lock file",
    "Generating lock file",
    "To track the changes",
    "git add",
    "Use `dvc push`",
    "To enable auto",
    "dvc config",
)  # DVC's own words; they stay in the log file


@contextlib.contextmanager
def reader_may_leave() -> Iterator[None]:
    """Let a reader of standard output close it (`sluice run | head`): what is still said goes nowhere, and the work goes on."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class TerminalHandler(logging.Handler):
    """Shows the records marked for people."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.started = time.monotonic()
        self.shown: dict[str, float] = {}
        self.pending = False

    def emit(self, record: logging.LogRecord) -> None:
        if not getattr(record, "sluice", False):
            return
        message = record.getMessage()
        if message.strip().startswith(NOISE):
            return
        elapsed = time.monotonic() - self.started
        line = f"{elapsed:6.0f} s  {message}"
        with reader_may_leave():
            self._show(record.name + message.split(" ")[0], line, PROGRESS.match(message), elapsed)

    def _show(self, speaker: str, line: str, progress: re.Match[str] | None, elapsed: float) -> None:
        if not progress:
            self._print(line)
        elif sys.stdout.isatty():
            sys.stdout.write(f"\r\x1b[2K{line[:118]}")
            sys.stdout.flush()
            self.pending = True
        elif progress[1] == progress[2] or elapsed - self.shown.get(speaker, -QUIET_S) >= QUIET_S:
            self.shown[speaker] = elapsed
            self._print(line)

    def _print(self, line: str) -> None:
        if self.pending:
            sys.stdout.write("\r\x1b[2K")
            self.pending = False
        print(line, flush=True)


def attach(log: Path) -> None:
    """Send this process's log to the terminal, marked records only, and to the file `log`, everything."""
    log.parent.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(log, encoding="utf-8", delay=True)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    logging.getLogger().handlers = [TerminalHandler(), file]
