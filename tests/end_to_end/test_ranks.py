"""A stage of several processes: one result, one line where one of them fails, and none of them left."""

import os
import signal
import subprocess
import time

import pytest

from flows.registry.resume import keep_each_step
from models.core.content import folder_md5
from tests.lines import assert_one_line_each
from tests.workspaces import PROGRAMS, copy_of, environment, run

PATIENCE_S = 300
TWO = {"SLUICE_RANKS": "2"}


def ranks_of(workspace):
    """The processes of the workspace that only follow, by their numbers."""
    said = subprocess.run(["ps", "-ww", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 1) for line in said.splitlines() if "flows.stages.ranks" in line and "guard.py" not in line]
    return [int(pid) for pid, command in rows if str(workspace) in command]


def test_a_number_of_ranks_that_is_none_is_told(finished):
    done = run(finished, "sluice", "stage", "sft", SLUICE_RANKS="two")
    assert_one_line_each(done, 2, "SLUICE_RANKS is 'two', must be a number from 1 on: the processes that train together")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["benchmark@rlhf-mmlu-mini", "benchmark@rlhf-humaneval-mini", "samples@rlhf"])
def test_two_ranks_give_the_answers_of_one(finished, tmp_path, stage):
    workspace = copy_of(finished, tmp_path / "sluice")
    done = run(workspace, "sluice", "stage", stage, *bindings(stage), **TWO, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert f"{stage}  on 2 ranks" in done.stdout
    for folder in (f"artifacts/benchmark/{stage.partition('@')[2]}", "artifacts/samples"):
        if (finished / folder).exists():
            assert folder_md5(workspace / folder) == folder_md5(finished / folder)
    assert not ranks_of(workspace)


def bindings(stage):
    task, _, cell = stage.partition("@")
    if task == "samples":
        return (f"model=artifacts/{cell}", f"answers=artifacts/samples/{cell}.jsonl")
    model, _, suite = cell.partition("-")
    given = {"model": f"artifacts/{model}", "suite": f"artifacts/suites/{suite}", "items": f"artifacts/benchmark/{cell}"}
    return tuple(f"{name}={path}" for name, path in {**given, "scores": f"artifacts/scores/{cell}.csv"}.items())


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_the_stage_in_one_line_and_the_next_run_goes_on(finished, tmp_path):
    workspace = copy_of(finished, tmp_path / "sluice")
    keep_each_step(workspace, "sft")
    command = [str(PROGRAMS / "sluice"), "stage", "sft"]
    with (workspace / "said.txt").open("w") as out:
        process = subprocess.Popen(command, cwd=workspace, env=environment(workspace, **TWO), stdout=out, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + PATIENCE_S
        while not list(workspace.glob(".work/sft/*/checkpoints/000000002")):
            assert process.poll() is None, (workspace / "said.txt").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        [follower] = ranks_of(workspace)
        os.kill(follower, signal.SIGKILL)
        assert process.wait(60) == 1
    said = (workspace / "said.txt").read_text()
    [line] = [line for line in said.splitlines() if line.startswith("sluice: ")]
    assert line == "sluice: rank 1 of 2 was ended by signal 9: the training goes on when it is run again"
    assert "Traceback" not in said
    assert not ranks_of(workspace)
    done = run(workspace, "sluice", "stage", "sft")  # alone this time
    assert done.returncode == 0, done.stderr
    assert "sft  goes on after step " in done.stdout
