"""A champion whose evidence is out of date is scored again by the real commands: once, on record, and the record is otherwise as it was."""

import json

import pytest

from flows.cli import main
from flows.host.tracking import PIPELINE, Tracker
from flows.host.workspace import Workspace, prepare_environment
from flows.registry import record, release
from flows.registry.decisions import Registry
from flows.stages.session import Session
from models.core.files import read_json, write_json
from tests.candidates import offer
from tests.workspaces import copy_of

RIGHT = {"mmlu-mini": 0.9, "gpqa-mini": 0.9, "humaneval-mini": 0.75}
OLDER = "artifacts/benchmark/rlhf-mmlu-mini/evidence.json"


@pytest.fixture
def registry(finished, tmp_path, monkeypatch):
    """Of a workspace whose champion, version 2, was scored on mmlu-mini by another harness than the candidate at hand."""
    folder = copy_of(finished, tmp_path / "sluice")
    facts = read_json(folder / OLDER, {})
    offer(folder, 1, RIGHT)
    write_json(folder / OLDER, {**read_json(folder / OLDER, {}), "harness": "older"})
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLUICE_SLOTS", str(folder / ".sluice" / "slots"))  # whoever else uses this machine's devices is not waited for
    prepare_environment(Workspace(folder))
    monkeypatch.chdir(folder)
    session = Session.reading(Workspace(folder))
    found = Registry(Tracker(session.workspace, session.model))
    found.promote(release.register(session.pipeline, found.tracker, session.params, None), "1", "manual", "by hand")
    write_json(folder / OLDER, facts)
    offer(folder, 2, RIGHT)
    return found


@pytest.mark.slow
def test_a_champion_is_scored_again_once_and_on_record(registry, capsys):
    said = []
    for _ in range(2):
        assert main.run_command(["gate", "--json"]) in (0, 3)
        said.append(json.loads(capsys.readouterr().out))
        newest, *others = record.read(registry.tracker).runs
        assert newest.data.tags["sluice.verdict"] == record.RESCORED
        assert newest.data.tags["sluice.version"] == "2"
        assert len(registry.tracker.runs(PIPELINE, "attributes.run_name = 'rebaseline 2 mmlu-mini'")) == 1
        assert all(map(record.decides, others))
    assert said[0] == said[1]
    [suite] = [suite for suite in said[0]["suites"] if suite["suite"] == "mmlu-mini"]
    assert suite["verdict"] != "invalid", suite
    assert [entry["verdict"] for entry in registry.history()] == ["manual", "promote"]
    assert registry.audit() == []
    assert registry.rollback("as it was") == ("2", "1")
