"""What a stage made is saved until DVC has it on record: a kill while DVC hashes it costs nothing, and nobody gets old work for new."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows.stages import finished, runner
from flows.stages.pipeline import Contract, Stage
from models.core.errors import StageError
from models.core.work import Work
from tasks.stage import Inputs, Metrics, Outputs, Params
from tests.workspaces import environment, make_workspace, run

KILLED = """
import os, signal, sys
from flows.stages import runner
from flows.registry.decisions import registry_of
from flows.host.workspace import find, prepare_environment
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
prepare_environment(find())
runner.write_json = die  # the outputs are in place, the metrics are not
runner.run_stage(find(), "sources", {}, registry_of)
"""


def made(folder, text="as made"):
    """A folder and a file, as a stage function leaves them."""
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "weights").write_text(text)
    (folder / "table").write_text(text)
    return {"model": folder / "model", "table": folder / "table"}


def test_what_is_saved_comes_back_whole_and_outlives_the_outputs(tmp_path):
    drafts = made(tmp_path / "drafts")
    finished.save(tmp_path / "work", drafts, {"loss": 0.5})
    (tmp_path / "drafts" / "table").unlink()  # DVC deletes outputs before it runs a stage
    found = {"model": tmp_path / "model", "table": tmp_path / "table"}
    assert finished.load(tmp_path / "work", found) == {"loss": 0.5}
    assert (tmp_path / "model" / "weights").read_text() == (tmp_path / "table").read_text() == "as made"


def test_nothing_is_loaded_of_half_a_folder_or_of_an_earlier_shape(tmp_path):
    drafts = made(tmp_path / "drafts")
    assert finished.load(tmp_path / "work", drafts) is None
    finished.save(tmp_path / "work", drafts, {})
    assert finished.load(tmp_path / "work", {"model": tmp_path / "a", "other": tmp_path / "b"}) is None
    assert not (tmp_path / "a").exists()
    finished.drop(tmp_path / "work")
    assert finished.load(tmp_path / "work", {"model": tmp_path / "a"}) is None


def test_a_file_system_without_links_saves_nothing_and_fails_nothing(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    finished.save(tmp_path / "work", made(tmp_path / "drafts"), {})
    assert not finished.is_saved(tmp_path / "work")


def test_a_stage_that_has_ended_leaves_only_what_is_saved(tmp_path):
    work = tmp_path / "stage" / "signature"
    for place in (work / "trainer", work.parent / "older"):
        place.mkdir(parents=True)
    finished.save(work, made(tmp_path / "drafts"), {})
    finished.clear(work, keep=True)
    assert [path.name for path in work.parent.iterdir()] == ["signature"]
    assert [path.name for path in work.iterdir()] == ["finished"]
    finished.clear(work, keep=False)
    assert not finished.is_saved(work)


class Model(Outputs):
    model: Path


def test_a_stage_that_leaves_an_output_out_is_told_so_by_its_path_and_nothing_is_held(tmp_path):
    stage = Stage("one", "", (), ("artifacts/model",), "metrics/one.json", (), "cpu", 1.0, 0, ())
    spec = Contract(lambda _params, _inputs, _outputs: Metrics(), Params, Inputs, Model, False)
    work = Work(tmp_path / "work", tmp_path / "reports")
    with pytest.raises(StageError, match="stage 'one' left out artifacts/model: a stage writes every output"):
        runner.produce(tmp_path, stage, spec, Params(), work)
    assert not finished.is_saved(work.folder)


@pytest.mark.long
@pytest.mark.parametrize("by_dvc", [pytest.param(True, id="by DVC"), pytest.param(False, id="by hand", marks=pytest.mark.slow)])
def test_a_stage_killed_once_its_outputs_are_in_place_is_not_done_again_by_dvc(tmp_path, by_dvc):
    workspace = make_workspace(tmp_path / "sluice")
    env = environment(workspace, **({"DVC_STAGE": "sources"} if by_dvc else {}))
    killed = subprocess.run([sys.executable, "-c", KILLED], cwd=workspace, env=env, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    records = workspace / "artifacts" / "records"
    assert records.is_dir()

    done = run(workspace, "dvc", "repro", "sources") if by_dvc else run(workspace, "sluice", "stage", "sources")
    assert done.returncode == 0, done.stdout + done.stderr
    said = "sources  had ended when it was killed: its outputs are put in place"
    assert (said in done.stdout) == by_dvc
    assert (workspace / "metrics" / "sources.json").is_file()

    done = run(workspace, "dvc", "repro", "--force", "sources")
    assert done.returncode == 0
    assert said not in done.stdout, "who forces it wants it made again"
