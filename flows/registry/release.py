"""From benchmarked model to champion: gate, register, promote.

Each step can be repeated; none is a DVC stage, which a cache hit would skip.
"""

import hashlib
import json
import tempfile
import urllib.error
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from flows.host import web
from flows.host.tracking import Tracker, unavailable
from flows.registry.decisions import Registry
from flows.registry.rebaseline import rebaselined
from flows.registry.record import CHAMPION, FILES, Decision
from flows.registry.versions import file_md5
from flows.stages import pretrained, warm
from flows.stages.parameters import gated
from flows.stages.pipeline import LEAKS, Pipeline, git_commit
from flows.stages.ranks import prepare_device
from flows.stages.session import Session
from models.core.content import folder_md5
from models.core.errors import StageError, UserError
from models.core.records import Record
from tasks.benchmark import BenchmarkParams, Progress, scorer
from tasks.gate import anchor, comparison, early, health, paired, verdicts
from tasks.gate.anchor import Standing
from tasks.gate.early import EarlyResult
from tasks.gate.evidence import load_evidence, unreadable
from tasks.gate.verdicts import Evidence, GateResult, Reference, judge

PROVENANCE = tuple(FILES)


class Release(Record):
    """How a candidate fared: the gate's decision, the version that holds it, and all aliases after."""

    decision: str
    reason: str
    version: str
    aliases: dict[str, str]
    gate: GateResult | None = None
    against: str = Field(default="", description="the version that it was compared with; empty where nothing was champion")


class Comparison(Record):
    """The gate's result, the version that it compared with (None: nothing is champion yet), the scores item by item, and what identifies
    all that it was made from."""

    result: GateResult
    champion: str | None
    items: dict[str, Any]
    inputs: str = ""


def candidate_folder(root: Path, params: Mapping[str, Any]) -> Path:
    """The model that params.yaml offers to the gate."""
    return root / "artifacts" / str(params["candidate"])


def candidate_evidence(pipeline: Pipeline, params: Mapping[str, Any]) -> dict[str, Path]:
    """The candidate's benchmark folders by gated suite."""
    found = {cell.suite: pipeline.workspace.root / cell.items_path for cell in pipeline.cells if cell.model == params["candidate"]}
    return {suite: found[suite] for suite in gated(params) if suite in found}


def contamination_folder(root: Path) -> Path:
    """Which items leaked into training text, a file a suite."""
    return root / "artifacts" / LEAKS


def settle(tracker: Tracker) -> None:
    """Close what crashed runs left open, in the tracking store and in the registry."""
    Registry(tracker).settle()


def unchanged(session: Session) -> Release | None:
    """The champion, where it is the candidate at hand; None where the gate has work to do."""
    model_md5 = folder_md5(candidate_folder(session.workspace.root, session.params))
    tracker = Tracker(session.workspace, session.model)
    found = _ask_server(tracker.uri, session.model) if tracker.uri.startswith("http") else _ask_registry(tracker)
    if found is None or found["md5"] != model_md5:
        return None
    reason = f"version {found['version']} holds this very model and is champion"
    return Release(decision="unchanged", reason=reason, version=found["version"], aliases=found["aliases"])


def _ask_registry(tracker: Tracker) -> dict[str, Any] | None:
    registry = Registry(tracker)
    version = registry.at(CHAMPION)
    if version is None:
        return None
    return {"version": str(version.version), "md5": version.tags.get("sluice.model_md5"), "aliases": registry.aliases()}


def _ask_server(uri: str, model: str) -> dict[str, Any] | None:
    """The same question over MLflow's REST interface: a run that changes nothing need not wait seconds for the client's import."""
    name = urllib.parse.urlencode({"name": model})
    try:
        registered = _get(f"{uri}/api/2.0/mlflow/registered-models/get?{name}")["registered_model"]
        aliases = {entry["alias"]: entry["version"] for entry in registered.get("aliases", [])}
        if CHAMPION not in aliases:
            return None
        version = _get(f"{uri}/api/2.0/mlflow/model-versions/get?{name}&version={aliases[CHAMPION]}")["model_version"]
    except (OSError, ValueError) as error:
        if isinstance(error, urllib.error.HTTPError) and error.code == 404:
            return None
        raise unavailable(uri, error) from None
    tags = {tag["key"]: tag["value"] for tag in version.get("tags", [])}
    return {"version": str(version["version"]), "md5": tags.get("sluice.model_md5"), "aliases": aliases}


def _get(url: str) -> Any:
    return json.loads(web.MLFLOW.get(url, 20))


def rival(registry: Registry, against: str) -> Any | None:
    """The version to compare with: an alias, or a version's number; None where nothing is champion yet."""
    return registry.at(CHAMPION) if against == CHAMPION else registry.version(against)


def is_same(session: Session, registry: Registry, candidate: str, rival: Any | None) -> bool:
    """Whether the candidate is that very version's model, by the record: then there is nothing to compare."""
    ours = _registered_md5(registry, registry.version(candidate)) if candidate else folder_md5(_at_hand(session))
    return rival is not None and ours is not None and ours == _registered_md5(registry, rival)


def _registered_md5(registry: Registry, version: Any) -> str | None:
    """What identifies a version's model; None where that is in doubt, or it is not Sluice's."""
    known = registry.registered(version)
    return None if known.doubt else known.content.get("model_md5")


def _at_hand(session: Session) -> Path:
    folder = candidate_folder(session.workspace.root, session.params)
    if not folder.is_dir():
        raise UserError(f"there is no candidate at hand: {folder.relative_to(session.workspace.root)} is missing; 'sluice run' makes one")
    return folder


def compare(session: Session, registry: Registry, candidate: str, champion: Any | None) -> Comparison:
    """What the gate says of a registered version, or the candidate at hand (""), against `champion`."""
    ours, theirs = _evidence(session, registry, candidate, champion)
    version = None if champion is None else str(champion.version)
    anchors = {} if champion is None else _anchors(session, registry, ours, champion, theirs or {}, ask=not candidate)
    result = judge(session.policy, ours, theirs, anchors)
    inputs = "" if candidate else inputs_of(session, registry)
    return Comparison(result=result, champion=version, items=_item_table(ours, theirs), inputs=inputs)


def _anchors(
    session: Session, registry: Registry, ours: Mapping[str, Evidence], champion: Any, theirs: Mapping[str, Evidence], ask: bool
) -> dict[str, Reference]:
    """The anchor of each gated suite with its evidence, scored again where that is out of date; none where another than the champion is
    compared with. A suite that has no anchor takes the champion."""
    number, standings = str(champion.version), registry.standings()
    if registry.aliases().get(CHAMPION) != number:
        return {}
    anchors = {suite: standings.get(suite) or Standing(version=number, looks=0) for suite in session.policy.suites if suite in ours}
    found = {number: theirs}
    for version in sorted({standing.version for standing in anchors.values()} - {number}):
        asked = {suite: ours[suite] for suite, standing in anchors.items() if standing.version == version}
        found[version] = _evidence_of_anchor(session, registry, version, asked, ask)
    unknown = unreadable("it was never scored on this suite; 'sluice anchor VERSION --reason WHY' pins another")
    return {
        suite: Reference(version=standing.version, look=standing.looks + 1, evidence=found[standing.version].get(suite, unknown))
        for suite, standing in anchors.items()
    }


def _evidence_of_anchor(
    session: Session, registry: Registry, number: str, asked: Mapping[str, Evidence], ask: bool
) -> Mapping[str, Evidence]:
    try:
        version = registry.version(number)
    except UserError:
        gone = unreadable("it is not registered any more; 'sluice anchor VERSION --reason WHY' pins another")
        return dict.fromkeys(asked, gone)
    return rebaselined(session, registry, version, asked, registry.evidence_of(version), ask)


def inputs_of(session: Session, registry: Registry) -> str:
    """What identifies all that the gate decides the candidate at hand from: the same inputs are decided on once."""
    folders = [
        _at_hand(session),
        *candidate_evidence(session.pipeline, session.params).values(),
        contamination_folder(session.workspace.root),
    ]
    anchors = {suite: standing.version for suite, standing in registry.standings().items()}
    content = [folder_md5(folder) if folder.is_dir() else "" for folder in folders]
    code = [file_md5(Path(module.__file__ or "")) for module in (verdicts, anchor, comparison, paired, health)]
    whole = [content, registry.aliases().get(CHAMPION), anchors, session.policy.model_dump(mode="json"), code]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def recorded_decision(session: Session) -> Release | None:
    """The decision that stands on record about the very candidate at hand, made from all that is at hand now; None where there is none."""
    registry = Registry(Tracker(session.workspace, session.model))
    inputs = inputs_of(session, registry)
    run = next((run for run in registry.decisions() if run.data.tags.get("sluice.inputs") == inputs), None)
    if run is None or run.data.tags["sluice.verdict"] not in ("refuse", "undecided"):  # what was broken may have been put right since
        return None
    said = {key: run.data.tags[f"sluice.{key}"] for key in ("verdict", "version", "sequence", "reason")}
    reason = f"record {said['sequence']} says so of version {said['version']}, and nothing has changed since: {said['reason']}"
    return Release(decision=said["verdict"], reason=reason, version=said["version"], aliases=registry.aliases())


def _evidence(
    session: Session, registry: Registry, candidate: str, champion: Any | None
) -> tuple[dict[str, Evidence], dict[str, Evidence] | None]:
    ours = registry.evidence_of(registry.version(candidate)) if candidate else _evidence_at_hand(session)
    if champion is None:
        return ours, None
    return ours, rebaselined(session, registry, champion, ours, registry.evidence_of(champion), ask=not candidate)


def _evidence_at_hand(session: Session) -> dict[str, Evidence]:
    paths, leaked = candidate_evidence(session.pipeline, session.params), contamination_folder(session.workspace.root)
    model_md5 = folder_md5(_at_hand(session))
    return {suite: load_evidence(path, leaked / f"{suite}.jsonl", model_md5) for suite, path in paths.items() if path.is_dir()}


def compare_early(session: Session, registry: Registry, candidate: str, champion: Any | None, tell: Callable[[str], object]) -> EarlyResult:
    """The gate's early decision: both models are asked now. Raises UserError where there is no champion to compare with."""
    if champion is None:
        raise UserError("nothing is champion yet, there is nobody to compare with: 'sluice run' makes the first")
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        ours = registry.model_folder(registry.version(candidate), Path(one)) if candidate else _at_hand(session)
        leaked: dict[str, dict[str, list[str]]] = {}
        for evidence in (registry.evidence_of(champion), _evidence(session, registry, candidate, None)[0]):
            for suite, known in evidence.items():
                leaked.setdefault(suite, {}).update(known.contaminated)
        theirs = registry.model_folder(champion, Path(other))
        device, asked = prepare_device("gpu"), {suite: asked_of(session, suite) for suite in session.policy.suites}

        def make(model: Path, suite: str, progress: Progress) -> Any:
            return scorer(asked[suite], model, session.workspace.root / session.cell(suite).suite_path, device, progress)

        seed = next(iter(asked.values())).items_seed
        return early.compare(ours, theirs, session.policy, make, seed, leaked, tell)


def asked_of(session: Session, suite: str) -> BenchmarkParams:
    """How today's params ask a suite. Raises UserError where no stage scores anything on it."""
    return BenchmarkParams.model_validate(session.params[session.cell(suite).stage.section])


def _item_table(ours: Mapping[str, Evidence], theirs: Mapping[str, Evidence] | None) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for suite, evidence in ours.items():
        before = (theirs or {}).get(suite)
        rival = (before.scores if before else None) or {}
        table[suite] = [{"id": item, "candidate": score, "champion": rival.get(item)} for item, score in (evidence.scores or {}).items()]
    return table


def carry_out(session: Session, found: Comparison, version: str, parent: str | None) -> Release:
    """Put the gate's decision on version `version` on record, and make it champion where the gate lets it through.

    A version that a person rolled back or rejected is refused until a person promotes it. A decision that stands on record already is not
    repeated there. Raises Refused where another version has become champion since the comparison.
    """
    registry, result = Registry(Tracker(session.workspace, session.model)), found.result
    against = registry.turned_down(version) if result.decision == "promote" else ""
    if against:
        reason = f"{against}; the gate would let it through: 'sluice promote {version}' makes it champion all the same"
        result = result.model_copy(update={"decision": "refuse", "reason": reason})
    if result.decision == "promote":
        registry.promote(version, found.champion, "promote", result.reason, parent, result, found.items, found.inputs)
    else:
        decision = Decision(result.decision, result.reason, "", version, found.champion, inputs=found.inputs)
        registry.note(decision, parent, result, found.items)
    aliases, against = registry.aliases(), found.champion or ""
    return Release(decision=result.decision, reason=result.reason, version=version, aliases=aliases, gate=result, against=against)


def register_candidate(session: Session, parent: str | None) -> str:
    """Register the candidate in a process of its own: logging a model imports Transformers, which the flow never does."""
    env = {**session.env, **({"SLUICE_PARENT_RUN_ID": parent} if parent else {})}
    done = warm.call(session.workspace, ["register"], env)
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        raise StageError(f"registering {session.model} failed: {lines[-1] if lines else 'no output'}")
    return str(json.loads(lines[-1])["version"])


def register(pipeline: Pipeline, tracker: Tracker, params: Mapping[str, Any], parent: str | None) -> str:
    """Register the candidate at hand; return its version. Of dvc.lock, what this run needed: older entries tell of other pipelines."""
    root, published, maker = pipeline.workspace.root, pretrained.recorded(pipeline), pipeline.maker(params["candidate"])
    tags = {
        "git.commit": git_commit(root),
        "sluice.params_md5": file_md5(root / "params.yaml"),
        "sluice.environment_md5": file_md5(root / "requirements.lock"),
        "sluice.stage_hash": pipeline.recorded_signatures().get(maker.name if maker else "", ""),
        **({"sluice.pretrained": json.dumps(published)} if published else {}),
    }
    suites = candidate_evidence(pipeline, params)
    with tempfile.TemporaryDirectory() as folder:
        lock = Path(folder) / "dvc.lock"
        if (needed := pipeline.lock_of(params)) is not None:
            lock.write_bytes(needed)
            tags["sluice.data_md5"] = file_md5(lock)
        provenance = [path for name in PROVENANCE if (path := lock if name == lock.name else root / name).is_file()]
        version = Registry(tracker).register(candidate_folder(root, params), suites, contamination_folder(root), provenance, parent, tags)
    return str(version.version)
