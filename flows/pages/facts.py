"""What the report of a retraining says, as plain values: read from what the stages left, from the gate's result, and of an older version
from the report that was kept with its run. A page is made of nothing else."""

import contextlib
import csv
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from flows.host.masking import masked, masked_values
from flows.host.tracking import flatten
from flows.pages.words import next_steps, sentence
from flows.registry.decisions import Registry
from flows.registry.release import Release, candidate_folder
from flows.stages.attempt import StageResult
from flows.stages.parameters import PRICES
from flows.stages.pipeline import LEAKS, Cell, Pipeline, Stage, git_commit, read_metrics
from flows.stages.probe import foretold
from flows.stages.session import Session
from models.core.content import folder_md5
from models.core.display import shortened
from models.core.errors import SluiceError, UserError
from models.core.files import read_json
from models.core.given import read_lines
from models.score import suite as suites
from tasks.gate.evidence import leaks
from tasks.gate.health import answer, health_sheet

FORMAT = 1
FILE = "report.json"
PREPARED = "artifacts/prepared"
FLIPS, TEXT = 20, 600  # questions shown of a suite whose answers flipped, characters of a question
UNSHOWN = "its authors ask that no text of it is shown"
BESIDE = ("candidate", "scores", "answers", "curves", "metrics", "data", "health", "time", "lineage", "params")  # of the champion's report
Facts = dict[str, Any]
Records = Sequence[tuple[Cell, list[dict[str, Any]]]]  # each cell with its item records
Described = dict[str, suites.Suite | None]  # every scored suite; None where its folder is not here or broken


def collect(
    session: Session,
    results: Sequence[StageResult],
    seconds: float,
    outcome: Release | None,
    failure: str = "",
    links: Mapping[str, str] | None = None,
    registry: Registry | None = None,
) -> Facts:
    """All that the report of a run says. `outcome` is None where a stage failed: `failure` says why then; without a registry nothing is
    known of the champion."""
    pipeline, params, done = session.pipeline, session.params, {one.name for one in results if one.state != "failed"}
    cells = [cell for cell in pipeline.cells if cell.stage.name in done]  # of a stage that failed an older result may lie here
    records = [(cell, _items(session.workspace.root, cell)) for cell in cells]
    described = _described(session.workspace.root, pipeline.cells)
    trained = [stage for name, stage in pipeline.stages.items() if name in done and stage.curve_file]
    root, candidate = session.workspace.root, str(params["candidate"])
    rival = _rival(registry, outcome)
    old = {} if rival is None or registry is None else of_version(registry, rival)
    judged = {} if outcome is None or outcome.gate is None else {one.suite: one.model_dump(mode="json") for one in outcome.gate.suites}
    found = {
        "format": FORMAT,
        "model": session.model,
        "candidate": candidate,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "verdict": {
            "decision": outcome.decision if outcome else "failed",
            "reason": masked(outcome.reason if outcome else failure),
            "version": outcome.version if outcome else "",
            "champion": "" if rival is None else str(rival.version),
            "aliases": dict(outcome.aliases) if outcome else {},
        },
        "gate": judged,
        "suites": _suites(session, described),
        "scores": _scores(root, cells),
        "flips": _flips(root, records, described, candidate, _stored_items(registry, rival)),
        "answers": _answers(root, [stage for stage in pipeline.answers.values() if stage.name in done]),
        "curves": {stage.name: _curve(root / stage.curve_file) for stage in trained},
        "metrics": {stage.name: read_metrics(root, stage) for stage in trained},
        "data": _data(pipeline),
        "health": _health(records),
        "subjects": _subjects(records, described),
        "time": _time(session, results, seconds),
        "lineage": _lineage(session, links or {}),
        "params": masked_values({key: str(value) for key, value in flatten(params).items()}),
        "champion": {key: old.get(key) for key in BESIDE} if old else {},
    }
    return found | {"said": sentence(found), "next": next_steps(found)}


def of_version(registry: Registry, version: Any) -> Facts:
    """The report that was kept with the run that made a version; empty where there is none."""
    run = registry.client.get_run(version.run_id)
    parent = run.data.tags.get("mlflow.parentRunId")
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Exception):  # of the store's library: no report is no loss
        if parent and any(entry.path.endswith(FILE) for entry in registry.client.list_artifacts(parent, "reports")):
            return read(registry.tracker.fetch(parent, "reports", Path(folder)))
    return {}


def read(folder: Path) -> Facts:
    """The facts that lie in a folder; empty where there are none, or they are of another format."""
    found = read_json(folder / FILE, None)
    return found if isinstance(found, dict) and found.get("format") == FORMAT else {}


def _rival(registry: Registry | None, outcome: Release | None) -> Any | None:
    """The version that the candidate was compared with."""
    if registry is None or outcome is None or not outcome.against:
        return None
    with contextlib.suppress(UserError):
        return registry.version(outcome.against)
    return None


def _scores(root: Path, cells: Sequence[Cell]) -> dict[str, dict[str, Any]]:
    """By suite and model what was measured."""
    found: dict[str, dict[str, Any]] = {}
    for cell in cells:
        found.setdefault(cell.suite, {})[cell.model] = read_metrics(root, cell.stage)
    return found


def _suites(session: Session, described: Described) -> dict[str, dict[str, Any]]:
    """What each scored suite is: about, target, whether its text may be shown."""
    found = dict[str, dict[str, Any]]()
    for suite, one in described.items():
        rules = session.policy.suites.get(suite)
        found[suite] = {
            "about": one.about if one else "",
            "target": getattr(one, "target", None),
            "secret": one is None or one.secret,
            "margin": rules.margin if rules else None,
        }
    return found


def _described(root: Path, cells: Sequence[Cell]) -> Described:
    """Every scored suite; None where its folder is not here or broken."""
    found: Described = {}
    for cell in cells:
        found[cell.suite] = None
        with contextlib.suppress(UserError):
            found[cell.suite] = suites.load(root / cell.suite_path)
    return found


def _items(root: Path, cell: Cell) -> list[dict[str, Any]]:
    """The item records of a cell; none where they cannot be read."""
    with contextlib.suppress(SluiceError):
        return list(read_lines(root / cell.items_path / "items.jsonl"))
    return []


def _stored_items(registry: Registry | None, version: Any | None) -> Mapping[str, list[dict[str, Any]]]:
    """The item records that were registered with a version; none where they are not those any more, which the gate has said then."""
    with contextlib.suppress(SluiceError):
        return {} if registry is None or version is None else registry.items_of(version)
    return {}


def _flips(
    root: Path, records: Records, described: Described, candidate: str, before: Mapping[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    """By suite how many items only one of candidate and champion gets right, and some of them, with both answers."""
    found = {}
    for cell, ours in records:
        if cell.model != candidate:
            continue
        theirs = {item["id"]: item for item in before.get(cell.suite, ())}
        flipped = [item for item in ours if item["id"] in theirs and theirs[item["id"]]["score"] != item["score"]]
        suite = described[cell.suite]
        shown = suite is not None and not suite.secret
        texts = _questions(root / cell.suite_path, suite, {item["id"] for item in flipped[:FLIPS]}) if suite and shown else {}
        found[cell.suite] = {
            "gained": sum(item["score"] > theirs[item["id"]]["score"] for item in flipped),
            "lost": sum(item["score"] < theirs[item["id"]]["score"] for item in flipped),
            "shown": [
                {
                    "id": item["id"],
                    "question": texts.get(item["id"], "") if shown else UNSHOWN,
                    "before": answer(theirs[item["id"]]),
                    "after": answer(item),
                    "gained": item["score"] > theirs[item["id"]]["score"],
                }
                for item in flipped[:FLIPS]
            ],
        }
    return found


def _questions(folder: Path, suite: suites.Suite, wanted: set[str]) -> dict[str, str]:
    """The first text of each of these items of a suite."""
    from models.score import items as kinds

    found: dict[str, str] = {}
    with contextlib.suppress(SluiceError, OSError):
        for name, text in kinds.texts(suite, kinds.read(folder)):
            if name in wanted:
                found.setdefault(name, shortened(text, TEXT))
    return found


def _answers(root: Path, stages: Sequence[Stage]) -> dict[str, list[dict[str, Any]]]:
    """By model its answers to the questions."""
    paths = {PurePosixPath(stage.given["model"]).name: root / stage.given["answers"] for stage in stages}
    return {model: list(read_lines(path)) for model, path in paths.items() if path.is_file()}


def _curve(path: Path) -> dict[str, list[float | None]]:
    """The columns of a curve; blank cells are null."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {column: [float(row[column]) if row[column] else None for row in rows] for column in (rows[0] if rows else ())}


def _data(pipeline: Pipeline) -> dict[str, Any]:
    """What was read, kept and dropped, what the records look like, and which items of a suite training text holds, by source."""
    root, maker = pipeline.workspace.root, pipeline.maker("prepared/portrait.json")
    if maker is None or not (root / PREPARED / "portrait.json").is_file():
        return {}
    portrait, measured = read_json(root / PREPARED / "portrait.json", {}), read_metrics(root, maker)
    validated = read_json(root / "artifacts" / "validation.json", {})
    return {
        **{key: measured.get(key, {}) for key in ("read", "kept_by_kind", "held_out", "dropped", "redacted", "suite_items")},
        **portrait,
        "examples": portrait.get("dropped", {}),
        "dropped": measured.get("dropped", {}),
        "contamination": _contamination(root / "artifacts" / LEAKS),
        "expectations": validated.get("expectations", []),
    }


def _contamination(folder: Path) -> dict[str, dict[str, int]]:
    """By suite how many of its items stand in training text of which kind and source."""
    found = {}
    for path in sorted(folder.glob("*.jsonl")):
        with contextlib.suppress(UserError):
            found[path.stem] = dict(Counter(place for places in leaks(path).values() for place in set(places)).most_common())
    return found


def _health(records: Records) -> dict[str, dict[str, Any]]:
    """By suite and model what the answers look like."""
    found: dict[str, dict[str, Any]] = {}
    for cell, items in records:
        found.setdefault(cell.suite, {})[cell.model] = health_sheet(items).model_dump(mode="json")
    return found


def _subjects(records: Records, described: Described) -> dict[str, dict[str, dict[str, list[float]]]]:
    """By suite with a target, by model and subject: [items, their sum]. More is not better there: which way they lean is what tells."""
    found = dict[str, Any]()
    for cell, items in records:
        if getattr(described[cell.suite], "target", None) is None:
            continue
        table = found.setdefault(cell.suite, {}).setdefault(cell.model, {})
        for item in items:
            entry = table.setdefault(item["subject"], [0, 0.0])
            entry[0], entry[1] = entry[0] + 1, entry[1] + item["score"]
    return found


def _time(session: Session, results: Sequence[StageResult], seconds: float) -> dict[str, Any]:
    """What each stage took, where, and what that cost where params.yaml says what an hour of its pool costs."""
    prices, stages, plan = session.params.get(PRICES) or {}, [], foretold(session.workspace)
    for one in results:
        pool = session.pipeline.stages[one.name].pool
        cost = one.seconds / 3600 * prices[pool] if one.state == "ran" and pool in prices else None
        planned = plan[one.name]["seconds"] if one.state == "ran" and one.name in plan else None
        stages.append({**one.model_dump(mode="json"), "pool": pool, "cost": cost, "planned": planned})
    known = [one["cost"] for one in stages if one["cost"] is not None]
    return {"seconds": round(seconds, 1), "stages": stages, "cost": sum(known) if prices else None}


def _lineage(session: Session, links: Mapping[str, str]) -> dict[str, Any]:
    """What led here: commit, params, data, and the runs; and the command that makes it again."""
    root, folder = session.workspace.root, candidate_folder(session.workspace.root, session.params)
    commit = git_commit(root)
    recorded = session.pipeline.recorded()
    data = {
        dep["path"]: dep.get("md5", "")
        for entry in recorded.values()
        for dep in entry.get("deps", [])
        if dep["path"].startswith(("data/", "artifacts/records", "artifacts/suites"))
    }
    again = f"git checkout {commit} && dvc checkout && sluice run" if commit else "sluice run"
    if commit.endswith("-dirty"):
        again = "nothing makes it again: the code had changes that no commit holds"
    return {
        "commit": commit,
        "model_md5": folder_md5(folder) if folder.is_dir() else "",
        "seed": session.params.get("seed"),
        "data": data,
        "links": dict(links),
        "again": again,
    }
