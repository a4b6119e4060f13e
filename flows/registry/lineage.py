"""Where a version comes from, and how two versions differ: read from what was registered with them, not from the workspace."""

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from flows.host.tracking import PIPELINE, flatten
from flows.registry import identity, record
from flows.registry.decisions import Registry
from flows.registry.release import PROVENANCE
from flows.screen import tables
from flows.stages.pipeline import Pipeline
from models.core.errors import StageError
from models.core.given import read_lines
from tasks.gate.health import answer
from tasks.gate.verdicts import Evidence, matched

RECORDS = "artifacts/records"
SHOWN_FLIPS = 20
OTHERS_MARGIN = 0.05  # of suites that the policy does not gate: there it only picks the test, exact or not


class Past:
    """What was registered with a version, fetched once into a folder. Raises StageError where it is not that any more."""

    def __init__(self, registry: Registry, version: Any, folder: Path) -> None:
        self.registry, self.version, self.known = registry, version, registry.registered(version)
        found = registry.provenance(version, folder)
        self.files = {name: (found / name).read_text(encoding="utf-8") if (found / name).is_file() else "" for name in PROVENANCE}

    @cached_property
    def params(self) -> dict[str, Any]:
        return self._mapping("params.yaml")

    @cached_property
    def lock(self) -> dict[str, Any]:
        """Each stage's entry of dvc.lock."""
        return self._mapping("dvc.lock").get("stages") or {}

    def said(self, key: str) -> dict[str, Any]:
        """What the version's tag `key`, one of record.TEXTS, holds; empty without it. Raises StageError where it is not that any more."""
        if record.content_of(self.version.tags).get(key) != self.known.content.get(key):
            raise StageError(
                f"tag sluice.{key} of version {self.version.version} is not what was registered ({self.known.by}): it was changed"
            )
        found: dict[str, Any] = json.loads(self.version.tags.get(f"sluice.{key}", "{}"))
        return found

    def _mapping(self, name: str) -> dict[str, Any]:
        try:
            found = YAML(typ="safe").load(self.files[name]) or {}
        except YAMLError:
            found = None
        if not isinstance(found, dict):
            raise StageError(
                f"{name} of version {self.version.version}, as it was registered, is no YAML mapping: nothing is known from it"
            )
        return found

    @property
    def packages(self) -> dict[str, str]:
        """Version by package, as requirements.lock pins them for this interpreter and system."""
        from packaging.requirements import Requirement

        lines = (line.strip() for line in self.files["requirements.lock"].splitlines())
        found = [Requirement(line) for line in lines if "==" in line and not line.startswith("#")]
        return {one.name: str(one.specifier).removeprefix("==") for one in found if one.marker is None or one.marker.evaluate()}

    def hashes(self, role: str) -> dict[str, str]:
        """md5 by path of all `deps` or `outs` that dvc.lock names."""
        return {entry["path"]: entry.get("md5", "") for stage in self.lock.values() for entry in stage.get(role, [])}


def lineage(registry: Registry, version: Any) -> dict[str, Any]:
    """All that led to a version, as plain values."""
    with tempfile.TemporaryDirectory() as folder:
        past = Past(registry, version, Path(folder))
    made, read, known = past.hashes("outs"), past.hashes("deps"), past.known
    run = registry.client.get_run(version.run_id)
    parent = run.data.tags.get("mlflow.parentRunId")
    about = registry.client.get_run(parent).data.tags if parent else {}
    on_record = filter(record.decides, record.read(registry.tracker).runs)
    decisions = [run for run in on_record if run.data.tags.get("sluice.version") == str(version.version)]
    return {
        "version": str(version.version),
        "model_md5": known.content.get("model_md5"),
        "known_by": known.words,
        "aliases": sorted(alias for alias, number in registry.aliases().items() if number == str(version.version)),
        "git_commit": known.content.get("commit"),
        "data": {path: md5 for path, md5 in {**read, **made}.items() if path.startswith(("data/", RECORDS, "artifacts/prepared/"))},
        "suites": {path: md5 for path, md5 in read.items() if path.startswith("artifacts/suites")},
        "params_md5": known.content.get("params_md5"),
        "params": past.params,
        "seeds": {key: value for key, value in flatten(past.params).items() if key.rpartition(".")[2].endswith("seed")},
        "lock_md5": known.content.get("data_md5"),
        "environment_md5": known.content.get("environment_md5"),
        "stage_hash": version.tags.get("sluice.stage_hash"),
        "identities": identity.accepted(registry, past.lock),
        "parents": {**_began(past), **_compared(decisions)},
        "runs": {
            "register": version.run_id,
            "pipeline": parent,
            "pipeline_url": registry.tracker.run_url(parent, PIPELINE) if parent else None,
            "prefect_flow_run": about.get("prefect.flow_run_id"),
            "prefect_flow_run_url": about.get("prefect.flow_run_url"),
            "stages": {key.removeprefix("sluice.run."): value for key, value in sorted(about.items()) if key.startswith("sluice.run.")},
        },
        "scores": past.said("scores"),
        "decisions": [_decision(run) for run in decisions],
    }


def _began(past: Past) -> dict[str, Any]:
    """What training began from: the published model's name, what that stood for (a commit, a version), the md5 of what was read."""
    said = past.said("pretrained")
    known = {"pretrained_resolved": said.get("resolved"), "pretrained_md5": said.get("md5")}
    return {"pretrained": past.params.get("pretrained"), **known}


def _compared(decisions: list[Any]) -> dict[str, Any]:
    """The champion that the version was first compared with."""
    first = decisions[-1].data.tags if decisions else {}
    return {"champion": first.get("sluice.was") or None}


def _decision(run: Any) -> dict[str, Any]:
    tags = run.data.tags
    said = {key: tags.get(f"sluice.{key}") or None for key in ("verdict", "reason", "alias", "was", "by", "sequence")}
    return {**said, "run_id": run.info.run_id}


def diff(registry: Registry, before: Any, after: Any, pipeline: Pipeline) -> dict[str, Any]:
    """What changed between two versions: base, data rows by source, params, packages, code, scores, and which questions flipped."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        old, new = Past(registry, before, Path(one)), Past(registry, after, Path(other))
        evidence = [registry.evidence_of(version) for version in (before, after)]
        code = _changes(*({path: md5 for path, md5 in past.hashes("deps").items() if path.endswith(".py")} for past in (old, new)))
        return {
            "versions": [str(before.version), str(after.version)],
            "pretrained": _changes(_began(old), _began(new)),
            "data": _rows(old, new, pipeline),
            "params": _changes(flatten(old.params, text=False), flatten(new.params, text=False)),
            "environment": _changes(old.packages, new.packages),
            "code": sorted(code),
            "scores": _scores(evidence[0], evidence[1], new.params["gate"]),
            "flips": _flips(registry.items_of(before), registry.items_of(after), evidence),
        }


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, list[Any]]:
    """[before, after] by key, for keys whose values differ; null where there is none."""
    keys = sorted({*old, *new})
    return {key: [old.get(key), new.get(key)] for key in keys if old.get(key) != new.get(key) or (key in old) != (key in new)}


def _rows(old: Past, new: Past, pipeline: Pipeline) -> dict[str, Any]:
    """Rows added and removed, by kind/source; `unknown` says which data is in no reach (DVC's cache, or its remote)."""
    found: dict[str, Any] = {}
    hashes = [past.hashes("outs").get(RECORDS, "") for past in (old, new)]
    if hashes[0] == hashes[1]:
        return found
    if not all(hashes):
        return {"unknown": f"dvc.lock, as it was registered, names no {RECORDS}"}
    try:
        files = [pipeline.cached_files(md5) for md5 in hashes]
    except StageError as error:
        return {"unknown": str(error)}
    for name in sorted({*files[0], *files[1]}):
        sides = [_by_source(name.removesuffix(".jsonl"), side[name]) if name in side else Counter[tuple[str, str]]() for side in files]
        for key, count in (("added", sides[1] - sides[0]), ("removed", sides[0] - sides[1])):
            for source, _ in count.elements():
                entry = found.setdefault(source, {"added": 0, "removed": 0})
                entry[key] += 1
    return found


def _by_source(kind: str, path: Path) -> Counter[tuple[str, str]]:
    """How often each row comes, as (kind/source, the row)."""
    return Counter((f"{kind}/{row.get('source', '-')}", json.dumps(row, sort_keys=True)) for row in read_lines(path))


def _scores(old: Mapping[str, Evidence], new: Mapping[str, Evidence], policy: Mapping[str, Any]) -> dict[str, Any]:
    """Per suite both scores and the bounds of their difference, by the gate's test, on the items that both were asked and neither was
    trained on; `unknown` says why there are none."""
    found: dict[str, Any] = {}
    for suite in sorted(old.keys() & new.keys()):
        before, after = old[suite], new[suite]
        both, margin = matched(after, before), (policy["suites"].get(suite) or {}).get("margin", OTHERS_MARGIN)
        pairs = both.pairs
        if not pairs:
            found[suite] = {"unknown": after.unreadable or before.unreadable or "no item was scored twice that no training text held"}
            continue
        lower, upper = both.test(margin).bounds(policy["alpha"])
        ours, theirs = both.values()
        found[suite] = {
            "before": theirs,
            "after": ours,
            "target": after.target,
            "lower": lower,
            "upper": upper,
            "n": len(pairs),
            "items": len((after.scores or {}).keys() & (before.scores or {}).keys()),
            "gained": sum(one > other for one, other in pairs),
            "lost": sum(one < other for one, other in pairs),
            "comparable": before.identity == after.identity,
        }
    return found


def _flips(
    old: Mapping[str, list[dict[str, Any]]], new: Mapping[str, list[dict[str, Any]]], evidence: Sequence[Mapping[str, Evidence]]
) -> dict[str, list[dict[str, Any]]]:
    """By suite the items that only one of the two gets right, or more of, with both answers and whether training text held them; never a
    question's text."""
    found = {}
    for suite in sorted(old.keys() & new.keys()):
        theirs = {item["id"]: item for item in old[suite]}
        leaked = {item for side in evidence for item in side[suite].contaminated}
        found[suite] = [
            {
                "id": now["id"],
                "change": "gained" if now["score"] > theirs[now["id"]]["score"] else "lost",
                "leaked": now["id"] in leaked,
                "before": answer(theirs[now["id"]]),
                "after": answer(now),
            }
            for now in new[suite]
            if now["id"] in theirs and theirs[now["id"]]["score"] != now["score"]
        ]
    return found


def describe_lineage(found: Mapping[str, Any]) -> Iterator[str]:
    """The same for people, a line a fact."""
    yield f"version     {found['version']} ({', '.join(found['aliases']) or 'no alias'}), md5 {found['model_md5']}"
    yield f"known by    {found['known_by']}"
    yield f"code        {found['git_commit'] or 'outside git'}"
    yield f"params      md5 {found['params_md5']}; " + ", ".join(f"{key} {value}" for key, value in found["seeds"].items())
    yield f"environment md5 {found['environment_md5']} (requirements.lock)"
    yield from (f"identity    {identity.words(one)}" for one in found["identities"])
    for path, md5 in sorted(found["data"].items()):
        yield f"data        {md5}  {path}"
    for path, md5 in sorted(found["suites"].items()):
        yield f"suite       {md5}  {path}"
    parents = found["parents"]
    stood = [parents["pretrained_resolved"], parents["pretrained_md5"] and f"md5 {parents['pretrained_md5']}"]
    known = f" ({', '.join(filter(None, stood))})" if any(stood) else ""
    yield f"parents     from {parents['pretrained'] or 'scratch'}{known}; compared with {parents['champion'] or 'no champion'}"
    yield f"runs        MLflow {found['runs']['pipeline']}, Prefect {found['runs']['prefect_flow_run']}"
    for suite, score in found["scores"].items():
        yield f"score       {suite} {tables.score_text(score)}"
    for said in reversed(found["decisions"]):
        yield f"decision    {said['sequence']}: {said['verdict']} by {said['by']}: {said['reason']} (run {said['run_id']})"


def describe_diff(found: Mapping[str, Any]) -> Iterator[str]:
    """The same for people; long lists of flips are cut, --json has them all."""
    old, new = found["versions"]
    yield f"from version {old} to {new}"
    yield from _section("pretrained", found["pretrained"], _both)
    yield from _section("data", found["data"], _row_counts)
    yield from _section("params", found["params"], _both)
    yield from _section("environment", found["environment"], _both)
    yield from _section("code", dict.fromkeys(found["code"], "changed"), str)
    for suite, score in found["scores"].items():
        yield f"score       {suite}: {_difference(score)}"
    for suite, flips in found["flips"].items():
        gained, leaked = sum(flip["change"] == "gained" for flip in flips), sum(flip["leaked"] for flip in flips)
        yield f"flips       {suite}: {gained} gained, {len(flips) - gained} lost" + (f", {leaked} of them leaked" if leaked else "")
        for flip in flips[:SHOWN_FLIPS]:
            yield f"  {flip['change']:6}  {flip['id']}: {flip['before']!r} -> {flip['after']!r}" + (" (leaked)" if flip["leaked"] else "")
        if len(flips) > SHOWN_FLIPS:
            yield f"  and {len(flips) - SHOWN_FLIPS} more: --json lists them all"


def _difference(score: Mapping[str, Any]) -> str:
    if "unknown" in score:
        return str(score["unknown"])
    target = "" if score["target"] is None else f" (target {score['target']:g})"
    otherwise = "" if score["comparable"] else "; scored otherwise, not comparable"
    interval = f"{score['lower']:+.3f} to {score['upper']:+.3f} on {score['n']} clean items of {score['items']}{otherwise}"
    return f"{score['before']:.3f} -> {score['after']:.3f}{target}, difference {interval}"


def _row_counts(rows: Any) -> str:
    return rows if isinstance(rows, str) else f"+{rows['added']} -{rows['removed']} rows"


def _both(values: Any) -> str:
    return f"{values[0]} -> {values[1]}"


def _section(name: str, values: Mapping[str, Any], text: Callable[[Any], str]) -> Iterator[str]:
    if not values:
        yield f"{name:11} unchanged"
    for key, value in values.items():
        yield f"{name:11} {key}: {text(value)}"
