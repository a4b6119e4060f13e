"""Where a training keeps what it needs to go on after its process was killed: folders that are written whole or not at all."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.core.files import read_json, write_json
from models.core.ranks import ALONE, Ranks

SIZES = "sizes.json"  # of a checkpoint: its files with their bytes, and what the caller noted beside them
KEPT = 2


class Stopped(KeyboardInterrupt):
    """Somebody asked the training to stop, and its checkpoint is written."""


@dataclass
class Checkpoints:
    """The checkpoints of one execution of a stage; without a folder nothing is kept.

    folder: keyed by the stage's signature, so that no other params, inputs or packages ever find them.
    every_s: seconds between two; what writing one takes is not counted, or a slow disk would leave no time to train.
    notes: what the caller has to remember as well, as JSON; where a training goes on, `recall` is given the steps it has done, and that.
    ranks: the leader decides when; all write what is theirs, and read.
    """

    folder: Path | None = None
    every_s: float = 300.0
    notes: Callable[[], Any] = lambda: None
    recall: Callable[[int, Any], None] = lambda *_: None
    ranks: Ranks = ALONE
    running: bool = field(default=False, init=False)
    asked: bool = field(default=False, init=False)
    last: float = field(default_factory=time.monotonic, init=False)

    @contextmanager
    def training(self) -> Iterator[None]:
        """While a training runs that asks `due` at the end of each step."""
        self.running, self.last = self.folder is not None, time.monotonic()
        try:
            yield
        finally:
            self.running = False

    def ask(self) -> bool:
        """Ask for a checkpoint at the end of the step, and for the end of the training after it; False where nobody will heed it."""
        heeded = self.running and not self.asked
        self.asked |= heeded
        return heeded

    def due(self) -> bool:
        """Whether one is to be written now, at the end of a step, by every rank."""
        due = self.folder is not None and (self.asked or time.monotonic() - self.last >= self.every_s)
        due, self.asked = self.ranks.told((due, self.asked))
        return due

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Have `write` fill a folder, and keep it as what stands after `step` steps. Raises Stopped where somebody asked for it.

        The files are on the disk before the folder has its name: neither a kill nor a power failure leaves half of one under it. Of several
        ranks each writes into the same folder.
        """
        if self.folder is None:
            return
        draft = self.folder / f".{step}.draft"
        if self.ranks.leads:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
        self.ranks.gather("the folder is there")
        write(draft)
        self.ranks.gather("all have written")
        if self.ranks.leads:
            self._keep(draft, self.folder / f"{step:09}")
        self.last = time.monotonic()
        if self.asked:
            raise Stopped

    def _keep(self, draft: Path, place: Path) -> None:
        write_json(draft / SIZES, {"files": _sizes(draft), "notes": self.notes()})
        for path in (*draft.rglob("*"), draft):
            _sync(path)
        shutil.rmtree(place, ignore_errors=True)
        draft.rename(place)
        _sync(place.parent)
        for old in self._all()[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def latest(self) -> Path | None:
        """The last whole checkpoint, its notes recalled; one whose files are not as they were written is passed over."""
        for place in reversed(self._all()):
            kept = read_json(place / SIZES, None)
            if isinstance(kept, dict) and kept.get("files") == _sizes(place):
                self.recall(int(place.name), kept["notes"])
                return place
            print(f"the checkpoint {place} is not whole: an older one is taken, or the training begins anew", flush=True)
        return None

    def _all(self) -> list[Path]:
        """The oldest first."""
        return sorted(path for path in self.folder.glob("[0-9]*") if path.is_dir()) if self.folder is not None else []


def _sizes(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file() and path.name != SIZES
    }


def _sync(path: Path) -> None:
    """Have a file's bytes, or a folder's names, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
