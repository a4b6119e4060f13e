"""A mended docstring does not train again: accepted on record in a workspace that ran, and told of whatever is made from there on."""

import json

import pytest

from tests.candidates import offer
from tests.refusals import BETTER, change_params
from tests.shapes import edit
from tests.workspaces import call, copy_of, git, run, snapshot

pytestmark = pytest.mark.long


@pytest.fixture
def workspace(finished, tmp_path):
    return copy_of(finished, tmp_path / "sluice")


def mend(workspace):
    """Mend the docstring of a file that every stage depends on."""
    path = workspace / "models" / "core" / "errors.py"
    path.write_text(path.read_text().replace("Every failure that Sluice names.", "Every failure which Sluice names."))
    git(workspace, "commit", "-qam", "a docstring")


def stages(workspace):
    """The state of each stage."""
    return {row["name"]: row["state"] for row in json.loads(call(workspace, "stages", "--json").stdout)}


def states(workspace):
    return set(stages(workspace).values())


def lineage(workspace, version):
    return json.loads(call(workspace, "lineage", version, "--json").stdout)


def newest(workspace):
    """The last decision on record."""
    return json.loads(call(workspace, "history", "--json").stdout)[0]


def accept(workspace):
    return call(workspace, "stages", "--accept", "a docstring was mended")


@pytest.fixture(scope="module")
def later(finished, tmp_path_factory):
    """(workspace, run, what the original stored): that was accepted there, and a candidate of another learning rate is not good enough."""
    stored = snapshot(finished / ".sluice" / "mlartifacts")
    workspace = copy_of(finished, tmp_path_factory.mktemp("later") / "sluice")
    mend(workspace)
    assert accept(workspace).returncode == 0
    edit(workspace, "params.yaml", lambda values: values["rlhf"].update(learning_rate=0.0002))
    assert {name for name, state in stages(workspace).items() if state == "changed"} == {
        name for name in stages(workspace) if name in ("rlhf", "samples@rlhf") or name.startswith("benchmark@rlhf")
    }
    offer(workspace, 2, {"mmlu-mini": 0.25, "gpqa-mini": 0.25, "humaneval-mini": 0.0})
    change_params(workspace, BETTER)
    assert run(workspace, "dvc", "commit", "--force", "--quiet").returncode == 0
    return workspace, run(workspace, "sluice", "run"), stored


@pytest.mark.slow
def test_a_run_whose_candidate_is_refused_ends_with_exit_code_3_and_has_it_on_record(later, finished):
    workspace, done, stored = later
    assert done.returncode == 3, done.stdout + done.stderr
    assert "nothing changed: no stage has to run" in done.stdout
    found = newest(workspace)
    assert (found["version"], found["alias"], found["verdict"]) == ("2", None, "refuse")
    assert f"sluice: the gate said refuse: {found['reason']}" in done.stderr
    assert json.loads(call(workspace, "status", "--json").stdout)["aliases"] == {"champion": "1"}
    told = json.loads(call(workspace, "report", "--json").stdout)
    assert (told["verdict"]["decision"], told["verdict"]["version"], told["verdict"]["champion"]) == ("refuse", "2", "1")
    assert told["champion"]["answers"]["rlhf"], "the champion's answers stand beside the candidate's"
    assert snapshot(finished / ".sluice" / "mlartifacts") == stored  # what a copy registers stays with it


def test_a_mended_docstring_is_accepted_and_nothing_is_to_run(workspace):
    mend(workspace)
    assert states(workspace) == {"changed"}
    done = accept(workspace)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("accepted: sources, ")
    assert states(workspace) == {"unchanged"}
    found = newest(workspace)
    assert (found["verdict"], found["reason"]) == ("identity", "a docstring was mended")
    assert "1 of them kept results that were not made again" in call(workspace, "audit").stdout


@pytest.mark.slow
def test_a_version_before_it_and_one_after_it_say_what_was_accepted(later):
    workspace, *_ = later
    first, second = lineage(workspace, "1"), lineage(workspace, "2")
    [since], [accepted] = first["identities"], second["identities"]
    assert since["since"]
    assert "rlhf" in since["stages"]
    assert not accepted["since"]
    assert "sft" in accepted["stages"]
    assert "rlhf" not in accepted["stages"]
    assert second["runs"]["stages"]["sft"] == first["runs"]["stages"]["sft"]
    for version, told in (("1", False), ("2", True)):
        verified = call(workspace, "verify", version)
        assert verified.returncode == 0, verified.stdout + verified.stderr
        assert ("ok  identity" in verified.stdout) is told


@pytest.mark.slow
def test_a_mended_docstring_is_accepted_and_a_version_trained_later_says_so(workspace):
    mend(workspace)
    assert states(workspace) == {"changed"}
    done = run(workspace, "sluice", "stages", "--accept", "a docstring was mended")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("accepted: sources, ")
    assert states(workspace) == {"unchanged"}
    assert "to run: nothing" in run(workspace, "sluice", "run").stdout
    newest = json.loads(run(workspace, "sluice", "history", "--json").stdout)[0]
    assert (newest["verdict"], newest["reason"]) == ("identity", "a docstring was mended")
    assert "1 of them kept results that were not made again" in run(workspace, "sluice", "audit").stdout
    [first] = lineage(workspace, "1")["identities"]
    assert first["since"]
    assert "rlhf" in first["stages"]

    edit(workspace, "params.yaml", lambda values: values["rlhf"].update(learning_rate=0.0002))
    ran = run(workspace, "sluice", "run")
    assert "to run: rlhf, " in ran.stdout, ran.stdout + ran.stderr
    second = lineage(workspace, "2")
    [accepted] = second["identities"]
    assert not accepted["since"]
    assert "sft" in accepted["stages"]
    assert "rlhf" not in accepted["stages"]
    assert second["runs"]["stages"]["sft"] == lineage(workspace, "1")["runs"]["stages"]["sft"]
    for version, told in (("1", False), ("2", True)):
        verified = run(workspace, "sluice", "verify", version)
        assert verified.returncode == 0, verified.stdout + verified.stderr
        assert ("ok  identity" in verified.stdout) is told


@pytest.mark.slow
def test_where_params_changed_too_the_command_line_refuses_in_a_line(workspace):
    mend(workspace)
    edit(workspace, "params.yaml", lambda values: values["sft"].update(learning_rate=0.0002))
    before = (workspace / "dvc.lock").read_bytes()
    done = run(workspace, "sluice", "stages", "--accept", "a docstring was mended")
    assert done.returncode == 2
    assert "stage 'sft' is not changed by code or packages alone (dep params.yaml (sft modified))" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (workspace / "dvc.lock").read_bytes() == before
