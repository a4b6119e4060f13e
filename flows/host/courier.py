"""Delivers to MLflow what `flows.host.spool` keeps: every run in the order in which it was written, each line once.

Exactly once, since each step can be repeated. A run is made only where none carries its key. A batch ends in the tag `sluice.delivered`,
the offset up to which the log is in MLflow, and metrics are written before tags: whoever comes after a crash goes on there, and a batch
whose tag was not written any more is sent again, of which MLflow's database keeps one row for each key, step, time and value. Params,
tags, files and the end of a run are the same when they are written twice.

A flow delivers from a thread of its own process; a stage that no flow started has a process beside it (`python -m flows.host.courier`),
which stays until nobody writes; and whoever comes to MLflow for another reason delivers what was left. Never the training itself.
"""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.host import spool
from flows.host.spool import About, Run
from flows.host.tracking import PIPELINE, Tracker, require_server
from flows.host.workspace import Workspace, locked, prepare_environment
from models.core.errors import SluiceError, StageError, Unavailable

EVERY_S = 5.0  # between two looks
PATIENCE_S = 30.0  # how long a stage started by hand waits for its delivery: MLflow's import and a new database take some 8 s
METRICS = 700  # in a call: MLflow takes 1,000 entries in all
DELIVERED = "sluice.delivered"
GONE = "the process ended without closing its run"
Tell = Callable[[str], object]


@dataclass
class Batch:
    """What one call delivers, and the offset in the log after it."""

    offset: int
    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def takes(self, line: dict[str, Any]) -> bool:
        """Whether there is room for the line, or the batch is empty."""
        sizes = [(part, len(line.get(name, {})), most) for name, part, most in self._parts()]
        return all(not part or len(part) + more <= most for part, more, most in sizes)

    def add(self, line: dict[str, Any], offset: int) -> None:
        self.metrics += [(key, value, line["time"], line["step"]) for key, value in line.get("metrics", {}).items()]
        self.params.update(line.get("params", {}))
        self.tags.update(line.get("tags", {}))
        self.offset = offset

    def _parts(self) -> list[tuple[str, Any, int]]:
        return [("metrics", self.metrics, METRICS), ("params", self.params, spool.ENTRIES), ("tags", self.tags, spool.ENTRIES)]


class Courier:
    """Delivers the runs of one workspace; of all its processes one at a time does. `tell` hears, once, what a person must put right."""

    def __init__(self, workspace: Workspace, tell: Tell) -> None:
        self.workspace = workspace
        self._tell, self._told = tell, set[str]()
        self._trackers: dict[tuple[str, str], Tracker] = {}
        self._ids: dict[str, str] = {}  # MLflow's id by key, of the runs that this process has found or made

    def deliver(self) -> None:
        """Deliver what can be, the oldest run first. Raises Unavailable where MLflow is away: all that is left waits."""
        if not spool.folders(self.workspace):
            return
        require_server(self.workspace)
        with locked(self.workspace.lock_file("spool")):
            spool.sweep(self.workspace)
            for folder in spool.folders(self.workspace):
                try:
                    self._deliver(folder)
                except Unavailable:
                    raise
                except Exception as error:  # of this run alone, such as its artifacts' store: the others need not wait
                    self._say(str(error) if isinstance(error, SluiceError) else f"{type(error).__name__}: {error}")

    def id_of(self, run: Run) -> str:
        """Deliver everything; return MLflow's id of the run. Raises Unavailable where MLflow is away, or does not take the run."""
        self.deliver()
        if run.key not in self._ids:
            raise Unavailable("MLflow did not take this run: what was said before must be put right; then run again")
        return self._ids[run.key]

    def say_what_waits(self) -> None:
        for line in spool.describe(spool.waiting(self.workspace)):
            self._say(line)

    def _say(self, text: str) -> None:
        line = " ".join(text.split())[:500]
        if line not in self._told:
            self._told.add(line)
            self._tell(line)

    def _deliver(self, folder: Path) -> None:
        alone, about = not spool.is_written(folder), spool.about(folder)
        if about is None and alone:
            raise StageError(f"a run has lost its beginning, what is left of it is in {spool.set_aside(folder)}")
        if about is None or about.store != spool.store(self.workspace):
            return
        tracker = self._trackers.setdefault((about.model, self.workspace.tracking_uri), Tracker(self.workspace, about.model))
        try:
            with tracker.answering():
                run_id, end = self._deliver_lines(tracker, folder, about)
                if end is None and not alone:
                    return
                written = int((folder / spool.LOG).stat().st_mtime * 1000)
                closing = end or {"end": "KILLED", "reason": GONE, "time": written}
                tracker.end(run_id, closing["end"], closing["reason"], closing["time"])
                for double in tracker.tagged(spool.KEY, folder.name):  # MLflow's client repeats a request whose answer was lost
                    if double.info.run_id != run_id:
                        tracker.client.delete_run(double.info.run_id)
        except StageError as error:
            raise StageError(f"{error}; what is left of run {about.name!r} is in {spool.set_aside(folder)}") from None
        spool.forget(folder)

    def _deliver_lines(self, tracker: Tracker, folder: Path, about: About) -> tuple[str, dict[str, Any] | None]:
        """Deliver the lines after those that are; return the run's id and the line that ends it, if it is there."""
        run_id, offset = self._resumed(tracker, folder, about)
        batch = Batch(offset)

        def send() -> Batch:
            if batch.offset > spool.sent(folder)[1]:
                tracker.log_batch(run_id, batch.metrics, batch.params, {**batch.tags, DELIVERED: str(batch.offset)})
                spool.set_sent(folder, run_id, batch.offset)
            return Batch(batch.offset)

        for after, line in spool.lines(folder, offset):
            if not batch.takes(line) or line.keys() & {"reports", "end"}:
                batch = send()
            if "end" in line:
                return run_id, line
            if "reports" in line:
                tracker.client.log_artifacts(run_id, str(folder / line["reports"]), "reports")
            if "inputs" in line:
                tracker.log_inputs(run_id, line["inputs"])
            batch.add(line, after)
        send()
        return run_id, None

    def _resumed(self, tracker: Tracker, folder: Path, about: About) -> tuple[str, int]:
        """The run's id, and the offset to go on from; a run that MLflow does not have is made."""
        run_id, offset = spool.sent(folder)
        if folder.name in self._ids:
            return run_id, offset
        found = tracker.tagged(spool.KEY, folder.name)
        if not found and run_id:
            raise StageError(f"MLflow has run {run_id} no more: it was deleted while it was written")
        if not found:
            tracker.start(PIPELINE, about.name, about.tags, self._id_of_parent(tracker, about.parent), about.time)
            found = tracker.tagged(spool.KEY, folder.name)
        run = next((run for run in found if run.info.run_id == run_id), found[0])
        run_id, offset = str(run.info.run_id), max(offset, int(run.data.tags.get(DELIVERED, 0)))
        spool.set_sent(folder, run_id, offset)
        self._ids[folder.name] = run_id
        return run_id, offset

    def _id_of_parent(self, tracker: Tracker, key: str | None) -> str | None:
        if key is None or key in self._ids:
            return self._ids.get(key or "")
        found = tracker.tagged(spool.KEY, key)
        return str(found[0].info.run_id) if found else None


def deliver(workspace: Workspace, tell: Tell) -> None:
    """Deliver what an earlier command left, before another asks MLflow anyway; tell what still waits, and never why MLflow is away."""
    courier = Courier(workspace, tell)
    with contextlib.suppress(Unavailable):
        courier.deliver()
    courier.say_what_waits()


@contextlib.contextmanager
def at_work(workspace: Workspace, tell: Tell) -> Iterator[Courier]:
    """A courier that delivers every EVERY_S in a thread, and once more at the end; what waits then is told."""
    courier, over = Courier(workspace, tell), threading.Event()

    def work() -> None:
        while not over.wait(EVERY_S):
            _try(courier)

    thread = threading.Thread(target=work, name="courier", daemon=True)
    thread.start()
    try:
        yield courier
    finally:
        over.set()
        _try(courier)
        courier.say_what_waits()


def _try(courier: Courier) -> None:
    """Deliver; whatever prevents it is told once, and tried again."""
    try:
        courier.deliver()
    except Exception as error:
        courier._say(f"{error}; what runs report meanwhile is kept, and delivered later")


def start(workspace: Workspace) -> subprocess.Popen[bytes]:
    """Start a process that delivers for as long as any run is written, in a session of its own: Ctrl-C must not reach it."""
    log = workspace.work / "logs" / "courier.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as output:
        command = [sys.executable, "-m", "flows.host.courier"]
        return subprocess.Popen(command, cwd=workspace.root, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)


def wait_for(process: subprocess.Popen[bytes], run: Run, enough: threading.Event) -> None:
    """Wait until the run is delivered, nobody delivers it, or it is `enough`."""
    deadline = time.monotonic() + PATIENCE_S
    while run.folder.exists() and process.poll() is None and time.monotonic() < deadline and not enough.wait(0.05):
        pass


def main(workspace: Workspace) -> None:
    """Deliver until nobody writes any more; then once again, for the last time."""
    prepare_environment(workspace)
    courier = Courier(workspace, lambda line: print(line, flush=True))
    while True:
        written = [folder for folder in spool.folders(workspace) if spool.is_written(folder)]
        _try(courier)
        if not written:
            return
        deadline = time.monotonic() + EVERY_S
        while time.monotonic() < deadline and all(map(spool.is_written, written)):
            time.sleep(0.1)


if __name__ == "__main__":
    main(Workspace(Path(os.getcwd())))
