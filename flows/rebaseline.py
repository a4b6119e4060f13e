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
from flows.registry import Registry, load_evidence
from flows.session import Session
from flows.tracking import PIPELINE
from models.errors import StageError
from tasks.gate import Evidence

OWN = ("template_md5",)  # part of the model, not of how it is asked: scoring again would not change it


def is_stale(ours: Evidence, theirs: Evidence | None) -> bool:
    """Whether asking the champion again could make the two comparable."""
    if theirs is None:
        return True
    if any(theirs.identity.get(key) != value for key, value in ours.identity.items() if key in OWN):
        return False
    same_items = ours.scores is None or (theirs.scores is not None and ours.scores.keys() == theirs.scores.keys())
    return theirs.identity != ours.identity or not same_items


def rebaselined(
    held: Session, registry: Registry, champion: Any, ours: Mapping[str, Evidence], theirs: Mapping[str, Evidence], ask: bool
) -> dict[str, Evidence]:
    """The champion's evidence, scored anew on each suite where it is missing or out of date; without `ask`, where that was done before."""
    fresh = dict(theirs)
    stale = [suite for suite, evidence in ours.items() if is_stale(evidence, theirs.get(suite))]
    if stale:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for suite in stale:
                known = _found(registry, champion, suite, ours[suite], folder)
                path = known or (_scored(held, registry, champion, suite, ours[suite], folder) if ask else None)
                if path is None:
                    continue
                leaked = theirs[suite].contaminated if suite in theirs else {}
                fresh[suite] = load_evidence(path, folder / "none").model_copy(update={"contaminated": leaked})
    return fresh


def key_of(champion: Any, suite: str, ours: Evidence) -> str:
    """What identifies an evaluation: the model's content, the suite, and all that may move a score."""
    asked = {name: value for name, value in ours.identity.items() if name not in OWN}
    return hashlib.sha256(json.dumps([champion.tags["sluice.model_md5"], suite, asked], sort_keys=True).encode()).hexdigest()


def _found(registry: Registry, champion: Any, suite: str, ours: Evidence, folder: Path) -> Path | None:
    filters = f"tags.`sluice.evidence_key` = '{key_of(champion, suite, ours)}' and attributes.status = 'FINISHED'"
    runs = registry.client.search_runs([registry.tracker.experiment_id(PIPELINE)], filters, max_results=1)
    return Path(registry.client.download_artifacts(runs[0].info.run_id, f"evidence/{suite}", str(folder))) if runs else None


def _scored(held: Session, registry: Registry, champion: Any, suite: str, ours: Evidence, folder: Path) -> Path:
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
    registry.tracker.end(run_id, "FINISHED")
    return output
