"""The local servers, and the machine that they run on."""

import typer

from flows.cli.common import Json, here, say
from models.core.errors import SluiceError

app = typer.Typer(rich_markup_mode=None)


@app.command()
def up() -> None:
    """Start the local Prefect and MLflow servers with their web pages."""
    from flows.host import services

    for name, url in services.up(here()).items():
        print(f"{name:8} {url}")


@app.command()
def down() -> None:
    """Stop the local servers."""
    from flows.host import services

    print("stopped: " + (", ".join(services.down(here())) or "nothing was running"))


@app.command()
def doctor(as_json: Json = False) -> None:
    """What this machine offers, and what is missing."""
    from flows.host.doctor import checks

    rows = checks(here())
    if as_json:
        say(rows)
    else:
        for row in rows:
            print(f"{'ok ' if row['ok'] else 'NO '} {row['name']:12} {row['found']}" + ("" if row["ok"] else f"\n    -> {row['do']}"))
    if not all(row["ok"] for row in rows if row["needed"]):
        raise SluiceError("something that a run needs is missing: see above")
