"""What all commands share: where they are, and how they speak."""

import json
import os
import sys
from typing import Annotated, Any

import typer

from flows.host import workspace as workspaces
from flows.host.masking import masked, masked_values
from flows.host.workspace import Workspace

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
