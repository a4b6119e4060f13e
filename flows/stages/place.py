"""Where a stage runs. A place makes one attempt at it and tells how that ended; what to make of that is others' to judge."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from flows.host import processes
from flows.host.workspace import Workspace
from flows.stages import salvage
from flows.stages.pipeline import Stage, read_metrics
from flows.stages.runner import outcome_file, started_line
from models.core.files import read_json


@dataclass(frozen=True)
class Outcome:
    """How one attempt ended.

    code: DVC's, 0 where the stage is done, negative or above 128 where a signal ended it; None where it ran past its limit and was stopped.
    left: {"exit_code", "reason", "passing", "seconds"} as the stage left them; empty where it never began, or had no chance to.
    metrics: what the stage measured, the main one first; empty where it is not done.
    """

    code: int | None
    left: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)


class Place(Protocol):
    """A machine that can run a stage."""

    def run(self, stage: Stage, env: Mapping[str, str], on_line: Callable[[str], object]) -> Outcome:
        """Make one attempt, each line of its output to `on_line` as it comes. However the call ends, nothing of it is still at work.

        The limit of `stage.timeout_s` counts from the stage's own start: waiting for a device does not.
        """
        ...


@dataclass(frozen=True)
class Local:
    """This machine: DVC reproduces the stage in the workspace, in a process group of its own."""

    workspace: Workspace

    def run(self, stage: Stage, env: Mapping[str, str], on_line: Callable[[str], object]) -> Outcome:
        root, outcome, command = self.workspace.root, outcome_file(self.workspace, stage.name), [processes.program("sluice"), "repro"]
        outcome.unlink(missing_ok=True)
        try:
            code = processes.stream([*command, stage.name], root, dict(env), on_line, stage.timeout_s, started_line(stage.name))
        except processes.TimeLimitError:
            return Outcome(None)
        left = read_json(outcome, {})
        salvage.keep(self.workspace)
        if code != 0:
            return Outcome(code, left)
        shutil.rmtree(self.workspace.work / stage.name, ignore_errors=True)  # DVC has what was saved there
        return Outcome(code, left, read_metrics(root, stage))
