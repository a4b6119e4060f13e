"""Stages whose code or packages changed while no byte of a result does: dvc.lock gets the hashes of today, the record who said so and why.

A record of this kind holds {"commit", "stages": {name: {"before", "after", "deps": {path: [before, after]}}}}: the signature of what made
the outputs, that of what they stand for from then on, and the md5s of the deps that differ.
"""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flows.host.workspace import Workspace
from flows.registry import record
from flows.registry.decisions import Registry
from flows.stages import salvage, wiring
from flows.stages.changes import Change
from flows.stages.pipeline import Pipeline, git_commit, signature
from models.core.errors import UserError
from models.core.files import read_json


def accept(workspace: Workspace, registry: Registry, pipeline: Pipeline, needed: set[str], reason: str) -> list[str]:
    """Have dvc.lock name the code and packages of today for the changed stages among `needed`; return their names. Nothing runs.

    The caller holds the workspace, see flows/stages/session.py. Raises UserError, with nothing changed, where no stage is changed, or
    anything but code and packages: data, params, a command, an output. The record is written first: a kill leaves at worst one of what was
    not done.
    """
    if not reason.strip():
        raise UserError("a changed identity is accepted for a reason, which is kept on record: --accept WHY")
    changed = {name: found for name, found in pipeline.changed().items() if name in needed}
    if not changed:
        raise UserError("there is nothing to accept: no stage that a run needs is changed")
    for name, found in changed.items():
        _require_code_alone(name, found)
    before, after = pipeline.recorded(), pipeline.entries(changed)
    moved = {name: _moved(before[name], after[name]) for name in changed}
    registry.accept_identity(reason, {"commit": git_commit(workspace.root), "stages": moved})
    salvage.keep(workspace)
    pipeline.relock(changed)
    return list(changed)


def _require_code_alone(name: str, changes: list[Change]) -> None:
    """Raise UserError where a change is none of a file of this repository, or of pinned packages, that the stage runs with."""
    if other := [one.text for one in changes if not (one.dep.split("/")[0] in wiring.PACKAGES or wiring.is_lock(one.dep))]:
        raise UserError(
            f"stage {name!r} is not changed by code or packages alone ({'; '.join(other[:3])}): its results may differ, so it must run; "
            "nothing was accepted: 'sluice run'"
        )


def _moved(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """How an entry of dvc.lock changes: both signatures, and the deps that differ."""
    old, new = ({dep["path"]: dep.get("md5") for dep in entry.get("deps", [])} for entry in (before, after))
    deps = {path: [old.get(path), new.get(path)] for path in sorted({*old, *new}) if old.get(path) != new.get(path)}
    return {"before": signature(before), "after": signature(after), "deps": deps}


def recorded(registry: Registry) -> Iterator[tuple[Mapping[str, str], dict[str, Any]]]:
    """The tags of each sound record of this kind, and what it holds, newest first; one whose file was changed is passed over."""
    tracker = registry.tracker
    for run in record.decisions(record.read(tracker)):
        if run.data.tags.get("sluice.verdict") == record.IDENTITY:
            with tempfile.TemporaryDirectory() as folder:
                if record.fetched(tracker, run.info.run_id, folder) == run.data.tags["sluice.artifacts"]:
                    yield run.data.tags, read_json(Path(folder) / "identity.json", {})


def earlier(registry: Registry, signatures: Mapping[str, str]) -> dict[str, list[str]]:
    """By stage, the signatures whose results were accepted under the given one, newest first."""
    at, found = dict(signatures), {name: list[str]() for name in signatures}
    for _, said in recorded(registry):
        for name, moved in said["stages"].items():
            if at.get(name) == moved["after"]:
                at[name] = moved["before"]
                found[name].append(at[name])
    return found


def accepted(registry: Registry, lock: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was accepted of the stages in a version's dvc.lock, oldest first; `since` tells what came after it was written."""
    entries = list(recorded(registry))
    signatures = {name: signature(entry) for name, entry in lock.items()}
    before = _chained(entries, dict(signatures), "after", "before")
    after = _chained(entries[::-1], dict(signatures), "before", "after")
    return [*({**one, "since": False} for one in before[::-1]), *({**one, "since": True} for one in after)]


def _chained(entries: list[Any], at: dict[str, str], met: str, left: str) -> list[dict[str, Any]]:
    """The records that lead from these signatures, by stage, from `met` to `left` and on."""
    found = []
    for tags, said in entries:
        stages = [name for name, moved in said["stages"].items() if name in at and moved[met] == at[name]]
        at.update({name: said["stages"][name][left] for name in stages})
        if stages:
            facts = {key: tags.get(f"sluice.{key}") for key in ("sequence", "by", "reason")}
            found.append({**facts, "commit": said["commit"], "stages": stages})
    return found


def words(one: Mapping[str, Any]) -> str:
    """One of them as a line."""
    how = "accepted since as if later code or packages had made it" if one["since"] else "made by earlier code or packages, accepted as is"
    return f"{', '.join(one['stages'])}: {how} (record {one['sequence']} by {one['by']}: {one['reason']})"
