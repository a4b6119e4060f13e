"""Kill the flow's whole process tree at any instant: the next run carries on and ends as an uninterrupted one."""

import contextlib
import json
import random
import subprocess
import time

import psutil
import pytest
from ruamel.yaml import YAML

from models.records import folder_md5
from tests.workspaces import PROGRAMS, environment, make_workspace, run

INSTANTS = [random.Random(seed).random() for seed in range(20)]  # shares of an uninterrupted run
IN_CI = sorted(INSTANTS)[2::6][:3]  # early, middle, late


def kill_after(workspace, seconds):
    """Start a run and SIGKILL it with all its descendants after `seconds`; return whether it was still at work."""
    flow = subprocess.Popen(
        [str(PROGRAMS / "sluice"), "run"], cwd=workspace, env=environment(workspace), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        flow.wait(seconds)
        return False
    except subprocess.TimeoutExpired:
        tree = [psutil.Process(flow.pid), *psutil.Process(flow.pid).children(recursive=True)]
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended by itself meanwhile
                process.kill()
        psutil.wait_procs(tree, 10)
        flow.wait()
        return True


def processes_of(workspace):
    """Every process that works in the workspace or names it."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "cwd"]):
        words = " ".join(process.info["cmdline"] or [])
        if str(workspace) in words or str(process.info["cwd"] or "").startswith(str(workspace)):
            found.append(words)
    return found


def finished_stages(workspace):
    path = workspace / "dvc.lock"
    return set((YAML(typ="safe").load(path.read_text()) or {}).get("stages", {})) if path.exists() else set()


def check_carried_on(finished, workspace, before):
    """The next run ends as an uninterrupted one, and repeats no stage of `before`."""
    done = run(workspace, "sluice", "run")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    uninterrupted, found = (
        json.loads((finished / "status.json").read_text()),
        json.loads(run(workspace, "sluice", "status", "--json").stdout),
    )
    assert folder_md5(workspace / "artifacts" / "rlhf") == uninterrupted["champion"]["model_md5"]
    assert found["champion"]["model_md5"] == uninterrupted["champion"]["model_md5"]
    assert (found["champion"]["version"], found["aliases"]) == ("1", {"champion": "1"})
    again = {stage["name"] for stage in found["last_run"]["stages"] if stage["state"] == "ran"} & before
    assert not again, f"finished before the kill, ran again: {again}"
    assert run(workspace, "dvc", "status").stdout.strip() == "Data and pipelines are up to date."
    time.sleep(0.5)
    assert processes_of(workspace) == []


def length_of(finished):
    return float((finished / "seconds.txt").read_text())


def test_a_run_killed_three_times_over_is_carried_on_to_the_same_model(finished, tmp_path):
    workspace, killed = make_workspace(tmp_path / "sluice"), 0
    for share in IN_CI:
        killed += kill_after(workspace, share * length_of(finished))
        assert processes_of(workspace) == []
    assert killed  # the later ones may come too late where the machine has become faster since
    check_carried_on(finished, workspace, finished_stages(workspace))


@pytest.mark.slow
@pytest.mark.parametrize("share", INSTANTS)
def test_a_killed_run_is_carried_on_to_the_same_model_wherever_it_was(finished, tmp_path, share):
    workspace = make_workspace(tmp_path / "sluice")
    assert kill_after(workspace, share * length_of(finished)) or share > 0.5  # a machine that is faster now may be done by then
    check_carried_on(finished, workspace, finished_stages(workspace))
