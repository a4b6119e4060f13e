"""What a person sees while a flow works: its log, one line at a time; progress overwrites itself on a terminal."""

import io
import logging
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from flows.host.masking import masked

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
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            if isinstance(error, BrokenPipeError):
                return super().write(data)
            raise OSError(error.errno, error.strerror, "standard output") from None  # once: what is still said goes nowhere


class Masked(io.TextIOWrapper):
    """A text stream that shows no secret, and what its encoding has no sign for as an escape."""

    def write(self, text: str, /) -> int:
        super().write(masked(text))
        return len(text)


def prepare_streams() -> None:
    """From now on standard output and error end nothing: neither the work nor the exit code depends on who reads, or in what encoding.

    A stream that was closed before the start goes nowhere: else the first file to be opened would stand in its place.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            place = os.open(os.devnull, os.O_RDWR)
            if place != number:
                os.dup2(place, number)
                os.close(place)
        if name == "stdin":
            sys.stdin = sys.stdin or open(number, closefd=False)  # noqa: SIM115 - for as long as the process lives
            continue
        told = getattr(sys, name)
        if told is not None:
            told.flush()
        outlet = io.BufferedWriter(Outlet(number, "w", closefd=False))
        encoding, at_once = getattr(told, "encoding", None) or "utf-8", name == "stderr" or (told is not None and told.isatty())
        setattr(sys, name, Masked(outlet, encoding, "backslashreplace", line_buffering=at_once))


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
