"""What an import may change of the data that DVC tracks: only what is here as it is tracked, or as an import made it of that.

Rows that the pointer names and this machine does not have would be gone with the next 'dvc add'.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from flows.host.workspace import Workspace, locked
from flows.stages.pipeline import Pipeline, Tracked
from models.core.errors import UserError
from models.core.files import read_json, write_json


@contextlib.contextmanager
def importing(workspace: Workspace, *places: Path) -> Iterator[None]:
    """Be the only import into these places; one that runs is waited for.

    Raises UserError, before anything is changed, where a .dvc file names one of them, or a folder around it, and what is here is neither
    what it names nor what the last import left: imports before a 'dvc add' may follow one another.
    """
    memory = workspace.state / "imported.json"
    with locked(workspace.lock_file("import")):
        left = read_json(memory, {})
        for data in _tracked(workspace, places):
            if data.here is None:
                raise UserError(
                    f"{data.pointer} is here and what it tracks is not: an import would stand in its place; 'dvc pull {data.pointer}' first"
                )
            if data.here != data.md5 and left.get(data.pointer) != [data.md5, data.here]:
                raise UserError(
                    f"{data.pointer} tracks md5 {data.md5}, here is {data.here}: rows could be lost; 'dvc pull {data.pointer}' first, "
                    "or 'dvc add' what is here to keep that"
                )
        yield
        if now := _tracked(workspace, places):
            write_json(memory, {**left, **{data.pointer: [data.md5, data.here] for data in now}})


def _tracked(workspace: Workspace, places: tuple[Path, ...]) -> list[Tracked]:
    """As `Pipeline.tracked`, without the second that DVC takes to load where there is no .dvc file in reach."""
    pointers = (*workspace.root.glob("*.dvc"), *(workspace.root / "data").rglob("*.dvc"))
    return Pipeline(workspace).tracked(places) if any(path.is_file() for path in pointers) else []
