"""`sluice up` and `down`, and runs against the local servers: unchanged, changed, cancelled from the page, killed.

The tests share one workspace, a finished one with its servers up, and each change that they make is a new one.
"""

import json
import re
import signal
import subprocess
import time
import urllib.request

import pytest

from tests.end_to_end.test_crash import processes_of
from tests.lines import assert_one_line_each
from tests.workspaces import PROGRAMS, copy_of, environment, run


@pytest.fixture(scope="module")
def up(finished, tmp_path_factory):
    """A finished workspace with its servers up; they are down afterwards whatever happens."""
    workspace = copy_of(finished, tmp_path_factory.mktemp("up") / "sluice")
    try:
        done = run(workspace, "sluice", "up")
        assert done.returncode == 0, done.stderr
        yield workspace, dict(line.split() for line in done.stdout.splitlines())
    finally:
        run(workspace, "sluice", "down")
    assert processes_of(workspace) == []


def api(url, path, body=None, method=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/api{path}", data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=20) as reply:
        return json.load(reply)


def new_learning_rate(workspace):
    """Double rlhf's learning rate."""
    params = (workspace / "params.yaml").read_text()
    section = params[params.index("\nrlhf:") :]
    old = re.search(r"learning_rate: (\S+)", section)[1]
    changed = section.replace(f"learning_rate: {old}", f"learning_rate: {float(old) * 2:.6f}", 1)
    (workspace / "params.yaml").write_text(params.replace(section, changed))


def start_and_wait_for_rlhf(workspace):
    """Start a run; return it when stage rlhf is at work."""
    command = [str(PROGRAMS / "sluice"), "run"]
    flow = subprocess.Popen(command, cwd=workspace, env=environment(workspace), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert any("rlhf  started" in line for line in flow.stdout), flow.stderr.read()
    return flow


def at_work(workspace):
    """The workspace's processes, without its servers."""
    return [words for words in processes_of(workspace) if any(name in words for name in ("stage", "repro", "warm", "guard"))]


def test_the_pages_answer_and_a_second_run_executes_and_registers_nothing(up):
    workspace, urls = up
    for url in urls.values():
        with urllib.request.urlopen(url, timeout=20) as page:
            assert b"<html" in page.read().lower()
    done = run(workspace, "sluice", "run")
    assert done.returncode == 0, done.stderr
    assert "unchanged: version 1" in done.stdout
    first, latest = sorted(api(urls["prefect"], "/flow_runs/filter", {"limit": 10}, "POST"), key=lambda found: found["created"])
    assert (first["state"]["type"], latest["state"]["type"]) == ("COMPLETED", "COMPLETED")
    keys = {artifact["key"] for artifact in api(urls["prefect"], "/artifacts/filter", {"limit": 50}, "POST")}
    assert {"stages", "scores", "verdict", "mlflow-run"} <= keys
    found = json.loads(run(workspace, "sluice", "status", "--json").stdout)
    assert {stage["state"] for stage in found["last_run"]["stages"]} == {"unchanged"}
    assert (found["tracking_uri"], found["aliases"]) == (urls["mlflow"], {"champion": "1"})


@pytest.mark.slow
def test_a_run_that_is_cancelled_stops_its_stages_and_leaves_no_process(up):
    workspace, urls = up
    new_learning_rate(workspace)
    flow = start_and_wait_for_rlhf(workspace)
    [found] = api(urls["prefect"], "/flow_runs/filter", {"limit": 1, "sort": "START_TIME_DESC"}, "POST")
    api(urls["prefect"], f"/flow_runs/{found['id']}/set_state", {"state": {"type": "CANCELLING"}}, "POST")
    _, errors = flow.communicate(timeout=60)
    assert flow.returncode == 1
    assert "cancelled" in errors
    assert "Traceback" not in errors
    assert api(urls["prefect"], f"/flow_runs/{found['id']}")["state"]["type"] == "CANCELLED"
    assert at_work(workspace) == []


@pytest.mark.slow
def test_a_second_run_is_refused_and_ctrl_c_stops_the_first(up):
    workspace, _ = up
    new_learning_rate(workspace)
    first = start_and_wait_for_rlhf(workspace)
    assert_one_line_each(run(workspace, "sluice", "run"), 2, "another 'sluice run'", str(first.pid))
    first.send_signal(signal.SIGINT)
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 130, errors
    assert "Traceback" not in errors
    assert "the next run carries on" in errors


@pytest.mark.slow
def test_killing_the_flow_alone_leaves_no_process_behind(up):
    workspace, _ = up
    new_learning_rate(workspace)
    flow = start_and_wait_for_rlhf(workspace)
    assert at_work(workspace)
    flow.kill()
    flow.communicate()
    deadline = time.monotonic() + 5
    while at_work(workspace) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert at_work(workspace) == []


@pytest.mark.slow
def test_a_new_learning_rate_for_rlhf_runs_rlhf_and_what_follows_only(up):
    workspace, _ = up
    new_learning_rate(workspace)
    done = run(workspace, "sluice", "run")
    assert done.returncode in (0, 3), done.stdout + done.stderr
    states = {
        stage["name"]: stage["state"] for stage in json.loads(run(workspace, "sluice", "status", "--json").stdout)["last_run"]["stages"]
    }
    ran = {name for name, state in states.items() if state == "ran"}
    assert ran == {name for name in states if name in ("rlhf", "samples@rlhf") or name.startswith("benchmark@rlhf")}
    history = json.loads(run(workspace, "sluice", "history", "--json").stdout)
    assert [entry["version"] for entry in history] == ["2", "1"]


@pytest.mark.slow
def test_the_two_versions_can_be_traced_compared_and_verified(up):
    workspace, urls = up
    found = json.loads(run(workspace, "sluice", "lineage", "2", "--json").stdout)
    first = json.loads(run(workspace, "sluice", "lineage", "1", "--json").stdout)
    assert found["git_commit"] == subprocess.run(["git", "rev-parse", "HEAD"], cwd=workspace, capture_output=True, text=True).stdout.strip()
    assert found["parents"] == {"pretrained": None, "pretrained_resolved": None, "pretrained_md5": None, "champion": "1"}
    assert found["data"]["artifacts/records"].endswith(".dir")
    assert found["runs"]["prefect_flow_run_url"] == f"{urls['prefect']}/runs/flow-run/{found['runs']['prefect_flow_run']}"
    assert first["runs"]["prefect_flow_run"]
    assert first["runs"]["prefect_flow_run_url"] is None  # its server ended with it
    assert found["runs"]["stages"]["rlhf"] != found["runs"]["pipeline"]
    changed = json.loads(run(workspace, "sluice", "diff", "1", "2", "--json").stdout)
    assert set(changed["params"]) == {"rlhf.learning_rate"}
    assert (changed["data"], changed["environment"], changed["code"]) == ({}, {}, [])
    for suite, score in changed["scores"].items():
        flips = [flip["change"] for flip in changed["flips"][suite]]
        assert (flips.count("gained"), flips.count("lost")) == (score["gained"], score["lost"])
    verified = run(workspace, "sluice", "verify", "2", "--json")
    assert {check["name"]: check["ok"] for check in json.loads(verified.stdout)} == dict.fromkeys(
        ("record", "stored model", "provenance", "environment", "code", "lock and cache"), True
    )
    assert verified.returncode == 0, verified.stderr


@pytest.mark.slow
def test_an_alias_moved_around_the_gate_is_found_by_audit(up):
    workspace, urls = up
    assert run(workspace, "sluice", "audit").returncode == 0
    body = {"name": "assistant", "alias": "champion", "version": "1"}
    request = urllib.request.Request(
        f"{urls['mlflow']}/api/2.0/mlflow/registered-models/alias", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    urllib.request.urlopen(request, timeout=20).close()
    done = run(workspace, "sluice", "audit")
    assert done.returncode == 3
    assert "alias champion is at version 1, on record at 2: moved around the gate" in done.stdout


def test_down_without_servers_says_so(finished):
    assert "nothing was running" in run(finished, "sluice", "down").stdout
