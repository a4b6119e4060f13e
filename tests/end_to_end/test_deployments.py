"""The deployments of prefect.yaml on a real server with a real process worker: a run, and a person's decision that outlives a restart."""

import json
import shutil
import subprocess
import time

import pytest

from tests.candidates import offer
from tests.workspaces import PROGRAMS, copy_of, environment, run

PATIENCE_S = 240


@pytest.fixture(scope="module")
def deployed(finished, tmp_path_factory):
    """A finished workspace with two more versions, not decided about yet, servers, deployments, and a worker."""
    workspace = copy_of(finished, tmp_path_factory.mktemp("deployed") / "sluice")
    for number in (2, 3):
        register(workspace, number)
    shutil.rmtree(workspace / "artifacts")
    shutil.copytree(finished / "artifacts", workspace / "artifacts")
    urls = dict(line.split() for line in run(workspace, "sluice", "up").stdout.splitlines())
    team = {
        "PREFECT_API_URL": f"{urls['prefect']}/api",
        "MLFLOW_TRACKING_URI": urls["mlflow"],
        "PREFECT_HOME": str(workspace / ".sluice" / "prefect"),
    }
    worker = None
    try:
        made = run(workspace, "prefect", "work-pool", "create", "cpu", "--type", "process", **team)
        assert made.returncode == 0, made.stderr
        done = run(workspace, "prefect", "--no-prompt", "deploy", "--all", **team)
        assert done.returncode == 0, done.stdout + done.stderr
        worker = subprocess.Popen(
            [str(PROGRAMS / "prefect"), "worker", "start", "--pool", "cpu"],
            cwd=workspace,
            env=environment(workspace, SLUICE_CHECKOUT=str(workspace), **team),
            stdout=(workspace / "worker.txt").open("w"),
            stderr=subprocess.STDOUT,
        )
        yield workspace, team
    finally:
        if worker:
            worker.terminate()
            worker.wait(30)
        run(workspace, "sluice", "down")


def register(workspace, number):
    """Register another model with its evidence, as a retraining does."""
    offer(workspace, number, {"mmlu-mini": 0.5, "gpqa-mini": 0.5, "humaneval-mini": 0.5})
    done = run(workspace, "sluice", "register")
    assert json.loads(done.stdout.splitlines()[-1]) == {"version": str(number)}, done.stderr


CLIENT = """
import json, sys
from prefect.client.orchestration import get_client
with get_client(sync_client=True) as client:
    if sys.argv[1] == "resume":
        client.resume_flow_run(sys.argv[2], run_input=json.loads(sys.argv[3]))
    else:
        state = client.read_flow_run(sys.argv[2]).state
        print(json.dumps([state.type.value, state.name, state.message]))
"""


def started(workspace, team, deployment, *params):
    done = run(workspace, "prefect", "deployment", "run", deployment, *params, **team)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(word for line in done.stdout.splitlines() if "UUID" in line for word in line.split() if word.count("-") == 4)


def wait_for(workspace, team, flow_run, *names):
    deadline, state = time.monotonic() + PATIENCE_S, None
    while time.monotonic() < deadline:
        done = run(workspace, "python", "-c", CLIENT, "state", flow_run, **team)
        state = json.loads(done.stdout) if done.returncode == 0 else done.stderr[-300:]
        if isinstance(state, list) and state[1] in names:
            return state
        time.sleep(2)
    raise AssertionError(f"{state}, waited for {names}: {(workspace / 'worker.txt').read_text()[-3000:]}")


@pytest.mark.slow
def test_a_deployed_retraining_runs_on_a_worker(deployed):
    workspace, team = deployed
    flow_run = started(workspace, team, "retrain/on-demand")
    assert wait_for(workspace, team, flow_run, "Completed", "Failed", "Crashed")[0] == "COMPLETED"


@pytest.mark.slow
def test_a_persons_decision_is_awaited_over_a_restart_and_recorded(deployed):
    workspace, team = deployed
    flow_run = started(workspace, team, "approve/approval", "--param", "version=2")
    wait_for(workspace, team, flow_run, "Suspended")
    run(workspace, "sluice", "down")
    assert run(workspace, "sluice", "up").returncode == 0
    answer = {"who": "Ada", "why": "read twenty answers", "approve": True}
    assert run(workspace, "python", "-c", CLIENT, "resume", flow_run, json.dumps(answer), **team).returncode == 0
    assert wait_for(workspace, team, flow_run, "Completed", "Failed", "Crashed")[0] == "COMPLETED"
    newest = json.loads(run(workspace, "sluice", "history", "--json", **team).stdout)[0]
    assert (newest["version"], newest["alias"], newest["verdict"]) == ("2", "champion", "approved")
    assert newest["reason"] == "Ada: read twenty answers"
    assert run(workspace, "sluice", "audit", **team).returncode == 0


@pytest.mark.slow
def test_a_reviewers_refusal_is_recorded_and_moves_nothing(deployed):
    workspace, team = deployed
    flow_run = started(workspace, team, "approve/approval", "--param", "version=3")
    wait_for(workspace, team, flow_run, "Suspended")
    answer = {"who": "Ada", "why": "answers are rude", "approve": False}
    assert run(workspace, "python", "-c", CLIENT, "resume", flow_run, json.dumps(answer), **team).returncode == 0
    assert wait_for(workspace, team, flow_run, "Rejected", "Failed", "Crashed")[1] == "Rejected"
    newest = json.loads(run(workspace, "sluice", "history", "--json", **team).stdout)[0]
    assert (newest["version"], newest["alias"], newest["verdict"]) == ("3", None, "rejected")
