"""The command line. Heavy imports wait inside the commands: `--help` answers in under half a second."""

import contextlib
import json
import os
import shlex
import sys
import time
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli import suites
from flows.cli.common import Json, here, pairs, say, tell
from flows.host import failures
from flows.host import workspace as workspaces
from flows.host.masking import masked
from flows.host.workspace import Workspace
from flows.screen import terminal
from models.core.errors import Refused, SluiceError, UserError

app = typer.Typer(
    name="sluice",
    help="Retrain a language model, and let a version through only when it has proven itself.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
recipe = typer.Typer(help="Whole set-ups of params.yaml.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(recipe, name="recipe")
app.add_typer(suites.app, name="suite")

STARTED = time.monotonic()
INTERRUPTED = 130
FORWARDED = ("repro", "stage", "register", "rescore")  # what a flow starts: its warm process does it, where one is up


def warn(held: Any) -> None:
    """Say what the gate will not be able to show."""
    for line in held.warnings():
        tell(f"sluice: warning: {line}")


def open_registry(workspace: Workspace) -> Any:
    """The registry, once MLflow has what runs left for it while it was away; what still waits is told."""
    from flows.host import courier
    from flows.registry.decisions import registry_of
    from flows.stages.parameters import load

    courier.deliver(workspace, lambda line: tell(f"sluice: {line}"))
    return registry_of(workspace, load(workspace.params_file))


@app.command()
def run() -> None:
    """Retrain: data to champion; only what changed runs. Exit code 3 where the gate refuses."""
    from datetime import datetime

    from flows.host import git, services, tracking
    from flows.registry.decisions import registry_of
    from flows.stages.session import hold, opened

    workspace = here()
    log = workspace.work / "logs" / f"run-{datetime.now():%Y%m%d-%H%M%S}.log"
    tracking.require_server(workspace)
    with hold(workspace), services.prefect_api(workspace) as prefect, opened(workspace, registry_of) as held:
        print(f"sluice: to run: {', '.join(held.changes) or 'nothing'}", flush=True)
        if held.left_out:
            print(
                f"sluice: left out: {', '.join(held.left_out)}: neither the candidate nor the models of params.yaml need them", flush=True
            )
        warn(held)
        if held.changes and (why := git.why_no_commit(workspace.root)):
            tell(f"sluice: warning: the version will have no commit on record: {why}")
        from flows.run import console

        tracking.preload(workspace)
        if held.changes:
            held.warm_up()
        prefect.wait()
        result = console.run(held, log)
    console.show(held.pipeline, result, log, time.monotonic() - STARTED)
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
    from flows.stages.session import hold, opened

    with hold(workspace), opened(workspace, registry_of) as held:
        registry = open_registry(workspace)
        return identity.accept(workspace, registry, held.pipeline, held.pipeline.needed(held.params), reason)


def _brief(why: Any) -> str:
    more = f"; and {len(why) - 2} more" if len(why) > 2 else ""
    return "; ".join(why[:2]) + more


@recipe.command("list")
def recipe_list(as_json: Json = False) -> None:
    """The recipes there are."""
    from flows.stages import recipes

    if as_json:
        say(recipes.names())
        return
    for name, line in recipes.names().items():
        print(f"{name:16} {line}")


@recipe.command("show")
def recipe_show(name: str) -> None:
    """Print the params.yaml that a recipe stands for."""
    from flows.stages import recipes

    print(recipes.text(name), end="")


@recipe.command("use")
def recipe_use(name: str) -> None:
    """Write a recipe into params.yaml."""
    from flows.stages import recipes

    workspace = here()
    recipes.use(name, workspace.params_file)
    print(f"params.yaml is recipe {name} now; 'sluice stages' says what must run")


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


@app.command()
def gate(
    candidate: Annotated[str, typer.Argument(help="A registered version; without it, the candidate at hand.")] = "",
    against: Annotated[str, typer.Option(help="The alias or version to compare with.")] = "champion",
    sequential: Annotated[bool, typer.Option("--sequential", help="Score both now, and stop as soon as it is decided.")] = False,
    as_json: Json = False,
) -> None:
    """Compare a candidate with the champion, without moving anything. Exit code 3 where it would be refused."""
    from flows.host import places
    from flows.registry import release
    from flows.screen.tables import print_early, print_gate
    from flows.stages.session import Session

    workspace = here()
    registry = open_registry(workspace)
    held = Session.reading(workspace)
    warn(held)
    rival = release.rival(registry, against)
    if release.is_same(held, registry, candidate, rival):
        say({"decision": "unchanged"}) if as_json else print(f"unchanged: the candidate is {against}")
        return
    if sequential:
        with places.place(workspace, "gpu", lambda line: tell(f"sluice: {line}")):
            early = release.decide_early(held, registry, candidate, rival, tell)
        say(early.model_dump(mode="json")) if as_json else print_early(early)
        decision: str = early.decision
    else:
        result = release.compare(held, registry, candidate, rival).result
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
    from flows.stages.parameters import load

    workspace = here()
    registry, gated = open_registry(workspace), list(load(workspace.params_file)["gate"]["suites"])
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


@app.command(hidden=True)
def repro(stage: str) -> int:
    """Have DVC reproduce one stage. Called by the flow, in a process of its own."""
    from flows.stages.pipeline import reproduce

    return reproduce(stage)


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


@app.command(hidden=True)
def rescore(model: Path, suite: Path, output: Path) -> None:
    """Score a model folder on a suite with today's params. Called by the gate, in a process of its own."""
    from flows.host import places
    from flows.registry import release
    from flows.stages.runner import prepare_device
    from flows.stages.session import Session
    from models.score import evaluation
    from tasks import benchmark

    workspace = here()
    params = release.asked_of(Session.reading(workspace), suite.name)
    with places.place(workspace, "gpu", tell):
        evaluation.score(model, suite, output, benchmark.settings(params, suite.name), prepare_device("gpu"), lambda _done, _all: None)


def run_command(arguments: list[str]) -> int:
    """Run one command line; return its exit code. A failure is one line on standard error, without a secret, never a traceback."""
    try:
        code = app(arguments, standalone_mode=False)
        sys.stdout.flush()
        if code == INTERRUPTED:  # typer's parser turns Ctrl-C into a return value
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return stopped()
    except Exception as error:
        if failures.interrupted(error):
            return stopped()
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # a mistake on the command line, told by typer's parser
            misused(error)
            return int(error.exit_code)
        known = failures.named(error)
        if known is None:
            return unforeseen(error)
        tell("\n".join(f"sluice: {line}" for line in str(known).splitlines()))
        return known.exit_code


def stopped() -> int:
    """Say that Ctrl-C was heard; return its exit code."""
    tell("sluice: stopped; finished stages are kept, the next run carries on")
    return INTERRUPTED


def misused(error: Any) -> None:
    """Say in one line what is wrong with the words of a command; a command without any shows what there is."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        said = " ".join(error.format_message().split()).rstrip(".")
        tell(f"sluice: {said}; the command's --help says what it takes")


def unforeseen(error: Exception) -> int:
    """One line for a failure without a name; its traceback goes into a file beside the other logs, where there is a place for it."""
    said = f"sluice: unforeseen: {type(error).__name__}: {failures.one_line(error, 200)}"
    with contextlib.suppress(SluiceError, OSError):
        log = here().work / "logs" / "unforeseen.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(masked("".join(traceback.format_exception(error))), encoding="utf-8", errors="backslashreplace")
        said += f"; the traceback is in {os.path.relpath(log)}"
    tell(f"{said}: please report it")
    return 1


def main() -> None:
    """The script `sluice`."""
    if sys.getfilesystemencoding() != "utf-8":  # DVC hashes paths as UTF-8, and fails on one that this locale cannot spell
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    terminal.prepare_streams()
    workspaces.forgive_warnings(os.environ)
    arguments = sys.argv[1:]
    warm_address = os.environ.get("SLUICE_WARM")
    if warm_address and arguments[:1] and arguments[0] in FORWARDED:
        from flows.stages import warm

        code = warm.forward(warm_address, arguments)
        if code is not None:
            sys.exit(code)
    sys.exit(run_command(arguments))
