"""The champion scored again where its evidence is out of date: on other items, by another harness, with other settings.

Scores of two evaluations are never compared. What the champion gets today, on today's suites, is kept under a key of its content and of
how it was asked, so that it is asked once.
"""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows import warm
from flows.evidence import load_evidence
from flows.registry import Registry
from flows.session import Session
from flows.tracking import PIPELINE
from models.errors import StageError
from models.records import folder_md5
from tasks.gate import Evidence
from tasks.health import HealthLimits, faults

OWN = ("template_md5",)  # part of the model, not of how it is asked: scoring again would not change it


def is_stale(ours: Evidence, theirs: Evidence | None, limits: HealthLimits | None) -> bool:
    """Whether asking the champion again could make the two comparable: its evidence is missing, made otherwise, or beyond `limits`."""
    if theirs is None or theirs.unreadable:
        return True
    if any(theirs.identity.get(key) != value for key, value in ours.identity.items() if key in OWN):
        return False
    same_items = ours.scores is None or (theirs.scores is not None and ours.scores.keys() == theirs.scores.keys())
    if theirs.identity != ours.identity or theirs.chance != ours.chance or not same_items:
        return True
    return limits is not None and theirs.health is not None and bool(faults(theirs.health, limits, None))


def rebaselined(
    held: Session, registry: Registry, champion: Any, ours: Mapping[str, Evidence], theirs: Mapping[str, Evidence], ask: bool
) -> dict[str, Evidence]:
    """The champion's evidence, scored anew on each suite where that may help; without `ask`, where that was done before."""
    fresh = dict(theirs)
    stale = [suite for suite, evidence in ours.items() if is_stale(evidence, theirs.get(suite), held.policy.health)]
    with tempfile.TemporaryDirectory() as name:
        for suite in stale:
            if ours[suite].unreadable:
                continue
            again = _found(registry, champion, suite, ours[suite], Path(name))
            if again is None and ask:
                again = _scored(held, registry, champion, suite, ours[suite], Path(name))
            if again is not None:
                leaked = theirs[suite].contaminated if suite in theirs else {}
                fresh[suite] = again.model_copy(update={"contaminated": leaked})
    return fresh


def _md5(champion: Any) -> str:
    """What identifies the champion's model. Raises StageError where Sluice did not register it: nothing is known of it then."""
    found: str | None = champion.tags.get("sluice.model_md5")
    if found is None:
        raise StageError(f"version {champion.version} was not registered by Sluice: 'sluice promote' or 'sluice rollback' to one that was")
    return found


def key_of(champion: Any, suite: str, ours: Evidence) -> str:
    """What identifies an evaluation: the model's content, the suite, and all that may move a score."""
    asked = {name: value for name, value in ours.identity.items() if name not in OWN}
    return hashlib.sha256(json.dumps([_md5(champion), suite, asked], sort_keys=True).encode()).hexdigest()


def _found(registry: Registry, champion: Any, suite: str, ours: Evidence, folder: Path) -> Evidence | None:
    """What an earlier asking left, where its files are still that."""
    filters = f"tags.`sluice.evidence_key` = '{key_of(champion, suite, ours)}' and attributes.status = 'FINISHED'"
    for run in registry.client.search_runs([registry.tracker.experiment_id(PIPELINE)], filters, max_results=10):
        path = Path(registry.client.download_artifacts(run.info.run_id, f"evidence/{suite}", str(folder / run.info.run_id)))
        found = load_evidence(path, folder / "none", _md5(champion))
        same = run.data.tags.get("sluice.evidence_md5") == folder_md5(path)
        if same and not found.unreadable and not is_stale(ours, found, None):
            return found
    return None


def _scored(held: Session, registry: Registry, champion: Any, suite: str, ours: Evidence, folder: Path) -> Evidence:
    model = folder / "model"
    if not model.is_dir():
        registry.model_folder(champion, folder)
    tags = {"sluice.evidence_key": key_of(champion, suite, ours), "sluice.version": str(champion.version)}
    run_id = registry.tracker.start(PIPELINE, f"rebaseline {champion.version} {suite}", tags)
    output = folder / "scored" / suite
    done = warm.call(held.workspace, ["rescore", str(model), f"artifacts/suites/{suite}", str(output)], held.env)
    if done.returncode:
        said = (done.stdout.splitlines() or ["no output"])[-1]
        reason = f"the champion, version {champion.version}, could not be scored again on {suite}: {said}"
        registry.tracker.end(run_id, "FAILED", reason)
        raise StageError(reason)
    registry.client.log_artifacts(run_id, str(output), f"evidence/{suite}")
    registry.client.set_tag(run_id, "sluice.evidence_md5", folder_md5(output))
    registry.tracker.end(run_id, "FINISHED")
    return load_evidence(output, folder / "none", _md5(champion))
