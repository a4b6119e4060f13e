"""The gate, and what moves champion past it: by hand, back, and how far down."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.common import Json, here, open_registry, say, tell, warn
from models.core.errors import Refused, UserError

app = typer.Typer(rich_markup_mode=None)


@app.command()
def gate(
    candidate: Annotated[str, typer.Argument(help="A registered version; without it, the candidate at hand.")] = "",
    against: Annotated[str, typer.Option(help="The alias or version to compare with.")] = "champion",
    sequential: Annotated[bool, typer.Option("--sequential", help="Score both now, and stop as soon as it is decided.")] = False,
    as_json: Json = False,
) -> None:
    """Compare a candidate with the champion, without moving anything. Exit code 3 where it would be refused."""
    from flows.host import slots
    from flows.registry import release
    from flows.screen.tables import print_early, print_gate
    from flows.stages.session import Session

    workspace = here()
    registry = open_registry(workspace)
    session = Session.reading(workspace)
    warn(session)
    rival = release.rival(registry, against)
    if release.is_same(session, registry, candidate, rival):
        say({"decision": "unchanged"}) if as_json else print(f"unchanged: the candidate is {against}")
        return
    if sequential:
        with slots.slot(workspace, "gpu", lambda line: tell(f"sluice: {line}")):
            early = release.compare_early(session, registry, candidate, rival, tell)
        say(early.model_dump(mode="json")) if as_json else print_early(early)
        decision: str = early.decision
    else:
        result = release.compare(session, registry, candidate, rival).result
        say(result.model_dump(mode="json")) if as_json else print_gate(result)
        decision = result.decision
    if not as_json:
        print(f"{decision}: " + (result.reason if not sequential else "see the suites above"))
    if decision != "promote":
        raise Refused(f"the gate says {decision}")


@app.command()
def promote(version: str, reason: Annotated[str, typer.Option(help="Why; kept on record.")] = "promoted by hand") -> None:
    """Make a registered version champion, by hand; recorded as such."""
    registry = open_registry(here())
    number = str(registry.version(version).version)
    current = registry.aliases().get("champion")
    if current == number:
        print(f"version {number} is champion already; if no decision made it so, 'sluice audit --accept WHY' puts that on record")
        return
    registry.promote(number, current, "manual", reason)
    print(f"champion: version {number} (before: {current or 'none'})")


@app.command()
def rollback(reason: Annotated[str, typer.Option(help="Why; kept on record.")] = "rolled back by hand") -> None:
    """Return to the champion before the present one, by the record."""
    before, after = open_registry(here()).rollback(reason)
    print(f"champion: version {after} (before: {before})")


@app.command()
def anchor(
    version: Annotated[str, typer.Argument(help="The version that becomes the anchor; without it, show the anchors.")] = "",
    suite: Annotated[list[str] | None, typer.Option(help="For this suite only; may come again.")] = None,
    reason: Annotated[str, typer.Option(help="Why; kept on record.")] = "",
    as_json: Json = False,
) -> None:
    """Show each suite's anchor, below which no chain of promotions may fall, or pin one."""
    from flows.screen.tables import anchor_text
    from flows.stages import parameters

    workspace = here()
    registry, gated = open_registry(workspace), parameters.gated(parameters.load(workspace.params_file))
    if version and not reason:
        raise UserError("an anchor is pinned for a reason, which is kept on record: add --reason WHY")
    unknown = [name for name in suite or () if name not in gated]
    if unknown:
        raise UserError(f"{', '.join(unknown)} is not gated; gate.suites in params.yaml names {', '.join(gated)}")
    standings = registry.pin_anchor(version, suite or gated, reason) if version else registry.standings()
    found = {name: standing.model_dump(mode="json") for name, standing in standings.items()}
    if as_json:
        say(found)
        return
    print(
        "\n".join(f"{name:16} {anchor_text(standing)}" for name, standing in found.items())
        or "no anchor yet: the first champion is the first"
    )


@app.command(hidden=True)
def rescore(model: Path, suite: Path, output: Path) -> None:
    """Score a model folder on a suite with today's params. Called by the gate, in a process of its own."""
    from flows.host import slots
    from flows.registry import release
    from flows.stages.ranks import prepare_device
    from flows.stages.session import Session
    from models.score import evaluation
    from tasks import benchmark

    workspace = here()
    params = release.asked_of(Session.reading(workspace), suite.name)
    with slots.slot(workspace, "gpu", tell):
        evaluation.score_suite(
            model, suite, output, benchmark.settings(params, suite.name), prepare_device("gpu"), lambda _done, _all: None
        )
