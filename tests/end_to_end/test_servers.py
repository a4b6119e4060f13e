"""`sluice up` and `down`, runs against the local servers, and a run that is cancelled from the page."""

import json
import subprocess
import time
import urllib.request

import pytest

from tests.end_to_end.test_crash import processes_of
from tests.workspaces import PROGRAMS, copy_of, environment, make_workspace, run


@pytest.fixture
def up(tmp_path):
    """A fresh workspace with its servers up; they are down afterwards whatever happens."""
    workspace = make_workspace(tmp_path / "sluice")
    yield workspace, start(workspace)
    run(workspace, "sluice", "down")
    assert processes_of(workspace) == []


def start(workspace):
    done = run(workspace, "sluice", "up")
    assert done.returncode == 0, done.stderr
    return dict(line.split() for line in done.stdout.splitlines())


def api(url, path, body=None, method=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/api{path}", data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=20) as reply:
        return json.load(reply)


def test_a_run_that_is_cancelled_stops_its_stages_and_leaves_no_process(up):
    workspace, urls = up
    flow = subprocess.Popen(
        [str(PROGRAMS / "sluice"), "run"],
        cwd=workspace,
        env=environment(workspace),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list((workspace / ".sluice" / "outcomes").glob("*")) and time.monotonic() < deadline:
        time.sleep(0.2)
    [found] = api(urls["prefect"], "/flow_runs/filter", {"limit": 1}, "POST")
    api(urls["prefect"], f"/flow_runs/{found['id']}/set_state", {"state": {"type": "CANCELLING"}}, "POST")
    _, errors = flow.communicate(timeout=60)
    assert flow.returncode == 1
    assert "cancelled" in errors
    assert "Traceback" not in errors
    assert api(urls["prefect"], f"/flow_runs/{found['id']}")["state"]["type"] == "CANCELLED"
    assert not [words for words in processes_of(workspace) if "stage" in words or "repro" in words or "warm" in words]


def test_the_pages_answer_and_an_unchanged_run_uses_them(finished, tmp_path):
    workspace = copy_of(finished, tmp_path / "sluice")
    urls = start(workspace)
    try:
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
        assert json.loads(run(workspace, "sluice", "status", "--json").stdout)["tracking_uri"] == urls["mlflow"]
    finally:
        run(workspace, "sluice", "down")
    assert processes_of(workspace) == []


def test_down_without_servers_says_so(finished):
    assert "nothing was running" in run(finished, "sluice", "down").stdout
