"""What runs have to say to MLflow, on disk first: a folder a run, lines appended as they come; `flows.host.courier` delivers them.

A training waits for no server, and one that is away loses nothing. A run is known by its key until MLflow gives it an id. Whoever writes a
run holds a lock on its log, which dies with its process: a log without an end that nobody holds is a killed run's.
"""

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.host.masking import masked, masked_values
from flows.host.tracking import flatten, owner_tags
from flows.host.workspace import Workspace
from models.core.files import read_json, write_json

LOG, SENT, REPORTS = "log.jsonl", "sent.json", "reports"
ENTRIES = 90  # params or tags in a line: MLflow takes 100 in a call
UNOPENED_S = 60.0  # what is hidden for so long, nobody is at
KEY = "sluice.spool"  # the tag of the run in MLflow that names its key


def store(workspace: Workspace) -> str:
    """What identifies the tracking store in use: its address, or "" for the workspace's own database, served or not."""
    uri, server = workspace.tracking_uri.rstrip("/"), workspace.servers().get("mlflow", {})
    return "" if uri in (workspace.embedded_store, server.get("url")) else masked(uri)


def now_ms() -> int:
    return int(time.time() * 1000)


class Run:
    """A run being written. Once it is open nothing here raises: whoever has published results must not fail for its report."""

    def __init__(self, workspace: Workspace, model: str, name: str, tags: Mapping[str, str], parent: str | None = None) -> None:
        self.key = f"{time.time_ns():020d}-{secrets.token_hex(4)}"
        self.folder = _place(workspace) / self.key
        draft = self.folder.with_name(f".{self.key}")
        draft.mkdir(parents=True)
        self._file = os.open(draft / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        about = {
            "model": model,
            "name": name,
            "tags": {**owner_tags(), **masked_values(tags), KEY: self.key},
            "parent": parent,
            "store": store(workspace),
        }
        self._time = now_ms()
        self._unwritten = json.dumps({"run": about, "time": self._time}).encode() + b"\n"
        self._write_out()
        os.fsync(self._file)
        draft.rename(self.folder)

    def params(self, nested: Mapping[str, Any]) -> None:
        """Params under dotted names."""
        for part in _parts({key: masked(value)[:6000] for key, value in flatten(nested).items()}):
            self._append({"params": part})

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """One step of the curves."""
        self._append({"metrics": {key: float(value) for key, value in values.items()}, "step": step})

    def results(self, nested: Mapping[str, Any], step: int) -> None:
        """The numbers among nested results, under dotted names, at the last step: under a curve's name they are its end, not its step 0."""
        self._time = max(now_ms(), self._time + 1)  # of two values at one step MLflow shows the later, in one millisecond the larger
        for part in _parts({key: value for key, value in flatten(nested, text=False).items() if isinstance(value, int | float)}):
            self.step(step, part)

    def inputs(self, data: Mapping[str, str]) -> None:
        """What the run read: md5 by path."""
        self._append({"inputs": [{"name": path, "digest": md5, "source": f"{path}@{md5}"} for path, md5 in data.items()]})

    def tags(self, tags: Mapping[str, str]) -> None:
        self._append({"tags": {key: masked(value)[:8000] for key, value in tags.items()}})

    def reports(self, folder: Path) -> None:
        """Pages for people, copied."""
        try:
            shutil.copytree(folder, self.folder / REPORTS, dirs_exist_ok=True)
        except (OSError, shutil.Error) as error:
            _tell(f"the reports in {folder} do not reach MLflow: {error}")
        else:
            self._append({"reports": REPORTS})

    def end(self, status: str, reason: str = "") -> None:
        """Close the run: FINISHED, FAILED or KILLED. What is on disk then outlives a power cut."""
        if self._file < 0:
            return
        self._append({"end": status, "reason": masked(reason)[:4000]})
        with contextlib.suppress(OSError):
            os.fsync(self._file)
        os.close(self._file)
        self._file = -1

    def _append(self, line: Mapping[str, Any]) -> None:
        self._time = max(now_ms(), self._time)
        self._unwritten += json.dumps({**line, "time": self._time}).encode() + b"\n"
        try:
            self._write_out()
        except OSError as error:  # a full disk: tried again with the next line
            _tell(f"what {self.folder} must hold for MLflow cannot be written: {error}")

    def _write_out(self) -> None:
        while self._unwritten:
            self._unwritten = self._unwritten[os.write(self._file, self._unwritten) :]


def _parts(values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The values in parts that one call to MLflow takes."""
    entries = list(values.items())
    for start in range(0, len(entries), ENTRIES):
        yield dict(entries[start : start + ENTRIES])


def _tell(line: str) -> None:
    with contextlib.suppress(OSError):
        print(f"sluice: {line}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class About:
    """The first line of a log: what the run is opened with."""

    model: str
    name: str
    tags: dict[str, str]
    parent: str | None
    store: str
    time: int


def _place(workspace: Workspace) -> Path:
    return workspace.state / "spool"


def folders(workspace: Workspace) -> list[Path]:
    """The folder of each run that is not delivered to its end, oldest first."""
    return sorted(path for path in _place(workspace).glob("[0-9]*-*") if (path / LOG).is_file())


def is_written(folder: Path) -> bool:
    """Whether a living process still writes the run's log. Ask before reading it: an end may come in between."""
    try:
        with (folder / LOG).open("rb") as log:
            fcntl.flock(log, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def about(folder: Path) -> About | None:
    """What the run was opened with; None where a power cut took its first line."""
    for _, line in lines(folder, 0):
        return About(**line["run"], time=line["time"]) if "run" in line else None
    return None


def lines(folder: Path, offset: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each whole line from byte `offset` on, with the offset after it. One that is cut off waits; what no line can be is passed over."""
    with (folder / LOG).open("rb") as log:
        log.seek(offset)
        for line in log:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                yield offset, value


def sent(folder: Path) -> tuple[str, int]:
    """The run's id in MLflow, "" before it has one, and the offset up to which its log was delivered."""
    found = read_json(folder / SENT, {})
    return found.get("run_id", ""), found.get("offset", 0)


def set_sent(folder: Path, run_id: str, offset: int) -> None:
    write_json(folder / SENT, {"run_id": run_id, "offset": offset})


def forget(folder: Path) -> None:
    """Drop a run that is delivered: at once, then its files."""
    gone = folder.with_name(f".{folder.name}.delivered")
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def sweep(workspace: Workspace) -> None:
    """Remove what a kill left of a run that was delivered, or not opened yet."""
    for hidden in _place(workspace).glob(".*"):
        if time.time() - hidden.stat().st_mtime > UNOPENED_S:
            shutil.rmtree(hidden, ignore_errors=True)


def set_aside(folder: Path) -> Path:
    """Keep a run that MLflow does not take out of the way, and return where."""
    place = folder.parent / "refused" / folder.name
    place.parent.mkdir(exist_ok=True)
    return folder.rename(place)


def waiting(workspace: Workspace) -> list[dict[str, Any]]:
    """What waits, by store: how many runs, how many lines of theirs, since when (ms)."""
    found: dict[str, dict[str, Any]] = {}
    for folder in folders(workspace):
        left, known = sum(1 for _ in lines(folder, sent(folder)[1])), about(folder)
        if left and known:
            entry = found.setdefault(known.store, {"store": known.store, "runs": 0, "lines": 0, "since": known.time})
            entry["runs"] += 1
            entry["lines"] += left
    return list(found.values())


def describe(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """What `waiting` found, a line for each store."""
    return [
        f"{entry['runs']} run{'s' * (entry['runs'] != 1)} ({entry['lines']} line{'s' * (entry['lines'] != 1)}) wait for MLflow"
        f"{' at ' + entry['store'] if entry['store'] else ''}: the next command that reaches it delivers them"
        for entry in found
    ]
