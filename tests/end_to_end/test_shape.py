"""A pipeline whose user took stages out and put one in twice: everything follows, by editing YAML alone."""

import json
import shutil

import pytest

from models.core.records import folder_md5, read_lines, write_lines
from tests.shapes import edit, only_sft, polished
from tests.workspaces import copy_of, make_workspace, run


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


@pytest.mark.slow
def test_a_team_with_documents_and_conversations_of_its_own_reaches_a_champion(finished, tmp_path):
    """Their files lie in data/raw, their suites beside them; preferences and prompts they have none."""
    workspace, raw = make_workspace(tmp_path / "sluice"), tmp_path / "sluice" / "data" / "raw"
    only_sft(workspace)
    edit(workspace, "params.yaml", lambda values: values["sources"].update(records={"take": "files"}))
    for kind in ("documents", "instructions"):
        write_lines(raw / f"{kind}.jsonl", read_lines(finished / "artifacts" / "records" / f"{kind}.jsonl"))
    shutil.copytree(finished / "artifacts" / "suites", raw / "suites")
    done = run(workspace, "sluice", "run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "version   1 (champion)" in done.stdout
    [line] = json.loads(run(workspace, "sluice", "history", "--json").stdout)
    assert (line["version"], line["verdict"]) == ("1", "promote")
    assert run(workspace, "sluice", "verify", "1").returncode == 0
