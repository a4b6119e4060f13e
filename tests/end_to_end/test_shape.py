"""A pipeline whose user took stages out and put one in twice: everything follows, by editing YAML alone."""

import json
import re
import shutil

import pytest

from models.core.content import folder_md5
from models.core.files import write_lines
from models.core.given import read_lines
from tests.shapes import edit, only_sft, polished
from tests.tiny import method_of
from tests.workspaces import ROOT, copy_of, git, make_workspace, run


@pytest.mark.slow
def test_a_pipeline_without_rewards_that_fine_tunes_twice_reaches_the_gate(finished, tmp_path):
    workspace = copy_of(finished, tmp_path / "sluice")
    polished(workspace)
    done = run(workspace, "sluice", "run")
    assert done.returncode in (0, 3), done.stdout + done.stderr
    status = json.loads(run(workspace, "sluice", "status", "--json").stdout)
    ran = {stage["name"] for stage in status["last_run"]["stages"] if stage["state"] == "ran"}
    assert ran == {"polish", "samples@polish"} | {f"benchmark@polish-{suite}" for suite in ("mmlu-mini", "gpqa-mini", "humaneval-mini")}
    found = json.loads(run(workspace, "sluice", "lineage", "2", "--json").stdout)
    assert found["model_md5"] == folder_md5(workspace / "artifacts" / "polish")
    assert "polish" in found["runs"]["stages"]
    assert json.loads(run(workspace, "sluice", "history", "--json").stdout)[0]["version"] == "2"
    changed = json.loads(run(workspace, "sluice", "diff", "1", "2", "--json").stdout)
    assert changed["params"]["candidate"] == ["rlhf", "polish"]
    assert run(workspace, "dvc", "status").stdout.strip() == "Data and pipelines are up to date."


def block(page, opening):
    """The code on a page of docs that begins so."""
    [found] = [code for code in re.findall(r"```\w+\n(.*?)```", (ROOT / "docs" / page).read_text(), re.S) if code.startswith(opening)]
    return found


@pytest.mark.slow
def test_the_phase_of_ones_own_that_the_docs_show_is_trained_scored_and_gated(finished, tmp_path):
    workspace = copy_of(finished, tmp_path / "sluice")
    (workspace / "tasks" / "average.py").write_text(block("bring-your-own.md", "# tasks/average.py\n"))
    with (workspace / "dvc.yaml").open("a") as file:
        file.write("\n" + block("bring-your-own.md", "  average:\n"))
    edit(workspace, "params.yaml", lambda values: values.update(average={"share": 0.5}, models=["sft", "average"], candidate="average"))
    assert run(workspace, "python", "-m", "flows.stages.wiring").returncode == 0
    git(workspace, "add", "-A")
    git(workspace, "commit", "-qm", "a phase of our own")
    done = run(workspace, "sluice", "run")
    assert done.returncode in (0, 3), done.stdout + done.stderr
    status = json.loads(run(workspace, "sluice", "status", "--json").stdout)
    ran = {stage["name"] for stage in status["last_run"]["stages"] if stage["state"] == "ran"}
    assert ran == {"average", "samples@average"} | {f"benchmark@average-{suite}" for suite in ("mmlu-mini", "gpqa-mini", "humaneval-mini")}
    assert json.loads((workspace / "metrics" / "average.json").read_text())["moved"] > 0
    assert run(workspace, "sluice", "verify", "2").returncode == 0


@pytest.mark.slow
def test_the_second_fine_tuning_that_the_docs_show_is_wired(finished, tmp_path):
    workspace = copy_of(finished, tmp_path / "sluice")
    with (workspace / "dvc.yaml").open("a") as file:
        file.write("\n" + block("bring-your-own.md", "  polish:\n"))
    edit(workspace, "params.yaml", lambda values: values.update(polish=values["sft"], models=["sft", "polish"], candidate="polish"))
    assert run(workspace, "python", "-m", "flows.stages.wiring").returncode == 0
    rows = {row["name"]: row["state"] for row in json.loads(run(workspace, "sluice", "stages", "--json").stdout)}
    assert {name for name, state in rows.items() if state == "changed"} == {
        "polish",
        "samples@polish",
        *(f"benchmark@polish-{suite}" for suite in ("mmlu-mini", "gpqa-mini", "humaneval-mini")),
    }


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


@pytest.mark.slow
def test_the_reward_of_ones_own_that_the_docs_show_trains_by_ppo_and_a_change_of_it_trains_again(finished, tmp_path):
    workspace = copy_of(finished, tmp_path / "sluice")
    own = workspace / "mine" / "rewards.py"
    own.parent.mkdir()
    own.write_text(block("training.md", "# mine/rewards.py"))
    polite = {"take": "function", "weight": 1.0, "function": "mine.rewards:polite"}

    def with_it(values):
        values["rlhf"]["rewards"] = {"polite": polite, "short": {"take": "length", "weight": 0.1, "words": 5}}
        values["rlhf"]["method"] = method_of("ppo")

    edit(workspace, "params.yaml", with_it)
    done = run(workspace, "sluice", "run")
    assert (done.returncode, "mine/rewards.py, which is no dep of rlhf" in done.stderr) == (2, True), done.stderr

    edit(workspace, "dvc.yaml", lambda values: values["stages"]["rlhf"]["deps"].append("mine/rewards.py"))
    git(workspace, "add", "-A")
    git(workspace, "commit", "-qm", "a reward of our own")
    done = run(workspace, "sluice", "run")
    assert done.returncode in (0, 3), done.stdout + done.stderr
    assert "to run: rlhf, " in done.stdout
    metrics = json.loads((workspace / "metrics" / "rlhf.json").read_text())
    assert metrics["gains"].keys() == {"polite", "short"}
    header = (workspace / "artifacts" / "curves" / "rlhf.csv").read_text().partition("\n")[0].split(",")
    assert {"reward_polite", "reward_short", "value_loss", "length_correlation"} <= set(header)
    assert run(workspace, "sluice", "verify", "2").returncode == 0

    own.write_text(own.read_text().replace("please", "thank you"))
    states = {row["name"]: row["state"] for row in json.loads(run(workspace, "sluice", "stages", "--json").stdout)}
    assert states["rlhf"] == "changed"
    assert states["reward"] == "unchanged"
