"""The run, and one stage of it."""

import time
from typing import Annotated, Any

import typer

from flows.cli.common import Json, here, open_registry, say, tell, warn
from flows.host.workspace import Workspace
from models.core.errors import Refused

app = typer.Typer(rich_markup_mode=None)

STARTED = time.monotonic()


@app.command()
def run() -> None:
    """Retrain: data to champion; only what changed runs. Exit code 3 where the gate refuses."""
    from datetime import datetime

    from flows.host import git, services, tracking
    from flows.registry.decisions import registry_of
    from flows.stages.session import exclusive, opened

    workspace = here()
    log = workspace.work / "logs" / f"run-{datetime.now():%Y%m%d-%H%M%S}.log"
    tracking.require_server(workspace)
    with exclusive(workspace), services.prefect_api(workspace) as prefect, opened(workspace, registry_of) as session:
        print(f"sluice: to run: {', '.join(session.changes) or 'nothing'}", flush=True)
        if session.left_out:
            print(f"sluice: {session.of_left_out()}", flush=True)
        warn(session)
        if session.changes and (why := git.why_no_commit(workspace.root)):
            tell(f"sluice: warning: the version will have no commit on record: {why}")
        from flows.run import console

        tracking.preload(workspace)
        if session.changes:
            session.warm_up()
        prefect.wait()
        result = console.run(session, log)
    console.show(session.pipeline, result, log, time.monotonic() - STARTED)
    if result.decision in ("refuse", "undecided", "invalid"):
        raise Refused(f"the gate said {result.decision}: {result.reason}")


@app.command()
def stage(name: str, bindings: Annotated[list[str] | None, typer.Argument(help="NAME=PATH, where dvc.yaml needs it.")] = None) -> None:
    """Run one stage by itself: what DVC calls."""
    from flows.registry.decisions import registry_of
    from flows.stages.runner import parse_bindings, run_stage

    run_stage(here(), name, parse_bindings(bindings or []), registry_of)


@app.command()
def stages(
    accept: Annotated[
        str | None,
        typer.Option(help="Run nothing: what changed, code or packages alone, moves no byte of a result; kept on record.", metavar="WHY"),
    ] = None,
    as_json: Json = False,
) -> None:
    """What would run, and why."""
    from flows.registry.decisions import registry_of
    from flows.stages.parameters import check, load
    from flows.stages.pipeline import Pipeline
    from flows.stages.session import look

    workspace = here()
    if accept is not None:
        names = _accept(workspace, accept)
        say(names) if as_json else print(f"accepted: {', '.join(names)}; dvc.lock names their code and packages of today, nothing ran")
        return
    pipeline, params = Pipeline(workspace), load(workspace.params_file)
    check(params, pipeline.stages.values(), workspace.root)
    look(workspace, params, registry_of)
    changes, needed = pipeline.changes(), pipeline.needed(params)
    rows = [
        {
            "name": stage.name,
            "pool": stage.pool,
            "state": "left out" if stage.name not in needed else "changed" if stage.name in changes else "unchanged",
            "why": changes.get(stage.name, []),
            "deps": list(stage.deps),
            "outs": list(stage.outs),
        }
        for stage in pipeline.stages.values()
    ]
    if as_json:
        say(rows)
        return
    from flows.screen.tables import print_rows

    print_rows(
        "Stages", [{"stage": str(r["name"]), "pool": str(r["pool"]), "state": str(r["state"]), "why": _brief(r["why"])} for r in rows]
    )


def _accept(workspace: Workspace, reason: str) -> list[str]:
    """Keep what the changed stages made, on record; return their names."""
    from flows.registry import identity
    from flows.registry.decisions import registry_of
    from flows.stages.session import exclusive, opened

    with exclusive(workspace), opened(workspace, registry_of) as session:
        registry = open_registry(workspace)
        return identity.accept(workspace, registry, session.pipeline, session.pipeline.needed(session.params), reason)


def _brief(why: Any) -> str:
    more = f"; and {len(why) - 2} more" if len(why) > 2 else ""
    return "; ".join(why[:2]) + more


@app.command()
def plan(as_json: Json = False) -> None:
    """What a run would take: time, memory, disk, money. Each stage that would run is tried in miniature."""
    from flows.run import plan as plans
    from flows.screen.tables import print_rows

    found = plans.plan(here(), tell)
    if as_json:
        say(found)
        return
    if not found["stages"]:
        print("nothing to run")
        return
    priced = found["cost"] is not None
    print_rows("Plan", [_planned(row, priced) for row in found["stages"]])
    money = f", {found['cost']:,.2f} at the prices of params.yaml" if priced else ""
    room = f"up to {found['peak_mib'] / 1024:.1f} GiB of memory, {found['disk_mb'] / 1e3:.1f} GB of disk"
    print(f"about {_long(found['seconds'])}{money}; {room}")
    for line in plans.warnings(found):
        tell(f"sluice: warning: {line}")


def _planned(row: dict[str, Any], priced: bool) -> dict[str, str]:
    steps = f"{row['steps']:,} of {row['step_seconds']:.3g} s" if row["steps"] else ""
    memory = f"{row['peak_mib'] / 1024:.1f} GiB" + (f", device {row['device_mib'] / 1024:.1f} GiB" if row["device_mib"] else "")
    disk = f"{(row['checkpoints_mb'] + row['outputs_mb']) / 1e3:.2f} GB"
    cells = {"stage": row["name"], "time": _long(row["seconds"]), "steps": steps, "memory": memory, "disk": disk}
    return cells | ({"cost": "" if row["cost"] is None else f"{row['cost']:,.2f}"} if priced else {})


def _long(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


@app.command(hidden=True)
def probe(stage: str, folder: str, micro_batch: Annotated[int | None, typer.Option()] = None) -> None:
    """Try one stage in miniature. Called by `plan`, in a process of its own."""
    from pathlib import Path

    from flows.registry.decisions import registry_of
    from flows.stages import probe as probes

    probes.probe(here(), stage, Path(folder), micro_batch, registry_of)


@app.command(hidden=True)
def repro(stage: str) -> int:
    """Have DVC reproduce one stage. Called by the flow, in a process of its own."""
    from flows.stages.pipeline import reproduce

    return reproduce(stage)
