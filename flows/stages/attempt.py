"""One attempt at one stage: DVC reproduces it in a process group of its own; how it ended, and whether another may end otherwise."""

import re
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any

from flows.host import processes
from flows.host.masking import masked
from flows.host.workspace import Workspace
from flows.stages import salvage
from flows.stages.pipeline import Stage, read_metrics
from flows.stages.runner import outcome_file, started_line
from models.core.errors import SluiceError, StageError, Unavailable, UserError
from models.core.files import read_json
from models.core.records import Record

BUSY_TRIES = 40  # another stage holds a path for the moment it is hashed
DVC_FAILED = "ERROR: failed to reproduce"  # 'STAGE': why, of which "failed to run: COMMAND" says less than what the command printed
CUT_OFF = "Unable to read RWLock-file"  # a reader was killed while it wrote there: the next try drops it
BUSY = ("is busy", CUT_OFF, "Unable to acquire lock", "another DVC command holds")


class StageResult(Record):
    """How one stage ended: ran, restored (from DVC's run-cache) or unchanged."""

    name: str
    state: str
    seconds: float
    metric: str


def main_metric(metrics: Mapping[str, Any]) -> str:
    """The first metric, as text."""
    for key, value in metrics.items():
        if isinstance(value, int):
            return f"{key} {value:,}"
        return f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value if value is not None else 'n/a'}"
    return ""


def attempt(workspace: Workspace, stage: Stage, env: Mapping[str, str], on_line: Callable[[str], object]) -> StageResult:
    """Reproduce the stage; each line of its output goes to `on_line`.

    Raises Unavailable where another attempt may succeed: a signal ended it (a person's, or the kernel's that was short of memory), a server
    did not answer, a path stayed busy. Raises StageError or UserError where it would end the same way.
    """
    outcome, command = outcome_file(workspace, stage.name), [processes.program("sluice"), "repro", stage.name]
    tail: list[str] = []

    def hear(line: str) -> None:
        line = masked(line)
        tail.append(line)
        on_line(line)

    for _ in range(BUSY_TRIES):
        tail.clear()
        outcome.unlink(missing_ok=True)
        try:
            code = processes.stream(command, workspace.root, dict(env), hear, stage.timeout_s, started_line(stage.name))
        except processes.TimeLimitError:
            raise StageError(
                f"stage {stage.name!r} ran past its limit of {stage.timeout_s:.0f} s (meta.timeout_s in dvc.yaml) and was stopped"
            ) from None
        if code == 0 or not any("is busy" in line or CUT_OFF in line for line in tail[-20:]):
            break
        time.sleep(0.5)
    ended = read_json(outcome, {})
    salvage.keep(workspace)
    if code != 0:
        raise failure(stage.name, code, ended, tail)
    shutil.rmtree(workspace.work / stage.name, ignore_errors=True)  # DVC has what was held there
    metric = main_metric(read_metrics(workspace.root, stage))
    return StageResult(name=stage.name, state=_state(stage.name, ended, tail), seconds=float(ended.get("seconds", 0)), metric=metric)


def _state(name: str, ended: Mapping[str, Any], tail: list[str]) -> str:
    """What happened; what the stage printed tells as well, where a full disk kept it from leaving its outcome."""
    if ended.get("exit_code") == 0 or started_line(name) in tail:
        return "ran"
    return "restored" if any("is cached - skipping run" in line for line in tail) else "unchanged"


def failure(name: str, code: int, ended: Mapping[str, Any], tail: list[str]) -> SluiceError:
    """What a stage's end by `code` is raised as: by its outcome, else by what DVC said last."""
    if processes.stopping():
        return StageError(f"stage {name!r} was stopped with the run")
    if ended.get("exit_code") == 2:
        return UserError(ended["reason"])
    spoken = [line for line in tail if line.strip()]
    plain = [line for line in spoken if not line.startswith(DVC_FAILED)]
    last = (plain or [line.partition(": ")[2].partition(": ")[2] for line in spoken] or ["no output"])[-1]
    sign = _signal(code, tail)
    if sign and not ended.get("reason"):
        return Unavailable(f"stage {name!r} was ended by signal {sign}{' (out of memory?)' if sign == 9 else ''}; its last word: {last}")
    reason = ended.get("reason") or f"stage {name!r} ended without a word: {last}"
    busy = any(word in line for word in BUSY for line in tail[-20:])
    return Unavailable(reason) if busy or ended.get("passing") else StageError(reason)


def _signal(code: int, tail: list[str]) -> int:
    """The number of the signal that ended DVC or, as DVC tells, the stage; 0 where none did. Shells say 128 more."""
    told = [int(found[1]) for line in tail[-20:] if (found := re.search(r"failed to run: .*, exited with (-?\d+)$", line))]
    for value in (code, *told):
        if value < 0 or 128 < value < 128 + 65:
            return abs(value) % 128
    return 0
