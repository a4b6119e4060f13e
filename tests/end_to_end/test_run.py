"""`sluice run`, whole and real, on the nano recipe."""

import json
import subprocess
import time
import urllib.error
import urllib.request

import psutil
import pytest
from ruamel.yaml import YAML

from models.core.content import folder_md5
from models.core.given import read_lines
from tests.workspaces import PROGRAMS, call, copy_of, environment, make_workspace, run


def lock(workspace):
    return YAML(typ="safe").load((workspace / "dvc.lock").read_text())["stages"]


def test_every_stage_runs_and_the_candidate_becomes_champion(finished):
    found = json.loads((finished / "status.json").read_text())
    assert {stage["state"] for stage in found["last_run"]["stages"]} == {"ran"}
    assert found["aliases"] == {"champion": "1"}
    assert found["champion"]["model_md5"] == folder_md5(finished / "artifacts" / "rlhf")
    assert "promote" in (finished / "first-run.txt").read_text()


def test_the_scores_shown_are_those_of_the_per_item_files(finished):
    for suite, shown in json.loads((finished / "status.json").read_text())["champion"]["scores"].items():
        scores = [item["score"] for item in read_lines(finished / "artifacts" / "benchmark" / f"rlhf-{suite}" / "items.jsonl")]
        if shown["value"] is not None:
            assert shown["n"] == len(scores)
            assert shown["value"] == pytest.approx(sum(scores) / len(scores))


def test_the_history_records_the_promotion(finished):
    [entry] = json.loads(call(finished, "history", "--json").stdout)
    assert (entry["version"], entry["alias"], entry["verdict"]) == ("1", "champion", "promote")
    assert set(entry) == {"time", "version", "alias", "verdict", "reason", "run_id"}


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["base", "rlhf"])
def test_dvc_repro_of_a_stage_makes_the_same_bytes_as_the_flow(finished, tmp_path, stage):
    workspace = copy_of(finished, tmp_path / "repro")
    done = run(workspace, "dvc", "repro", "--single-item", "--force", stage)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "started" in done.stdout
    assert lock(workspace) == lock(finished)
    assert folder_md5(workspace / "artifacts" / stage) == folder_md5(finished / "artifacts" / stage)


@pytest.mark.slow
def test_dvc_repro_alone_gives_the_same_lock_as_the_flow_weights_included(finished, tmp_path):
    workspace = make_workspace(tmp_path / "repro")
    done = run(workspace, "dvc", "repro", timeout=1800)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert lock(workspace) == lock(finished)


def test_no_version_holds_a_pickle(finished):
    forbidden = {".pkl", ".pickle", ".bin", ".pt", ".pth", ".joblib"}
    files = [path for path in (finished / ".sluice" / "mlartifacts").rglob("*") if path.is_file()]
    assert any(path.name == "model.safetensors" for path in files)
    assert not [path for path in files if path.suffix in forbidden]


@pytest.mark.slow
def test_the_champion_loads_and_answers_through_mlflow(finished, tmp_path):
    workspace = copy_of(finished, tmp_path / "served")
    uri = f"sqlite:///{workspace / '.sluice' / 'mlflow.db'}"
    code = "import mlflow, sys; pipe = mlflow.transformers.load_model('models:/assistant@champion'); print(type(pipe.model).__name__)"
    loaded = run(workspace, "python", "-c", code, MLFLOW_TRACKING_URI=uri)
    assert "LlamaForCausalLM" in loaded.stdout, loaded.stderr[-2000:]
    port = _free_port()
    command = [str(PROGRAMS / "mlflow"), "models", "serve", "-m", "models:/assistant@champion", "--env-manager", "local", "-p", str(port)]
    env = environment(workspace, MLFLOW_TRACKING_URI=uri)
    server = subprocess.Popen(command, cwd=workspace, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        reply = _ask(port, {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8})
    finally:
        for child in [*psutil.Process(server.pid).children(recursive=True), server]:
            child.kill()
    assert reply[0]["choices"][0]["message"]["role"] == "assistant"


def _free_port():
    from flows.host.services import free_port

    return free_port()


def _ask(port, body, seconds=120):
    deadline = time.monotonic() + seconds
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return json.load(reply)
        except (ConnectionError, urllib.error.URLError):
            if time.monotonic() > deadline:
                raise
        time.sleep(0.5)
