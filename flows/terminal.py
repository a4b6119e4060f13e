"""What a person sees while a flow works: its log, one line at a time; progress overwrites itself on a terminal."""

import io
import logging
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

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


class Outlet(io.FileIO):
    """Standard output that a reader may close (`sluice run | head`): what is still said goes nowhere, and the work goes on to its end."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return super().write(data)


def let_the_reader_leave() -> None:
    """From now on a closed standard output ends nothing: neither the work nor the exit code depends on who reads."""
    if sys.stdout is None:  # started without one
        return
    told, outlet = sys.stdout, io.BufferedWriter(Outlet(sys.stdout.fileno(), "w", closefd=False))
    told.flush()
    sys.stdout = io.TextIOWrapper(outlet, told.encoding, told.errors, line_buffering=told.isatty())


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
        progress, speaker = PROGRESS.match(message), record.name + message.split(" ")[0]
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
