"""One attempt at one stage: how it ended, and whether another may end otherwise."""

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from flows.host import processes
from flows.host.masking import masked
from flows.stages.pipeline import Stage
from flows.stages.place import Outcome, Place
from flows.stages.runner import started_line
from models.core.errors import SluiceError, StageError, Unavailable, UserError
from models.core.records import Record

BUSY_TRIES, BUSY_PAUSE_S = 40, 0.5  # another stage holds a path for the moment it is hashed
DVC_FAILED = "ERROR: failed to reproduce"  # 'STAGE': why, of which "failed to run: COMMAND" says less than what the command printed
CUT_OFF = "Unable to read RWLock-file"  # a reader was killed while it wrote there: the next try drops it
BUSY = ("is busy", CUT_OFF, "Unable to acquire lock", "another DVC command holds")


HINTS = re.compile(  # of DVC's, to a person who types its commands
    r"\s*$|Use `dvc |To (track the changes|enable auto staging)|\s+(git add|dvc config) "
    r"|Updating lock file|Generating lock file|Running stage |> sluice "
)


class StageResult(Record):
    """How one stage ended: ran, restored (from DVC's run-cache) or unchanged; where it ran when (seconds since 1970), on which host, and
    how much memory its process had at most."""

    name: str
    state: str
    seconds: float
    metric: str
    started: float = 0.0
    host: str = ""
    peak_mib: float = 0.0


def main_metric(metrics: Mapping[str, Any]) -> str:
    """The first metric, as text."""
    for key, value in metrics.items():
        if isinstance(value, int):
            return f"{key} {value:,}"
        return f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value if value is not None else 'n/a'}"
    return ""


def is_news(line: str) -> bool:
    """Whether a line of a stage's output tells something about the stage."""
    return HINTS.match(line) is None


def attempt(place: Place, stage: Stage, env: Mapping[str, str], on_line: Callable[[str], object]) -> StageResult:
    """Have the place run the stage; each line of its output goes to `on_line`, without a secret.

    Raises Unavailable where another attempt may succeed: a signal ended it (a person's, or the kernel's that was short of memory), a server
    did not answer, a path stayed busy. Raises StageError or UserError where it would end the same way.
    """
    lines: list[str] = []

    def hear(line: str) -> None:
        lines.append(masked(line))
        on_line(lines[-1])

    for _ in range(BUSY_TRIES):
        lines.clear()
        outcome = place.run(stage, env, hear)
        if outcome.code in (0, None) or not any("is busy" in line or CUT_OFF in line for line in lines[-20:]):
            break
        time.sleep(BUSY_PAUSE_S)
    if outcome.code != 0:
        raise failure(stage, outcome, lines)
    seconds, metric = float(outcome.left.get("seconds", 0)), main_metric(outcome.metrics)
    about = {key: outcome.left[key] for key in ("started", "host", "peak_mib") if key in outcome.left}
    return StageResult(name=stage.name, state=_state(stage.name, outcome.left, lines), seconds=seconds, metric=metric, **about)


def _state(name: str, left: Mapping[str, Any], lines: list[str]) -> str:
    """What happened; what the stage printed tells as well, where a full disk kept it from leaving its outcome."""
    if left.get("exit_code") == 0 or started_line(name) in lines:
        return "ran"
    return "restored" if any("is cached - skipping run" in line for line in lines) else "unchanged"


def failure(stage: Stage, outcome: Outcome, lines: list[str]) -> SluiceError:
    """What an attempt that is not done is raised as: by what the stage left, else by what DVC said last."""
    what, left = f"stage {stage.name!r}", outcome.left
    if outcome.code is None:
        return StageError(f"{what} ran past its limit of {stage.timeout_s:.0f} s (meta.timeout_s in dvc.yaml) and was stopped")
    if processes.stopping():
        return StageError(f"{what} was stopped with the run")
    if left.get("exit_code") == 2:
        return UserError(left["reason"])
    spoken = [line for line in lines if line.strip()]
    plain = [line for line in spoken if not line.startswith(DVC_FAILED)]
    last = (plain or [line.partition(": ")[2].partition(": ")[2] for line in spoken] or ["no output"])[-1]
    sign = _signal(outcome.code, lines)
    if sign and not left.get("reason"):
        return Unavailable(f"{what} was ended by signal {sign}{' (out of memory?)' if sign == 9 else ''}; its last word: {last}")
    reason = left.get("reason") or f"{what} ended without a word: {last}"
    busy = any(word in line for word in BUSY for line in lines[-20:])
    return Unavailable(reason) if busy or left.get("passing") else StageError(reason)


def _signal(code: int, lines: list[str]) -> int:
    """The number of the signal that ended DVC or, as DVC tells, the stage; 0 where none did. Shells say 128 more."""
    told = [int(found[1]) for line in lines[-20:] if (found := re.search(r"failed to run: .*, exited with (-?\d+)$", line))]
    for value in (code, *told):
        if value < 0 or 128 < value < 128 + 65:
            return abs(value) % 128
    return 0
