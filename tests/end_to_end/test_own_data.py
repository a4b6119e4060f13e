"""The recipes of a team's own data, one after another in one workspace, at nano size: to a champion by commands and YAML alone."""

import csv
import json

import pytest

from models.core.files import write_lines
from models.world import world
from tests.shapes import shrunk
from tests.tiny import tiny_model
from tests.workspaces import call, git, make_workspace, run

SIZE = world.Size(
    people=16,
    towns=8,
    people_documents=60,
    town_documents=20,
    answer_documents=20,
    sum_documents=20,
    code_documents=20,
    fact_conversations=40,
    code_conversations=10,
    open_conversations=10,
    preferences=60,
    items=20,
    dirt=0,
)


def sluice(workspace, *words):
    """What a command that starts no stage prints."""
    done = call(workspace, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def quiz(path):
    """Sixty questions with four choices each, as a team writes them."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["question", "A", "B", "C", "D", "correct", "topic"])
        rows.writerows([f"Which one is number {place}?", "red", "green", "blue", "grey", "abcd"[place % 4], "desk"] for place in range(60))
    return path


def last_run(workspace):
    """The stages that the last run ran."""
    stages = json.loads(sluice(workspace, "status", "--json"))["last_run"]["stages"]
    return {stage["name"] for stage in stages if stage["state"] == "ran"}


def retrain(workspace, recipe, base):
    """Take the recipe at nano size, and run it; return the verdict on its version."""
    sluice(workspace, "recipe", "use", recipe)
    shrunk(workspace, str(base))
    sluice(workspace, "suite", "use", "desk", "--margin", "0.35")
    git(workspace, "add", "-A")
    git(workspace, "commit", "-qm", recipe)
    done = run(workspace, "sluice", "run")
    assert done.returncode in (0, 3), done.stdout + done.stderr
    return json.loads(sluice(workspace, "history", "--json"))[0]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture
def mine(tmp_path):
    """(workspace, folder of records): conversations and a quiz are in the workspace, nothing ran."""
    workspace, mine = make_workspace(tmp_path / "sluice", recipe=""), tmp_path / "mine"
    for kind, records in world.generate(5, SIZE, ())[0].items():
        write_lines(mine / f"{kind}.jsonl", records)
    sluice(workspace, "import", str(mine / "instructions.jsonl"))
    sluice(workspace, "suite", "new", "desk", "--from", str(quiz(tmp_path / "quiz.csv")))
    return workspace, mine


@pytest.mark.slow
def test_a_team_with_its_own_data_reaches_a_champion(mine, base):
    workspace, _ = mine
    first = retrain(workspace, "sft", base)
    assert (first["version"], first["verdict"]) == ("1", "promote")
    assert last_run(workspace) == {
        *("sources", "validate", "prepare", "contamination", "tokenizer", "base", "sft"),
        *("benchmark@base-desk", "benchmark@sft-desk", "questions", "samples@base", "samples@sft"),
    }


@pytest.mark.slow
def test_and_goes_on_to_dpo_to_its_documents_and_to_a_soup_of_three(mine, base):
    workspace, records = mine
    assert retrain(workspace, "sft", base)["version"] == "1"

    sluice(workspace, "import", str(records / "preferences.jsonl"))
    assert retrain(workspace, "dpo", base)["version"] == "2"
    assert {"preference", "benchmark@preference-desk"} <= last_run(workspace)
    assert not {"tokenizer", "base", "sft", "benchmark@sft-desk"} & last_run(workspace)
    found = json.loads(sluice(workspace, "lineage", "2", "--json"))
    assert "preference" in found["runs"]["stages"]
    assert "artifacts/prepared/preferences" in found["data"]

    sluice(workspace, "import", str(records / "documents.jsonl"))
    assert retrain(workspace, "continue", base)["version"] == "3"
    assert json.loads((workspace / "metrics" / "base.json").read_text())["training_tokens"] > 0
    found = json.loads(sluice(workspace, "lineage", "3", "--json"))
    assert "artifacts/prepared/documents" in found["data"]
    assert "artifacts/prepared/preferences" not in found["data"]
    assert "preference" not in found["runs"]["stages"]
    changed = json.loads(sluice(workspace, "diff", "2", "3", "--json"))
    assert changed["params"]["candidate"] == ["preference", "sft"]

    assert retrain(workspace, "soup", base)["version"] == "4"
    assert {"sft-2", "sft-3", "soup", "benchmark@soup-desk"} <= last_run(workspace)
    metrics = json.loads((workspace / "metrics" / "soup.json").read_text())
    assert metrics["taken"] == list(metrics["held_out_losses"]) == ["first", "second", "third"]
    assert len(set(metrics["held_out_losses"].values())) == 3
    found = json.loads(sluice(workspace, "lineage", "4", "--json"))
    assert {"sft", "sft-2", "sft-3", "soup"} <= found["runs"]["stages"].keys()
    assert run(workspace, "dvc", "status").stdout.strip() == "Data and pipelines are up to date."
    assert run(workspace, "sluice", "verify", "4").returncode == 0
