"""A pipeline whose user took stages out and put one in twice: everything follows, by editing YAML alone."""

import json

import pytest

from models.core.records import folder_md5
from tests.shapes import polished
from tests.workspaces import copy_of, run


@pytest.mark.slow
def test_a_pipeline_without_rewards_that_fine_tunes_twice_reaches_the_gate(finished, tmp_path):
    workspace = copy_of(finished, tmp_path / "sluice")
    polished(workspace)
    done = run(workspace, "sluice", "run")
    assert done.returncode in (0, 3), done.stdout + done.stderr
    status = json.loads(run(workspace, "sluice", "status", "--json").stdout)
    ran = {stage["name"] for stage in status["last_run"]["stages"] if stage["state"] == "ran"}
    assert ran == {"polish"} | {f"benchmark@polish-{suite}" for suite in ("mmlu-mini", "gpqa-mini", "humaneval-mini")}
    found = json.loads(run(workspace, "sluice", "lineage", "2", "--json").stdout)
    assert found["model_md5"] == folder_md5(workspace / "artifacts" / "polish")
    assert "polish" in found["runs"]["stages"]
    assert json.loads(run(workspace, "sluice", "history", "--json").stdout)[0]["version"] == "2"
    changed = json.loads(run(workspace, "sluice", "diff", "1", "2", "--json").stdout)
    assert changed["params"]["candidate"] == ["rlhf", "polish"]
    assert run(workspace, "dvc", "status").stdout.strip() == "Data and pipelines are up to date."
