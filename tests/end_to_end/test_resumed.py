"""A training whose process is killed goes on from its checkpoint in the next run, which ends as one that nobody touched."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time

import pytest
from ruamel.yaml import YAML

from flows.registry.resume import keep_each_step
from models.core.content import folder_md5
from tests.lines import assert_one_line_each
from tests.shapes import edit
from tests.tiny import method_of, preferring
from tests.workspaces import PROGRAMS, copy_of, environment, run, snapshot

PATIENCE_S = 300


def stopped(workspace, stage, sign):
    """Repeat a stage, and send it a signal when its second checkpoint is there; return what it said, once no process of it is left."""
    command = [str(PROGRAMS / "dvc"), "repro", "--single-item", "--force", stage]
    said = workspace / "said.txt"
    with said.open("w") as out:
        process = subprocess.Popen(
            command, cwd=workspace, env=environment(workspace), stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    deadline = time.monotonic() + PATIENCE_S
    while not list(workspace.glob(f".work/{stage}/*/checkpoints/000000002")):
        assert process.poll() is None, said.read_text()
        assert time.monotonic() < deadline, said.read_text()
        time.sleep(0.01)
    os.killpg(process.pid, sign)
    process.wait(60)
    while is_there(process.pid):  # DVC ends before its stage does
        assert time.monotonic() < deadline, said.read_text()
        time.sleep(0.05)
    return said.read_text()


def is_there(group):
    """Whether a process of the group is left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, 0)
        return True
    return False


@pytest.mark.parametrize(
    ("stage", "sign"),
    [
        pytest.param("sft", signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param("base", signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param("reward", signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param("rlhf", signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param("sft", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("base", signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_training_that_is_stopped_goes_on_and_ends_with_the_same_bytes(finished, tmp_path, stage, sign):
    workspace = copy_of(finished, tmp_path / "sluice")
    keep_each_step(workspace, stage)
    said = stopped(workspace, stage, sign)
    assert (sign == signal.SIGKILL) != ("it ends this step and writes a checkpoint" in said)
    done = run(workspace, "dvc", "repro", "--single-item", "--force", stage)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{stage}  goes on after step " in done.stdout
    locks = [YAML(typ="safe").load((one / "dvc.lock").read_text())["stages"][stage] for one in (workspace, finished)]
    assert locks[0] == locks[1]  # weights, curve and metrics among its outs
    assert folder_md5(workspace / "artifacts" / stage) == folder_md5(finished / "artifacts" / stage)
    assert not list(workspace.glob(f".work/{stage}/*/checkpoints"))


def learning(workspace, stage, method):
    """The workspace with the stage, learning by that method, in it."""
    if stage == "preference":
        recipe = workspace / "models" / "recipes" / "tiny-dpo"
        shutil.copy2(recipe / "dvc.yaml", workspace / "dvc.yaml")
        section = YAML(typ="safe").load((recipe / "params.yaml").read_text())["preference"] | {"batch_size": 8}
        edit(workspace, "params.yaml", lambda values: values.update(preference=section, models=["base", "sft"], candidate="sft"))
    edit(workspace, "params.yaml", lambda values: values[stage].update(method=method))
    return workspace


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "method"),
    [
        *(("rlhf", method_of(algorithm)) for algorithm in ("rloo", "ppo")),
        *(("preference", preferring(algorithm)) for algorithm in ("dpo", "kto", "orpo")),
    ],
    ids=lambda value: value["algorithm"] if isinstance(value, dict) else value,
)
def test_so_does_every_other_method_that_is_killed(finished, tmp_path, stage, method):
    untouched, killed = (learning(copy_of(finished, tmp_path / name), stage, method) for name in ("untouched", "killed"))
    keep_each_step(killed, stage)
    stopped(killed, stage, signal.SIGKILL)
    for workspace in (untouched, killed):
        done = run(workspace, "dvc", "repro", "--single-item", "--force", stage)
        assert done.returncode == 0, done.stdout + done.stderr
    assert f"{stage}  goes on after step " in done.stdout
    locks = [YAML(typ="safe").load((one / "dvc.lock").read_text())["stages"][stage] for one in (untouched, killed)]
    assert locks[0] == locks[1]


@pytest.mark.slow
def test_verify_resume_gives_a_certificate_and_keeps_it_with_the_run(finished, tmp_path):
    workspace = copy_of(finished, tmp_path / "sluice")
    before = snapshot(workspace / "artifacts", workspace / "dvc.yaml", workspace / "dvc.lock")
    done = run(workspace, "sluice", "verify-resume", "base", "--seed", "3", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["equal"]
    assert 0 < found["went_on_after"] < found["steps"] == 40
    assert {"artifacts/base", "metrics/base.json"} <= set(found["outs"])
    kept = list((workspace / ".sluice" / "mlartifacts").glob(f"**/{found['run_id']}/artifacts/resumed.json"))
    assert [json.loads(path.read_text()) for path in kept] == [{name: value for name, value in found.items() if name != "run_id"}]
    assert snapshot(workspace / "artifacts", workspace / "dvc.yaml", workspace / "dvc.lock") == before


@pytest.mark.parametrize(
    ("stage", "said"),
    [pytest.param("prepare", "ended before it could be killed", marks=pytest.mark.slow), ("nothing", "no stage 'nothing'")],
)
def test_what_is_no_training_has_no_certificate(finished, tmp_path, stage, said):
    assert_one_line_each(run(copy_of(finished, tmp_path / "sluice"), "sluice", "verify-resume", stage), 2, said)
