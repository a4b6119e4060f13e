"""What fails the same way twice is tried once: real DVC stages that end in every way, judged by the flow's own retry condition."""

import os
from pathlib import Path

import pytest
from dvc.repo import Repo
from prefect.states import Failed

from flows.host import processes
from flows.host.workspace import Workspace
from flows.run.retrain import _retryable, run_stage
from flows.stages import attempt
from flows.stages.pipeline import Pipeline
from flows.stages.place import Local, Outcome
from flows.stages.runner import _passes
from models.core.errors import StageError, Unavailable, UserError
from tests.places import stage_named
from tests.workspaces import environment

ONE = stage_named("one")
YAML = "stages:\n  one:\n    cmd: {cmd}\n    outs: [out]\n    metrics: [{{metrics.json: {{cache: false}}}}]\n    meta: {{timeout_s: 60}}\n"


def tried_again(error):
    condition = run_stage.retry_condition_fn
    assert condition is _retryable
    return condition(run_stage, None, Failed(data=error))


def failure_of(folder, cmd, monkeypatch):
    """What one attempt at a stage with that command raises, DVC and all."""
    (folder / "dvc.yaml").write_text(YAML.format(cmd=cmd))
    monkeypatch.chdir(folder)
    Repo.init(str(folder), no_scm=True).close()
    processes.reset()
    workspace = Workspace(folder)
    env = environment(folder, PYTHONPATH=str(Path(__file__).parents[2]), SHELL="/bin/sh")
    with pytest.raises((StageError, UserError, Unavailable)) as raised:
        attempt.attempt(Local(workspace), Pipeline(workspace).stage("one"), env, print)
    return raised.value


@pytest.mark.long
@pytest.mark.parametrize(
    ("cmd", "again", "said"),
    [
        ("kill -9 $$", True, "signal 9 (out of memory?)"),
        ("sh -c 'kill -15 $$'", True, "signal 15"),
        ("echo kl went past max_kl && exit 1", False, "kl went past max_kl"),
    ],
)
def test_a_stage_that_a_signal_ended_is_tried_again_and_one_that_gave_up_is_not(tmp_path, monkeypatch, cmd, again, said):
    error = failure_of(tmp_path, cmd, monkeypatch)
    assert said in str(error)
    assert "\n" not in str(error)
    assert tried_again(error) == again


def ended(**left):
    return {"exit_code": 1, "reason": "why", "passing": False, "seconds": 1.0, **left}


@pytest.mark.parametrize(
    ("left", "lines", "again"),
    [
        (ended(), [], False),
        (ended(exit_code=2), [], False),
        (ended(passing=True), [], True),
        ({}, ["ERROR: '/w/artifacts' is busy, it is being blocked by:"], True),
        ({}, ["ERROR: Unable to acquire lock"], True),
        ({}, ["ERROR: failed to reproduce 'one': failed to run: sluice stage one, exited with 137"], True),
        ({}, ["ERROR: failed to reproduce 'one': failed to run: sluice stage one, exited with -11"], True),
        ({}, ["ERROR: failed to reproduce 'one': failed to run: sluice stage one, exited with 1"], False),
        ({}, ["ERROR: output 'out' does not exist"], False),
    ],
)
def test_what_can_pass_is_tried_again_and_nothing_else(left, lines, again):
    processes.reset()
    assert tried_again(attempt.failure(ONE, Outcome(255, left), lines)) == again


def test_a_stopped_flow_tries_nothing_again():
    processes.stop_all()
    try:
        assert not tried_again(attempt.failure(ONE, Outcome(137), []))
    finally:
        processes.reset()


def raised(error, cause=None):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (ConnectionRefusedError(), True),
        (TimeoutError(), True),
        (raised(Unavailable("pretrained: cannot be read"), raised(OSError("no hub"), ConnectionResetError())), True),
        (Unavailable("generated programs cannot be run: no sandbox"), False),
        (Unavailable("the disk is full"), False),
        (StageError("kl went past max_kl"), False),
        (RuntimeError("CUDA out of memory"), False),
        (ValueError("shape"), False),
    ],
)
def test_a_server_that_was_away_passes_and_nothing_of_the_stages_own_does(error, passes):
    assert _passes(error) == passes


def test_the_environment_is_left_as_it_was():
    assert "SLUICE_FLOW_RUN_ID" not in os.environ
