"""A version scored again where its evidence is out of date: on other items, by another harness, with other settings.

Scores of two evaluations are never compared. What the champion, or a suite's anchor, gets today, on today's suites, is put on record under
a key of its content and of how it was asked, so that it is asked once. Evidence that no record vouches for is not looked at.
"""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from flows.host.processes import TimeLimitError
from flows.host.tracking import PIPELINE
from flows.registry import record
from flows.registry.decisions import Registry
from flows.registry.record import RESCORED, Decision, Known
from flows.stages import warm
from flows.stages.session import Session
from models.core.errors import SluiceError, StageError
from models.data import kinds
from tasks import contamination
from tasks.gate.evidence import leaks, load_evidence, unreadable
from tasks.gate.health import HealthLimits, faults
from tasks.gate.verdicts import Evidence

PREPARED = "artifacts/prepared"
OWN = ("template_md5",)  # part of the model, not of how it is asked: scoring again would not change it


def is_stale(ours: Evidence, theirs: Evidence | None, limits: HealthLimits | None) -> bool:
    """Whether asking the other again could make the two comparable: its evidence is missing, made otherwise, or beyond `limits`."""
    if theirs is None or theirs.unreadable:
        return True
    if any(theirs.identity.get(key) != value for key, value in ours.identity.items() if key in OWN):
        return False
    same_items = ours.scores is None or (theirs.scores is not None and ours.scores.keys() == theirs.scores.keys())
    if theirs.identity != ours.identity or theirs.chance != ours.chance or not same_items:
        return True
    return limits is not None and theirs.health is not None and bool(faults(theirs.health, limits, None))


def rebaselined(
    session: Session, registry: Registry, version: Any, ours: Mapping[str, Evidence], theirs: Mapping[str, Evidence], ask: bool
) -> dict[str, Evidence]:
    """The version's evidence, scored anew on each suite where that may help; without `ask`, where that was done before."""
    readable = {suite: evidence for suite, evidence in ours.items() if not evidence.unreadable}
    stale = {suite: found for suite, found in readable.items() if is_stale(found, theirs.get(suite), session.policy.limits(suite))}
    if not stale:
        return dict(theirs)
    fresh, known = dict(theirs), registry.registered(version)
    with tempfile.TemporaryDirectory() as name:
        for suite, evidence in stale.items():
            again = None if known.doubt else _found(registry, _md5(version, known), suite, evidence)
            if again is None and ask:
                again = _scored(session, registry, version, known, suite, evidence, Path(name))
            if again is not None:
                fresh[suite] = _with_leaks(session, registry, version, suite, again, theirs.get(suite))
    return fresh


def _with_leaks(session: Session, registry: Registry, version: Any, suite: str, again: Evidence, before: Evidence | None) -> Evidence:
    """The new scores with the items that the version's own training text held: of the same suite they are known, of another one they are
    looked for in what it was trained on. Where that is out of reach, the scores say nothing: no list is not an empty one."""
    if before is not None and not before.unreadable and before.identity.get("suite_md5") == again.identity.get("suite_md5"):
        return again.model_copy(update={"contaminated": before.contaminated})
    try:
        return again.model_copy(update={"contaminated": _leaks(session, registry, version, suite)})
    except SluiceError as error:
        return unreadable(f"what its training text holds of today's {suite} is not known ({error}); 'dvc fetch' brings it from the remote")


def _leaks(session: Session, registry: Registry, version: Any, suite: str) -> dict[str, list[str]]:
    """Where each item of today's suite stands in what a version was trained on, as its dvc.lock names it and DVC's cache holds it."""
    root, made = session.workspace.root, _prepared(registry, version)
    fed = [kind for kind in kinds.FIELDS if kind in made]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in fed:
            for path, cached in session.pipeline.cached_files(made[kind]).items():
                (folder / kind / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / kind / path).symlink_to(cached)
        (folder / "suites").mkdir()
        (folder / "suites" / suite).symlink_to((root / session.cell(suite).suite_path).resolve())
        inputs = contamination.ContaminationInputs(suites=folder / "suites", **{kind: folder / kind for kind in fed})
        outputs = contamination.ContaminationOutputs(contamination=folder / "found")
        contamination.contamination(contamination.ContaminationParams.model_validate(session.params["contamination"]), inputs, outputs)
        return leaks(outputs.contamination / f"{suite}.jsonl")


def _prepared(registry: Registry, version: Any) -> dict[str, str]:
    """The md5 of each kind of prepared records, of the dvc.lock that was registered with a version. Raises StageError where that does not
    name what a stage read."""
    with tempfile.TemporaryDirectory() as folder:
        path = registry.provenance(version, Path(folder)) / "dvc.lock"
        lock = YAML(typ="safe").load(path.read_text(encoding="utf-8") if path.is_file() else "") or {}
    read, made = (
        {
            Path(entry["path"]).name: entry["md5"]
            for stage in (lock.get("stages") or {}).values()
            for entry in stage.get(role, [])
            if entry["path"].startswith(f"{PREPARED}/") and entry["md5"].endswith(".dir")
        }
        for role in ("deps", "outs")
    )
    missing = sorted(read.keys() - made.keys()) or ([] if made else ["..."])
    if missing:
        raise StageError(f"its dvc.lock names no {PREPARED}/{missing[0]}")
    return made


def _md5(version: Any, known: Known) -> str:
    """What identifies a version's model, by the record. Raises StageError where Sluice did not register it: nothing is known of it then."""
    found = known.content.get("model_md5")
    if found is None:
        raise StageError(f"version {version.version} was not registered by Sluice: 'sluice promote' or 'sluice rollback' to one that was")
    return found


def key_of(model_md5: str, suite: str, ours: Evidence) -> str:
    """What identifies an evaluation: the model's content, the suite, and all that may move a score."""
    asked = {name: value for name, value in ours.identity.items() if name not in OWN}
    return hashlib.sha256(json.dumps([model_md5, suite, asked], sort_keys=True).encode()).hexdigest()


def _found(registry: Registry, model_md5: str, suite: str, ours: Evidence) -> Evidence | None:
    """What an earlier asking put on record."""
    asked = (load_evidence(folder / suite, None, model_md5) for folder in record.rescored(registry.tracker, key_of(model_md5, suite, ours)))
    return next((found for found in asked if not found.unreadable and not is_stale(ours, found, None)), None)


def _scored(session: Session, registry: Registry, version: Any, known: Known, suite: str, ours: Evidence, folder: Path) -> Evidence:
    model = folder / "model"
    if not model.is_dir():
        registry.model_folder(version, folder)
    number, model_md5 = str(version.version), _md5(version, known)
    run_id = registry.tracker.start(PIPELINE, f"rebaseline {number} {suite}", {"sluice.version": number})
    output = folder / "scored" / suite
    try:
        cell = session.cell(suite)
        limit_s = cell.stage.timeout_s
        done = warm.call(session.workspace, ["rescore", str(model), cell.suite_path, str(output)], session.env, limit_s)
        said = (done.stdout.splitlines() or ["no output"])[-1] if done.returncode else ""
    except TimeLimitError:
        said = f"it ran past the limit of {limit_s:.0f} s (meta.timeout_s of the suite's benchmark in dvc.yaml) and was stopped"
    if said:
        reason = f"version {number} could not be scored again on {suite}: {said}"
        registry.tracker.end(run_id, "FAILED", reason)
        raise StageError(reason)
    registry.tracker.end(run_id, "FINISHED")
    kept = Decision(RESCORED, f"{suite} was scored again as it is asked today", "", number, inputs=key_of(model_md5, suite, ours))
    with registry.lock():
        registry.put_on_record(kept, run_id, evidence=output)
    return load_evidence(output, None, model_md5)
