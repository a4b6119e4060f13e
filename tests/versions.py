"""Registered versions without a training: their files in a real SQLite store, as `sluice` would have put them there."""

import json
import urllib.parse
import urllib.request
from pathlib import Path

from flows.host.tracking import PIPELINE
from flows.registry import record
from flows.registry.decisions import Registry
from flows.registry.record import FILES
from flows.registry.versions import file_md5
from models.core.content import folder_md5
from models.core.files import write_json, write_lines

PARAMS = "suites: [quiz]\ngate: {alpha: 0.05, suites: {quiz: {margin: 0.1}}}\nseed: 1\n"
LOCK = "schema: '2.0'\nstages: {}\n"


def add_version(registry: Registry, scores, leaked=(), params=PARAMS, lock=LOCK, model=None, commit="0" * 40, **facts):
    """Add a version that got `scores` ({item: score}) on suite quiz, of which `leaked` items stood in its training text; return it."""
    if registry.tracker.registered_model() is None:
        registry.client.create_registered_model(registry.name)
    run_id = registry.tracker.start(PIPELINE, "register", {})
    stored = files_of(registry, run_id)
    if model is None:
        write_json(stored / "logged" / "model" / "config.json", {"of": run_id})
    else:
        (stored / "logged").mkdir()
        model.rename(stored / "logged" / "model")
    write_json(stored / "logged" / "MLmodel", {})
    model_md5 = folder_md5(stored / "logged" / "model")
    items = [{"id": item, "subject": "", "score": score, "flags": [], "response": f"{item} {score}"} for item, score in scores.items()]
    write_lines(stored / "evidence" / "quiz" / "items.jsonl", items)
    write_json(stored / "evidence" / "quiz" / "evidence.json", {"chance": 0.0, "model_md5": model_md5, "items": len(items), **facts})
    write_lines(stored / "contamination" / "quiz.jsonl", [{"id": item, "where": ["documents/forum"]} for item in leaked])
    for name, text in {"params.yaml": params, "dvc.lock": lock, "requirements.lock": "numpy==1.0\n"}.items():
        (stored / "provenance").mkdir(exist_ok=True)
        (stored / "provenance" / name).write_text(text, encoding="utf-8")
    registry.tracker.end(run_id, "FINISHED")
    tags = {"git.commit": commit, "sluice.scores": json.dumps({"quiz": {"value": 1.0, "stderr": None, "n": 1}})} | md5s(registry, run_id)
    uri = (stored / "logged").as_uri()
    return registry.client.create_model_version(registry.name, uri, run_id, tags={**tags, "sluice.model_md5": model_md5})


def files_of(registry: Registry, run_id: str) -> Path:
    """Where a run's artifacts lie."""
    uri = registry.client.get_run(run_id).info.artifact_uri
    found = Path(urllib.request.url2pathname(urllib.parse.urlparse(uri).path))
    found.mkdir(parents=True, exist_ok=True)
    return found


def md5s(registry: Registry, run_id: str) -> dict[str, str]:
    """The tags that name what a run's files are now."""
    stored = files_of(registry, run_id)
    found = {
        f"sluice.{key}": file_md5(stored / "provenance" / name) for name, key in FILES.items() if (stored / "provenance" / name).is_file()
    }
    return {**found, "sluice.evidence_md5": registry._evidence_md5(run_id)}


def doctor(registry: Registry, version, path: str, text: str, tags: bool = True) -> None:
    """Overwrite one of a version's stored files, and make its tags fit again, as somebody would who may change both."""
    (files_of(registry, version.run_id) / path).write_text(text, encoding="utf-8")
    if tags:
        for key, value in md5s(registry, version.run_id).items():
            registry.client.set_model_version_tag(registry.name, version.version, key, value)


def record_of(registry: Registry, version) -> str:
    """The id of the first record about a version."""
    return next(
        run.info.run_id for run in reversed(record.read(registry.tracker).runs) if run.data.tags["sluice.version"] == str(version.version)
    )
