"""What the registry holds: decisions, where versions come from, how they differ, whether they are what their records say."""

import json
import os
from typing import Annotated

import typer

from flows.cli.common import Json, here, open_registry, say, tell
from models.core.errors import Refused, SluiceError

app = typer.Typer(rich_markup_mode=None)


@app.command()
def history(as_json: Json = False) -> None:
    """Every decision, newest first."""
    rows = open_registry(here()).history()
    if as_json:
        say(rows)
        return
    from flows.screen.tables import print_rows

    print_rows("Decisions", [{key: str(row[key] or "") for key in ("time", "version", "alias", "verdict", "reason")} for row in rows])
    if not rows:
        print("no decision yet: 'sluice run' makes the first")


@app.command()
def lineage(version: str, as_json: Json = False) -> None:
    """Where a version comes from: data, code, params, runs, decisions."""
    from flows.registry import lineage as past

    registry = open_registry(here())
    found = past.lineage(registry, registry.version(version))
    if as_json:
        say(found)
        return
    print("\n".join(past.describe_lineage(found)))


@app.command()
def diff(before: str, after: str, as_json: Json = False) -> None:
    """How two versions differ: data, params, packages, code, scores. And which questions flipped."""
    from flows.registry import lineage as past
    from flows.stages.pipeline import Pipeline

    workspace = here()
    registry = open_registry(workspace)
    found = past.diff(registry, registry.version(before), registry.version(after), Pipeline(workspace))
    if as_json:
        say(found)
        return
    print("\n".join(past.describe_diff(found)))


@app.command()
def verify(
    version: str,
    retrain: Annotated[bool, typer.Option("--retrain", help="Train again, and compare byte for byte.")] = False,
    score: Annotated[bool, typer.Option("--score", help="Score again, and compare item by item.")] = False,
    as_json: Json = False,
) -> None:
    """Make a version again from its record, and compare. Exit code 1 where it is not what its record says."""
    from dataclasses import asdict

    from flows.registry import verify as verifying

    registry = open_registry(here())
    checks = []
    for check in verifying.verify(registry, registry.version(version), retrain, score, tell):
        checks.append(check)
        if not as_json:
            print(f"{'ok ' if check.ok else 'NO '} {check.name:20} {check.seen}", flush=True)
    if as_json:
        say([asdict(check) for check in checks])
    failed = [check.name for check in checks if not check.ok]
    if failed:
        raise SluiceError(f"version {version} is not what its record says: {', '.join(failed)}")


@app.command("verify-resume")
def verify_resume(
    stage: str,
    seed: Annotated[int, typer.Option(help="Draws the step at which it is killed.")] = 0,
    as_json: Json = False,
) -> None:
    """Kill a training at a random step, in a checkout beside the workspace, and see whether it goes on to the recorded bytes.

    The certificate is kept with the stage's MLflow run. Exit code 1 where the bytes differ.
    """
    from flows.registry import resume

    registry = open_registry(here())
    with registry.tracker.answering():
        found = resume.certificate(registry, stage, seed, tell)
    say(found) if as_json else print(resume.describe(found))
    if not found["equal"]:
        raise SluiceError(f"stage {stage!r}, killed and gone on with, made other bytes than are on record")


@app.command()
def audit(
    accept: Annotated[str, typer.Option(help="Put on record that what is found is known, and why.", metavar="WHY")] = "",
    as_json: Json = False,
) -> None:
    """Find edited records, changed evidence, provenance or tags of versions, aliases moved around the gate; exit code 3 for any.

    Stored models are not fetched: of them the md5 in their tags is compared, their files by 'sluice verify V'.
    """
    registry = open_registry(here())
    if accept:
        for finding in registry.accept(accept):
            tell(f"accepted: {finding.what}")
    findings = registry.audit()
    if as_json:
        say([{"what": finding.what, "run_id": finding.run_id} for finding in findings])
    else:
        for finding in findings:
            print(finding.what + (f" (run {finding.run_id})" if finding.run_id else ""))
        verdicts = [row["verdict"] for row in registry.history()]
        decisions, kept = len(verdicts), verdicts.count("identity")
        print(f"{decisions} decision{'s' * (decisions != 1)} on record, {len(findings)} finding{'s' * (len(findings) != 1)}")
        if kept:
            print(f"{kept} of them kept results that were not made again: 'sluice history' says why, 'sluice lineage V' of which stages")
        if decisions:
            print("not looked at: the files of stored models, only the md5 in their tags; 'sluice verify V' fetches and hashes them")
    if findings:
        raise Refused(
            "the registry is not as its record says: put right what can be ('sluice promote' moves champion), "
            "then say on record what is known of the rest: 'sluice audit --accept WHY'"
        )


@app.command()
def status(as_json: Json = False) -> None:
    """The champion, the aliases, the last run."""
    from flows.registry.status import status as read

    workspace = here()
    found = read(open_registry(workspace))
    if as_json:
        say(found)
        return
    from flows.registry.status import describe

    print(describe(found))


@app.command(hidden=True)
def register() -> None:
    """Register the candidate at hand; print its version. Called by the flow, in a process of its own."""
    from flows.registry import release
    from flows.stages.parameters import load
    from flows.stages.pipeline import Pipeline

    workspace = here()
    registry, pipeline = open_registry(workspace), Pipeline(workspace)
    parent = os.environ.get("SLUICE_PARENT_RUN_ID")
    with registry.tracker.answering():
        version = release.register(pipeline, registry.tracker, load(workspace.params_file), parent)
    print(json.dumps({"version": version}))
