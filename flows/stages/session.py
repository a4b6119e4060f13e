"""What a run, or a command that only reads, knows of its workspace: the checked params, what DVC says must run. And a run's lock on it."""

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flows.host.slots import BUSY
from flows.host.workspace import Workspace, locked
from flows.stages import pretrained, salvage, warm
from flows.stages.parameters import check, load
from flows.stages.pipeline import Cell, Pipeline, read_metrics
from flows.stages.pretrained import RegistryOf
from models.core.errors import UserError
from models.score import suite as suites
from tasks.gate.verdicts import Policy, warnings


@dataclass(frozen=True)
class Session:
    """A workspace that a run or a reading is about. `changes` says, by stage that is needed, why it must run; it is asked of DVC once."""

    workspace: Workspace
    pipeline: Pipeline
    params: dict[str, Any]
    changes: dict[str, list[str]]
    env: dict[str, str]

    @property
    def model(self) -> str:
        """The name of the registered model."""
        return str(self.params["model"])

    @property
    def policy(self) -> Policy:
        """What the gate asks."""
        return Policy.model_validate(self.params["gate"])

    @cached_property
    def left_out(self) -> list[str]:
        """The stages that neither the candidate nor a score of a model needs."""
        needed = self.pipeline.needed(self.params)
        return [name for name in self.pipeline.stages if name not in needed]

    def of_left_out(self) -> str:
        """Why the stages that are left out are, and how DVC leaves them out too, in one line."""
        return (
            f"left out: {', '.join(self.left_out)}: neither the candidate nor the models of params.yaml need them; "
            f"'dvc repro {' '.join(self.pipeline.targets(self.params))}' leaves them out too, 'dvc repro' alone does not"
        )

    def cell(self, suite: str) -> Cell:
        """A cell of that suite. Raises UserError where no stage scores anything on it."""
        found = next((cell for cell in self.pipeline.cells if cell.suite == suite), None)
        if found is None:
            raise UserError(
                f"no stage of dvc.yaml scores a model on {suite}, which gate.suites names: add it to suites, or take it out there"
            )
        return found

    def warnings(self) -> list[str]:
        """What the policy asks that its suites are too small to show, a line each."""
        return warnings(self.policy, {suite: size for suite in self.policy.suites if (size := self._items(suite))})

    def _items(self, suite: str) -> int | None:
        """How many items of a suite are scored: the subset's size, else what was scored last, else what was published."""
        cells = [cell for cell in self.pipeline.cells if cell.suite == suite]
        subset = (self.params[cell.stage.section]["items"].get(suite) for cell in cells)
        measured = (read_metrics(self.workspace.root, cell.stage).get("n") for cell in cells)
        return next(filter(None, [*subset, *measured]), None) or _published(suites.here(self.workspace.root).get(suite))

    def warm_up(self) -> None:
        """Start the warm process for the stages to come, once. The caller has done its own imports: two cores are shared by then."""
        if warm.VARIABLE not in self.env:
            self.env[warm.VARIABLE] = warm.start(self.workspace, self.env, {self.pipeline.stages[name].task: None for name in self.changes})

    @classmethod
    def reading(cls, workspace: Workspace) -> "Session":
        """The workspace as it is, unlocked, for commands that change nothing."""
        params, pipeline = load(workspace.params_file), Pipeline(workspace)
        check(params, pipeline.stages.values(), workspace.root)
        return cls(workspace, pipeline, params, {}, dict(os.environ))


def _published(described: suites.Suite | None) -> int | None:
    return described.published.items if described is not None and described.published is not None else None


def exclusive(workspace: Workspace) -> contextlib.AbstractContextManager[Any]:
    """Lock the workspace. Raises UserError where another process holds it."""
    return locked(workspace.lock_file("workspace"), BUSY)


def look(workspace: Workspace, params: dict[str, Any], registry_of: RegistryOf) -> None:
    """Have the published model's links be those of today, nothing fetched; not while a run works here, which has done so."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(exclusive(workspace))
        except UserError:
            return
        pretrained.bring(workspace, params, registry_of, fetch=False)


@contextlib.contextmanager
def opened(workspace: Workspace, registry_of: RegistryOf) -> Iterator[Session]:
    """Check the params of a workspace that this process holds, put right what a killed run left, and ask DVC what changed.

    Raises UserError where params.yaml is wrong.
    """
    params = load(workspace.params_file)
    for line in salvage.mend(workspace):
        print(f"sluice: {line}", file=sys.stderr, flush=True)
    salvage.keep(workspace)
    pipeline = Pipeline(workspace)
    check(params, pipeline.stages.values(), workspace.root)
    pretrained.bring(workspace, params, registry_of)
    env = {**os.environ, "SHELL": "/bin/sh", "PYTHONUNBUFFERED": "1"}
    try:
        needed = pipeline.needed(params)
        yield Session(workspace, pipeline, params, {name: why for name, why in pipeline.changes().items() if name in needed}, env)
    finally:
        warm.forget(workspace)
        salvage.forget(workspace)
