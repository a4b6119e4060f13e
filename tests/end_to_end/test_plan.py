"""What a run is going to take, foretold by running each stage in miniature."""

import json

import pytest

from flows.run import plan as plans
from flows.stages import probe
from models.core.files import write_json
from tests.workspaces import copy_of, make_workspace, run, snapshot


@pytest.mark.slow
def test_a_clone_that_never_ran_is_planned_whole_and_left_as_it_was(tmp_path, finished):
    workspace = make_workspace(tmp_path / "sluice")
    before = snapshot(*(workspace / name for name in ("artifacts", "metrics", "dvc.yaml", "params.yaml")))
    done = run(workspace, "sluice", "plan", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    ran = json.loads((finished / ".sluice" / "last_run.json").read_text())["stages"]
    assert [row["name"] for row in found["stages"]] == [stage["name"] for stage in ran]
    rows = {row["name"]: row for row in found["stages"]}
    assert rows["base"]["steps"] == 40
    assert rows["base"]["step_seconds"] > 0
    assert all(row["seconds"] > 0 and row["peak_mib"] > 50 and row["micro_batch"] is None for row in found["stages"])
    assert rows["rlhf"]["outputs_mb"] > 0.1
    assert rows["rlhf"]["checkpoints_mb"] > 2 * rows["rlhf"]["outputs_mb"]
    assert found["cost"] is None
    assert not (workspace / ".work" / "plan").exists()
    assert snapshot(*(workspace / name for name in ("artifacts", "metrics", "dvc.yaml", "params.yaml"))) == before


def test_where_nothing_would_run_there_is_nothing_to_plan(finished, tmp_path):
    workspace = copy_of(finished, tmp_path / "sluice")
    done = run(workspace, "sluice", "plan")
    assert (done.returncode, done.stdout) == (0, "nothing to run\n"), done.stderr


class Fake:
    """Probes that are killed until few enough records go through at once."""

    def __init__(self, folder, fits):
        self.folder, self.fits, self.tried = folder, fits, []

    def __call__(self, command, _cwd, _env, on_line, _limit):
        size = int(command[-1]) if "--micro-batch" in command else 16
        self.tried.append(size)
        if size > self.fits:
            return 137
        seen = {"seconds": 7200.0, "steps": 10, "step_seconds": 1.0, "peak_mib": 100.0, "device_mib": 0.0}
        write_json(self.folder / "sft.json", seen | {"checkpoints_mb": 1.0, "outputs_mb": 1.0})
        on_line("sft  step 1/10")
        return 0


def planned(monkeypatch, finished, tmp_path, fits):
    workspace, fake = plans.Workspace(finished), Fake(tmp_path, fits)
    monkeypatch.setattr(plans.processes, "stream", fake)
    stage = plans.Pipeline(workspace).stage("sft")
    return fake, lambda: plans._row(workspace, stage, tmp_path, "", 2.0, lambda _: None)


def test_what_is_killed_for_its_memory_is_tried_with_half_at_once(finished, tmp_path, monkeypatch):
    fake, row = planned(monkeypatch, finished, tmp_path, fits=4)
    found = row()
    assert fake.tried == [16, 8, 4]
    assert (found["micro_batch"], found["cost"]) == (4, 4.0)
    [line] = plans.warnings({"stages": [found], "memory_mib": 1000.0, "disk_mb": 1.0, "free_mb": 10.0})
    assert line == "sft does not fit with all of a batch at once: micro_batch 4 does"


def test_what_fits_in_no_way_is_said(finished, tmp_path, monkeypatch):
    fake, row = planned(monkeypatch, finished, tmp_path, fits=0)
    with pytest.raises(plans.StageError, match=r"^stage 'sft' does not run, not even in miniature"):
        row()
    assert fake.tried == [16, 8, 4, 2, 1]


def test_a_machine_that_is_too_small_is_told():
    row = {"name": "rlhf", "peak_mib": 950.0, "micro_batch": None}
    lines = plans.warnings({"stages": [row], "memory_mib": 1000.0, "disk_mb": 9000.0, "free_mb": 10.0})
    assert lines == ["rlhf takes 0.9 of the machine's 1.0 GiB of memory", "9.0 GB are written, 0.0 GB are free: free some space first"]


def test_a_miniature_has_few_of_everything_and_no_limit_of_a_whole_training():
    whole = {
        "training": {"steps": 400, "max_rise": 3.0},
        "epochs": 3.0,
        "items": {"mmlu": None, "gpqa": 20},
        "floor": 0.6,
        "records": {"items": 9},
    }
    few = probe._few(whole, 2)
    assert few == {
        "training": {"steps": probe.STEPS, "max_rise": None},
        "epochs": 1.0,
        "items": {"mmlu": probe.ASKED, "gpqa": 20},
        "floor": 0.0,
        "records": {"items": 9},
    }
    assert probe._few({"micro_batch": None}, 2) == {"micro_batch": 2}


def test_records_of_every_length_are_among_the_few(tmp_path):
    (tmp_path / "whole").mkdir()
    lines = [b"x" * length + b"\n" for length in range(1, 101)]
    (tmp_path / "whole" / "train.jsonl").write_bytes(b"".join(lines))
    assert probe._shortened(tmp_path / "whole", tmp_path / "some", 10) == 10
    kept = (tmp_path / "some" / "train.jsonl").read_bytes().splitlines()
    assert [len(line) for line in kept] == list(range(1, 101, 10))
    assert probe._shortened(tmp_path / "whole", tmp_path / "all", 1000) == 1.0
