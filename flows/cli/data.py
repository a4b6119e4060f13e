"""`sluice import`: data from elsewhere becomes records in data/raw."""

import contextlib
import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.common import here, pairs, tell

app = typer.Typer(rich_markup_mode=None)


@app.command("import")
def import_data(
    source: Annotated[str, typer.Argument(help="A file, a folder, s3://BUCKET/PREFIX, or a data set of the hub, OWNER/NAME.")],
    kind: Annotated[str, typer.Option("--as", help="The kind of record to become: documents, instructions, preferences, prompts.")] = "",
    layout: Annotated[str, typer.Option(help="What the rows are, where that is not recognised; data/README.md names the layouts.")] = "",
    columns: Annotated[list[str] | None, typer.Option("--map", help="chosen=good: the column good is meant; may come again.")] = None,
    max_quarantined: Annotated[float, typer.Option(min=0, max=1, help="Stop where a larger share of the rows is broken.")] = 0.01,
) -> None:
    """Bring data into data/raw, as records."""
    from flows.stages.tracked import importing
    from models.data.importers import owners, remote
    from models.data.importers.bringing import Wanted, bring

    def say_line(line: str) -> None:
        tell(f"sluice: {line}")

    given = dict(pairs(columns, "--map", "NAME=COLUMN, a name that a layout reads and the column that is meant"))
    wanted = Wanted(kind, layout, given, max_quarantined)
    source = os.path.abspath(source) if os.path.lexists(source) else source  # of the folder that the user is in
    workspace = here()
    raw, owner = workspace.root / "data" / "raw", owners.owner_of(source)
    with contextlib.ExitStack() as stack:
        stack.enter_context(importing(workspace, *owners.places(owner, raw).values()))
        if source.startswith(remote.SCHEME):
            path = stack.enter_context(remote.fetched(source, workspace.work / "fetched", say_line))
        else:
            path = Path(source)
        brought = bring(path, raw, wanted, say_line, owner)
    files = [os.path.relpath(path) for path in brought.files]
    print(f"{brought.account}; {', '.join(f'{count:,} {kind}' for kind, count in brought.records.items())}")
    if brought.faults:
        print(f"what is quarantined, and why: {os.path.relpath(brought.faults)}")
    print(f"now 'dvc add {' '.join(map(shlex.quote, files))}'")
