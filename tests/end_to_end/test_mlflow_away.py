"""MLflow's server dies while a retraining trains, registers or promotes: nothing is trained twice, nothing lost, nothing left open."""

import json
import sqlite3
import time

import pytest

from tests.end_to_end.test_servers import new_learning_rate
from tests.mlflow_server import Server, begin
from tests.workspaces import copy_of, run


@pytest.fixture(scope="module")
def served(finished, tmp_path_factory):
    """A finished workspace whose MLflow is a server on its own database."""
    workspace = copy_of(finished, tmp_path_factory.mktemp("away") / "sluice")
    server = Server(workspace)
    server.start()
    yield workspace, server
    server.kill()


def ask(workspace, query):
    with sqlite3.connect(f"file:{workspace / '.sluice' / 'mlflow.db'}?mode=ro", uri=True) as store:
        return store.execute(query).fetchall()


REACHED = {
    "rlhf": lambda workspace: ask(workspace, "select 1 from runs where name = 'rlhf' and status = 'RUNNING'"),
    "register": lambda workspace: ask(workspace, "select 1 from runs where name = 'register' and status = 'RUNNING'"),
    "promote": lambda workspace: ask(
        workspace,
        "select 1 from runs join experiments using (experiment_id) where experiments.name = 'assistant/promotions' and status = 'RUNNING'",
    ),
}


def rlhf_runs(workspace):
    return ask(workspace, "select run_uuid from runs where name = 'rlhf' and status = 'FINISHED' and lifecycle_stage = 'active'")


@pytest.mark.slow
@pytest.mark.parametrize("moment", REACHED)
def test_a_retraining_beside_which_mlflow_dies_ends_in_one_line_and_the_next_trains_nothing(served, moment):
    workspace, server = served
    before = len(rlhf_runs(workspace))
    new_learning_rate(workspace)
    first = begin(workspace, "sluice", "run", MLFLOW_TRACKING_URI=server.uri)
    deadline = time.monotonic() + 240
    while not REACHED[moment](workspace) and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    server.kill()
    said, _ = first.communicate(timeout=400)
    assert first.returncode == 1, said
    assert "Traceback" not in said
    assert said.strip().splitlines()[-1].startswith("sluice: ")
    assert "does not answer" in said
    assert run(workspace, "dvc", "status").stdout.strip() == "Data and pipelines are up to date."
    server.start()
    done = run(workspace, "sluice", "run", MLFLOW_TRACKING_URI=server.uri)
    assert done.returncode in (0, 3), done.stdout + done.stderr
    found = json.loads(run(workspace, "sluice", "status", "--json", MLFLOW_TRACKING_URI=server.uri).stdout)
    assert {stage["state"] for stage in found["last_run"]["stages"]} == {"unchanged"}
    assert found["waiting"] == []
    assert ask(workspace, "select name from runs where status = 'RUNNING'") == []
    assert len(rlhf_runs(workspace)) == before + 1
    audit = run(workspace, "sluice", "audit", MLFLOW_TRACKING_URI=server.uri)
    assert audit.returncode == 0, audit.stdout
