"""A run's log on disk: nothing that happens to it fails the stage, and whoever reads it knows whether its writer lives."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows.host import spool
from flows.host.workspace import Workspace
from flows.stages.runner import Progress, _closing, _heed_no_signal
from models.core.checkpoints import Checkpoints, Stopped

ROOT = Path(__file__).parents[2]


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Workspace(tmp_path)


@pytest.fixture
def run(workspace):
    return spool.Run(workspace, "assistant", "base", {"sluice.stage": "base"})


def read(run):
    return [line for _, line in spool.lines(run.folder, 0)]


def test_a_full_disk_fails_no_stage_and_what_waited_is_written_when_there_is_room(run, capsys):
    room = os.dup(run._file)
    with open("/dev/full", "wb") as full:
        os.dup2(full.fileno(), run._file)
        run.step(1, {"loss": 2.0})
        run.results({"accuracy": 0.5}, 1)
        os.dup2(room, run._file)
    run.end("FINISHED")
    assert [line.get("metrics") for line in read(run)] == [None, {"loss": 2.0}, {"accuracy": 0.5}, None]
    assert "No space left" in capsys.readouterr().err


def test_a_folder_that_went_away_fails_no_stage(run, workspace):
    (workspace.state / "spool").rename(workspace.state / "elsewhere")
    run.reports(workspace.root / "none")
    run.step(1, {"loss": 2.0})
    run.end("FINISHED")


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_stage_until_its_outputs_are_published_and_not_after(run, workspace, sign):
    with pytest.raises(KeyboardInterrupt), _closing(run, "sft", Checkpoints()):
        os.kill(os.getpid(), sign)
    assert read(run)[-1]["end"] == "KILLED"
    published = spool.Run(workspace, "assistant", "sft", {})
    with _closing(published, "sft", Checkpoints()):
        _heed_no_signal()
        os.kill(os.getpid(), sign)
    assert read(published)[-1]["end"] == "FINISHED"


@pytest.mark.usefixtures("signals")
def test_a_training_is_asked_to_stop_and_stopped_the_second_time(run, tmp_path, capsys):
    checkpoints = Checkpoints(tmp_path / "checkpoints")

    def train():
        with _closing(run, "sft", checkpoints), checkpoints.training():
            os.kill(os.getpid(), signal.SIGTERM)
            assert capsys.readouterr().out == "sft  was asked to stop: it ends this step and writes a checkpoint\n"
            assert checkpoints.due()
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        train()
    assert read(run)[-1]["end"] == "KILLED"


@pytest.mark.usefixtures("signals")
def test_a_training_that_is_asked_to_stop_ends_with_its_checkpoint(run, tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", notes=lambda: [[1, 2, {"loss": 0.5}]])

    def train():
        with _closing(run, "sft", checkpoints), checkpoints.training():
            os.kill(os.getpid(), signal.SIGINT)
            checkpoints.save(1, lambda folder: (folder / "weights").write_text("w"))

    with pytest.raises(Stopped):
        train()
    assert read(run)[-1]["end"] == "KILLED"
    recalled = []
    later = Checkpoints(tmp_path / "checkpoints", recall=lambda *told: recalled.append(told))
    assert (later.latest() / "weights").read_text() == "w"
    assert recalled == [(1, [[1, 2, {"loss": 0.5}]])]


WRITE = """
import sys
from pathlib import Path
from flows.host import spool
from flows.host.workspace import Workspace
run = spool.Run(Workspace(Path(sys.argv[1])), "assistant", "base", {})
print(run.folder, flush=True)
sys.stdin.read()
"""


def test_a_writer_is_known_to_live_until_it_is_killed(tmp_path):
    command = [sys.executable, "-c", WRITE, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        folder = Path(child.stdout.readline().strip())
        assert spool.is_written(folder)
        child.kill()
        child.wait()
        assert not spool.is_written(folder)


def test_a_line_that_a_power_cut_spoilt_is_passed_over_and_one_that_is_not_whole_waits(run):
    run.step(1, {"loss": 2.0})
    os.write(run._file, b"\0\0\0\n[1]\n")
    run.step(2, {"loss": 1.0})
    os.write(run._file, b'{"metrics": {"lo')
    assert [line["step"] for line in read(run)[1:]] == [1, 2]
    os.write(run._file, b'ss": 3.0}, "step": 3, "time": 1}\n')
    offsets = [offset for offset, _ in spool.lines(run.folder, 0)]
    assert [line["step"] for _, line in spool.lines(run.folder, offsets[-2])] == [3]


def test_what_is_too_much_for_one_call_is_written_in_parts(run):
    run.params({f"key{number}": number for number in range(205)})
    parts = [line["params"] for line in read(run)[1:]]
    assert [len(part) for part in parts] == [90, 90, 25]
    assert len({key for part in parts for key in part}) == 205


def test_every_step_is_kept_and_few_are_printed(run, capsys):
    progress = Progress(run, "base")
    for step in range(1, 501):
        progress(step, 500, {"loss": 1 / step})
    assert len(read(run)) == 501
    assert progress.last == 500
    assert len(capsys.readouterr().out.splitlines()) < 5


def test_the_log_holds_no_password(workspace, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ada:hunter2@mlflow.example.org/")
    run = spool.Run(workspace, "assistant", "base", {})
    assert spool.about(run.folder).store == "https://ada:***@mlflow.example.org"
    assert "hunter2" not in json.dumps(read(run))
