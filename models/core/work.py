"""What a stage has beside its inputs and outputs: a folder of its own, a place for pages, its device, and a way to say how far it is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from models.core.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from models.core.checkpoints import Checkpoints


def silent(step: int, total: int, values: Mapping[str, float]) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Work:
    """What a long stage may use beside its inputs and outputs.

    folder: whatever it needs while it works, keyed by the stage's signature; its content may vanish between runs, never change meaning.
    reports: pages for people (data docs, plots); the edge logs them, on failure too; nothing downstream reads them.
    device: "cpu" or "cuda": of several, each rank sees its own.
    checkpoints: where a training keeps what it needs to go on; None: nowhere.
    progress: called as progress(step, total, values), e.g. (120, 400, {"loss": 1.93}); steps count from 1.
    ranks: the processes that do this work together; the leader's outputs, pages, checkpoints and progress are kept, the others' are not.
    """

    folder: Path
    reports: Path
    device: str = "cpu"
    checkpoints: "Checkpoints | None" = None
    progress: Callable[[int, int, Mapping[str, float]], None] = silent
    ranks: Ranks = ALONE
