"""What all commands share: where they are, and how they speak."""

import json
import os
import sys
from typing import Annotated, Any

import typer

from flows.host import workspace as workspaces
from flows.host.masking import masked, masked_values
from flows.host.workspace import Workspace
from models.core.errors import UserError

Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


def here() -> Workspace:
    """The workspace of the current folder, its environment set."""
    found = workspaces.find()
    os.chdir(found.root)
    workspaces.prepare_environment(found)
    return found


def say(value: Any) -> None:
    print(json.dumps(masked_values(value), indent=2, ensure_ascii=False))


def tell(line: str) -> None:
    """Say how the work goes, on standard error."""
    print(masked(line), file=sys.stderr, flush=True)


def pairs(said: list[str] | None, option: str, must: str) -> list[tuple[str, str]]:
    """What an option NAME=VALUE was given, as often as it came. Raises UserError, with what it must be."""
    found = [(name, value) for name, _, value in (one.partition("=") for one in said or ())]
    for one, (name, value) in zip(said or (), found, strict=True):
        if not (name and value):
            raise UserError(f"{option} {one}: must be {must}")
    return found


def warn(session: Any) -> None:
    """Say what the gate will not be able to show."""
    for line in session.warnings():
        tell(f"sluice: warning: {line}")


def open_registry(workspace: Workspace) -> Any:
    """The registry, once MLflow has what runs left for it while it was away; what still waits is told."""
    from flows.host import courier
    from flows.registry.decisions import registry_of
    from flows.stages.parameters import load

    courier.deliver(workspace, lambda line: tell(f"sluice: {line}"))
    return registry_of(workspace, load(workspace.params_file))
