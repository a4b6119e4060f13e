"""What runs report reaches MLflow once, in order and whole: embedded database and real server, both of whom may be away at any moment."""

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.host import courier, spool
from flows.host.courier import Courier
from flows.host.tracking import Tracker
from flows.host.workspace import Workspace
from models.core.errors import Unavailable
from tests.mlflow_server import Server, begin, drill_workspace, wait_for
from tests.workspaces import run as command

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]


@pytest.fixture
def workspace(tmp_path, empty_store, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / ".sluice").mkdir()
    shutil.copy(empty_store, tmp_path / ".sluice" / "mlflow.db")
    return Workspace(tmp_path)


@pytest.fixture(scope="module")
def server(tmp_path_factory, empty_store):
    found = Server(tmp_path_factory.mktemp("server"), empty_store)
    found.start()
    yield found
    found.kill()


def open_run(workspace, name="base", parent=None):
    return spool.Run(workspace, "assistant", name, {"sluice.stage": name}, parent)


def write(run, steps=30):
    run.params({"steps": steps, "plan": {"rate": 1e-3}})
    for step in range(1, steps + 1):
        run.step(step, {"loss": 1 / step, "accuracy": step / 1000})
    run.results({"accuracy": 0.75, "suite": {"value": None, "n": 3}}, steps)


def runs(workspace):
    tracker = Tracker(workspace, "assistant")
    return tracker.client, sorted(
        tracker.client.search_runs([tracker.experiment_id("pipeline")]), key=lambda run: (run.info.start_time, run.info.run_name)
    )


def check_whole(workspace, steps=30):
    client, [found] = runs(workspace)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"steps": str(steps), "plan.rate": "0.001"}
    assert [(row.step, row.value) for row in client.get_metric_history(found.info.run_id, "loss")] == [
        (n, 1 / n) for n in range(1, steps + 1)
    ]
    accuracy = client.get_metric_history(found.info.run_id, "accuracy")
    assert [(row.step, row.value) for row in accuracy] == [*((n, n / 1000) for n in range(1, steps + 1)), (steps, 0.75)]
    assert found.data.metrics["accuracy"] == 0.75
    assert found.data.metrics["suite.n"] == 3
    assert spool.folders(workspace) == []


def test_a_run_is_delivered_with_its_own_times_and_a_result_is_the_end_of_a_curve_of_its_name(workspace):
    run = open_run(workspace)
    began = spool.now_ms()
    write(run)
    (workspace.root / "pages").mkdir()
    (workspace.root / "pages" / "index.html").write_text("seen")
    run.reports(workspace.root / "pages")
    run.end("FINISHED")
    ended = spool.now_ms()
    time.sleep(0.2)
    Courier(workspace, print).deliver()
    check_whole(workspace)
    client, [found] = runs(workspace)
    assert found.info.start_time <= began + 1 <= ended + 1
    assert began <= found.info.end_time <= ended + 100  # two values have two times: thirty in one millisecond run ahead of the clock
    assert Path(client.download_artifacts(found.info.run_id, "reports/index.html")).read_text() == "seen"


def test_a_run_that_is_being_written_is_shown_as_far_as_it_is_and_goes_on(workspace):
    post, run = Courier(workspace, print), open_run(workspace)
    run.step(1, {"loss": 2.0})
    post.deliver()
    client, [found] = runs(workspace)
    assert (found.info.status, found.data.metrics) == ("RUNNING", {"loss": 2.0})
    assert spool.waiting(workspace) == []
    run.step(2, {"loss": 1.0})
    assert spool.waiting(workspace)[0]["lines"] == 1
    run.end("FAILED", "went astray")
    post.deliver()
    client, [found] = runs(workspace)
    assert (found.info.status, found.data.tags["sluice.reason"]) == ("FAILED", "went astray")
    assert len(client.get_metric_history(found.info.run_id, "loss")) == 2


@pytest.mark.parametrize("lost", ["nothing", "the offset", "all that is known here"])
def test_what_is_delivered_again_after_a_crash_is_there_once(workspace, lost):
    run = open_run(workspace)
    write(run)
    run.step(31, {"loss": math.nan})
    Courier(workspace, print).deliver()
    [folder] = spool.folders(workspace)
    run_id, _ = spool.sent(folder)
    if lost == "the offset":  # killed between the delivery of a batch and its note; the store keeps no tag of it either
        spool.set_sent(folder, run_id, 0)
        Tracker(workspace, "assistant").client.delete_tag(run_id, courier.DELIVERED)
    elif lost == "all that is known here":
        (folder / spool.SENT).unlink()
    run.end("FINISHED")
    Courier(workspace, print).deliver()
    client, [found] = runs(workspace)
    assert (found.info.run_id, found.info.status) == (run_id, "FINISHED")
    assert len(client.get_metric_history(run_id, "loss")) == 31
    assert len(client.get_metric_history(run_id, "accuracy")) == 31


DELIVER = """
import sys
from pathlib import Path
from flows.host.courier import Courier
from flows.host.workspace import Workspace
Courier(Workspace(Path(sys.argv[1])), print).deliver()
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_courier_that_is_killed_at_any_moment_delivers_nothing_twice(workspace, seed):
    run = open_run(workspace)
    write(run, steps=2000)
    run.end("FINISHED")
    for kill in range(6):
        child = subprocess.Popen([sys.executable, "-c", DELIVER, str(workspace.root)], cwd=ROOT)
        deadline = time.monotonic() + 60
        while not list(workspace.state.glob("spool/*/sent.json")) and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(((seed * 7 + kill * 3) % 11) * 0.02)
        child.send_signal(signal.SIGKILL)
        child.wait()
    Courier(workspace, print).deliver()
    check_whole(workspace, steps=2000)


KILLED = """
import os, signal, sys
from pathlib import Path
from flows.host import spool
from flows.host.workspace import Workspace
run = spool.Run(Workspace(Path(sys.argv[1])), "assistant", "base", {})
run.step(1, {"loss": 2.0})
os.write(run._file, b'{"metrics": {"loss": 1.0}, "st')
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_whose_process_was_killed_in_the_middle_of_a_line_is_killed_with_all_lines_before(workspace):
    subprocess.run([sys.executable, "-c", KILLED, str(workspace.root)], cwd=ROOT)
    Courier(workspace, print).deliver()
    _, [found] = runs(workspace)
    assert (found.info.status, found.data.metrics) == ("KILLED", {"loss": 2.0})
    assert found.data.tags["sluice.reason"] == courier.GONE


def test_a_run_is_linked_to_its_parent_whoever_delivers_which(workspace):
    parent = open_run(workspace, "retrain")
    child = open_run(workspace, "base", parent.key)
    child.end("FINISHED")
    Courier(workspace, print).deliver()
    parent.end("KILLED")
    Courier(workspace, print).deliver()
    late = open_run(workspace, "sft", parent.key)
    late.end("KILLED")
    Courier(workspace, print).deliver()
    _, found = runs(workspace)
    assert [run.info.run_name for run in found] == ["retrain", "base", "sft"]
    assert {run.data.tags.get("mlflow.parentRunId") for run in found} == {None, found[0].info.run_id}


def test_a_run_that_a_lost_answer_made_twice_is_kept_once(workspace):
    run = open_run(workspace)
    run.step(1, {"loss": 2.0})
    Courier(workspace, print).deliver()
    tracker = Tracker(workspace, "assistant")
    tracker.start("pipeline", "base", {spool.KEY: run.key})  # the first request, which the server was slow to answer
    run.end("FINISHED")
    Courier(workspace, print).deliver()
    _, [found] = runs(workspace)
    assert (found.info.status, found.data.metrics) == ("FINISHED", {"loss": 2.0})


def test_a_run_that_mlflow_refuses_is_kept_aside_and_holds_up_no_other(workspace):
    first, second, said = open_run(workspace), open_run(workspace, "sft"), []
    first.params({"rate": 1})
    Courier(workspace, said.append).deliver()
    first.params({"rate": 2})  # MLflow changes no param
    for run in (first, second):
        run.end("FINISHED")
    Courier(workspace, said.append).deliver()
    assert [run.info.status for run in runs(workspace)[1] if run.info.run_name == "sft"] == ["FINISHED"]
    [aside] = (workspace.state / "spool" / "refused").iterdir()
    assert aside.name == first.key
    assert str(aside) in said[0]
    assert "\n" not in said[0]


@pytest.mark.slow
def test_a_run_waits_for_the_store_that_it_was_meant_for(workspace, server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri.replace("http://", "http://ada:hunter2@"))
    run = open_run(workspace)
    run.end("FINISHED")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    Courier(workspace, print).deliver()
    [waits] = spool.waiting(workspace)
    assert (waits["runs"], waits["store"]) == (1, server.uri.replace("http://", "http://ada:***@"))
    assert "hunter2" not in (run.folder / spool.LOG).read_text()
    assert runs(workspace)[1] == []


def test_a_server_that_is_away_is_unavailable_and_takes_all_when_it_is_back(workspace, server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    run, post = open_run(workspace), Courier(workspace, print)
    write(run, steps=10)
    post.deliver()
    server.kill()
    for step in range(11, 31):
        run.step(step, {"loss": 1 / step})
    with pytest.raises(Unavailable, match="does not answer"):
        post.deliver()
    run.end("FINISHED")
    assert spool.waiting(workspace)[0]["lines"] == 21
    server.start()
    post.deliver()
    client, [found] = runs(workspace)
    assert [row.step for row in client.get_metric_history(found.info.run_id, "loss")] == list(range(1, 31))
    assert found.info.status == "FINISHED"
    assert spool.waiting(workspace) == []
    client.delete_run(found.info.run_id)


MOMENTS = ("start", "middle", "end")
OUTAGES = [  # (killed at, back at): "after" is once DVC has recorded the stage
    ("start", "after"),
    ("start", "middle"),
    ("middle", "end"),
    ("end", "after"),
    ("renamed", "after"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("down", "back"), OUTAGES)
def test_a_training_beside_which_mlflow_dies_is_trained_once_and_reported_whole(server, empty_store, tmp_path, monkeypatch, down, back):
    root = drill_workspace(tmp_path / "sluice", empty_store)
    training = begin(root, "dvc", "repro", "drill", MLFLOW_TRACKING_URI=server.uri)
    for moment in MOMENTS:
        wait_for(root / f"at-{moment}")
        if down == moment:
            server.kill()
        elif back == moment:
            server.start()
        (root / f"go-{moment}").touch()
    if down == "renamed":
        wait_for(root / "artifacts" / "weights")
        server.kill()
    said, _ = training.communicate(timeout=60)
    assert training.returncode == 0, said
    assert "drill:" in (root / "dvc.lock").read_text()
    if back == "after":
        waits = command(root, "sluice", "status", MLFLOW_TRACKING_URI=server.uri)
        assert waits.returncode == 1
        assert "1 run " in waits.stderr
        assert "wait for MLflow" in waits.stderr
        server.start()
    done = command(root, "sluice", "status", MLFLOW_TRACKING_URI=server.uri)
    assert done.returncode == 0, done.stderr
    assert "waiting" not in done.stdout
    assert "didn't change" in command(root, "dvc", "repro", "drill", MLFLOW_TRACKING_URI=server.uri).stdout
    assert (root / "trainings").read_text() == "one more\n"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    workspace = Workspace(root)
    client, [found] = runs(workspace)
    assert (found.info.status, found.data.params) == ("FINISHED", {"steps": "40"})
    assert [(row.step, row.value) for row in client.get_metric_history(found.info.run_id, "train/loss")] == [
        (n, 1 / n) for n in range(1, 41)
    ]
    assert found.data.metrics["accuracy"] == 0.75
    client.delete_run(found.info.run_id)


def test_the_stage_runs_no_mlflow_and_a_step_costs_it_next_to_nothing(workspace):
    run = open_run(workspace)
    started = time.perf_counter()
    for step in range(1000):
        run.step(step, {"loss": 1.0})
    assert (time.perf_counter() - started) / 1000 < 1e-3
    run.end("FINISHED")
    imports = "import sys, flows.stages.runner; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", imports], cwd=ROOT, env=dict(os.environ)).returncode == 0
