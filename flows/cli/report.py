"""`sluice report`: one page about a retraining."""

import os
from typing import Annotated

import typer

from flows.cli.common import Json, here, open_registry, say, tell

app = typer.Typer(rich_markup_mode=None)


@app.command()
def report(
    version: Annotated[str, typer.Argument(help="A version or alias; the last run here, where none is named.")] = "",
    compare: Annotated[str, typer.Option(metavar="VERSION", help="Another one, beside it in every part.")] = "",
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    as_json: Json = False,
) -> None:
    """One page about a retraining: verdict, scores, answers, curves, data, time, lineage."""
    from flows.pages import report as reports

    workspace = here()
    registry = open_registry(workspace) if version or compare else None
    found = reports.of(registry, version) if registry and version else reports.last(workspace)
    other = reports.of(registry, compare) if registry and compare else None
    if as_json:
        say({**found, "beside": other} if other else found)
        return
    path = reports.write(workspace, found, other)
    print(os.path.relpath(path))
    if show:
        import webbrowser

        if not webbrowser.open(path.as_uri()):
            tell(f"sluice: no browser can be opened here: open {path} yourself")
