"""A mended docstring does not train again: accepted on record in a workspace that ran, and told of whatever is made from there on."""

import json

import pytest

from tests.shapes import edit
from tests.workspaces import copy_of, git, run

pytestmark = pytest.mark.long


@pytest.fixture
def workspace(finished, tmp_path):
    return copy_of(finished, tmp_path / "sluice")


def mend(workspace):
    """Mend the docstring of a file that every stage depends on."""
    path = workspace / "models" / "core" / "errors.py"
    path.write_text(path.read_text().replace("Every failure that Sluice names.", "Every failure which Sluice names."))
    git(workspace, "commit", "-qam", "a docstring")


def states(workspace):
    return {row["state"] for row in json.loads(run(workspace, "sluice", "stages", "--json").stdout)}


def lineage(workspace, version):
    return json.loads(run(workspace, "sluice", "lineage", version, "--json").stdout)


def test_a_mended_docstring_is_accepted_and_a_later_version_says_so(workspace):
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


def test_where_params_changed_too_the_command_line_refuses_in_a_line(workspace):
    mend(workspace)
    edit(workspace, "params.yaml", lambda values: values["sft"].update(learning_rate=0.0002))
    before = (workspace / "dvc.lock").read_bytes()
    done = run(workspace, "sluice", "stages", "--accept", "a docstring was mended")
    assert done.returncode == 2
    assert "stage 'sft' is not changed by code or packages alone (dep params.yaml (sft modified))" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (workspace / "dvc.lock").read_bytes() == before
