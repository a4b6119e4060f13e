"""Kill the flow's whole process tree wherever it is: the next run carries on and ends as an uninterrupted one.

Each kill waits for something that the run says or does, and must hit: the run was at work, and what it was at had not come to its end.
"""

import contextlib
import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from flows.stages import salvage
from models.core.content import folder_md5
from tests.workspaces import PROGRAMS, call, copy_of, environment, make_workspace, run, without_stages

PATIENCE_S = 300
PAUSED = """
import pkgutil, sys, time
from pathlib import Path
from flows.cli import main
from flows.host.workspace import find, prepare_environment
def pause(*_, **__):
    Path(".sluice/paused").touch()
    time.sleep(3600)
prepare_environment(find())
owner, _, name = sys.argv[1].rpartition(".")
setattr(pkgutil.resolve_name(owner), name, pause)
sys.argv[1:] = ["run"]
main.main()
"""  # `sluice run` that stands still where it would call what is named


@dataclass(frozen=True)
class Kill:
    """An instant: when the run says a line, when an output lies in its place, or before a call that the flow makes.

    `stage` is what must not have been finished when the kill came.
    """

    says: str = ""
    published: str = ""
    before: str = ""
    stage: str = ""

    def __str__(self) -> str:
        return f"{self.stage or self.says}{' published' if self.published else ''}{self.before and f'before {self.before}'}"

    def has_come(self, workspace: Path, said: Path) -> bool:
        if self.says:
            return re.search(self.says, said.read_text(), re.MULTILINE) is not None
        return (workspace / (self.published or ".sluice/paused")).exists()


def training(stage):
    """In the middle of a training, its first steps done."""
    return Kill(says=rf"^ .* s  {stage}  step ", stage=stage)


def publishing(stage, output=""):
    """Between the rename of an output to its place and the entry in dvc.lock."""
    return Kill(published=f"artifacts/{output or stage}", stage=stage)


LAST = "benchmark@rlhf-humaneval-mini"
KILLS = (
    Kill(says="^sluice: to run: ", stage="sources"),
    Kill(says="sources  started", stage="sources"),
    publishing("sources", "records"),
    Kill(says="prepare  started", stage="prepare"),
    publishing("prepare", "prepared/documents"),
    publishing("tokenizer"),
    training("base"),
    publishing("base"),
    training("sft"),
    publishing("sft"),
    training("reward"),
    publishing("reward"),
    training("rlhf"),
    publishing("rlhf"),
    Kill(says=f"{LAST}  started", stage=LAST),
    publishing(LAST, "benchmark/rlhf-humaneval-mini"),
    Kill(before="flows.registry.release.register_candidate"),
    Kill(before="flows.registry.release.carry_out"),  # the version is registered, nothing is on record
    Kill(before="mlflow.MlflowClient.set_registered_model_alias"),  # the decision is on record, the alias has not moved
    Kill(before="flows.registry.record.set_head"),  # the alias has moved, the record's head has not
)  # in the order in which an uninterrupted run comes to them
BEFORE = ("rlhf", "benchmark@rlhf-mmlu-mini", "benchmark@rlhf-gpqa-mini", LAST)
IN_CI = (KILLS[12], KILLS[18])  # all within or after BEFORE


def start(workspace, kill, said):
    """Start a run that stands still where `kill` asks for it."""
    command = [sys.executable, "-c", PAUSED, kill.before] if kill.before else [str(PROGRAMS / "sluice"), "run"]
    with said.open("w") as output:
        return subprocess.Popen(command, cwd=workspace, env=environment(workspace), stdout=output, stderr=output)


def strike(workspace, kill, alone=False):
    """Start a run, and SIGKILL it at the instant of `kill`: with all its descendants, or alone, and they end by themselves."""
    said = workspace.with_name("said.txt")
    flow = start(workspace, kill, said)
    deadline = time.monotonic() + PATIENCE_S
    while not kill.has_come(workspace, said) and flow.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    assert flow.poll() is None, f"{kill}: the run had ended by itself: {said.read_text()[-3000:]}"
    children = psutil.Process(flow.pid).children(recursive=True)
    flow.kill()
    for child in () if alone else children:
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended by itself meanwhile
            child.kill()
    flow.wait()
    deadline = time.monotonic() + (5 if alone else 10)
    while processes_of(workspace) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert kill.has_come(workspace, said), f"{kill} did not come in {PATIENCE_S} s: {said.read_text()[-3000:]}"
    assert kill.stage not in finished_stages(workspace), f"{kill}: the kill came too late"
    (workspace / ".sluice" / "paused").unlink(missing_ok=True)
    return said.read_text()


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
    return set(salvage.stages(path.read_bytes()) or {}) if path.exists() else set()  # none where DVC was writing it


def check_repeats_nothing(said, before, published):
    """Of what a run said: it started no stage of `before`, and took no step of one that had published its outputs."""
    again = set(re.findall(r"^ .* s  (\S+)  started$", said, re.MULTILINE)) & before
    assert not again, f"finished before the kill, ran again: {again}"
    again = set(re.findall(r"^ .* s  (\S+)  step ", said, re.MULTILINE)) & published
    assert not again, f"published before the kill, trained again: {again}"


def check_ends_as_uninterrupted(workspace, finished, before, published):
    """The next run ends as an uninterrupted one, and repeats no stage of `before` and no work of `published`."""
    done = run(workspace, "sluice", "run")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    check_repeats_nothing(done.stdout, before, published)
    uninterrupted, found = (
        json.loads((finished / "status.json").read_text()),
        json.loads(call(workspace, "status", "--json").stdout),
    )
    assert folder_md5(workspace / "artifacts" / "rlhf") == uninterrupted["champion"]["model_md5"]
    assert found["champion"]["model_md5"] == uninterrupted["champion"]["model_md5"]
    assert (found["champion"]["version"], found["aliases"]) == ("1", {"champion": "1"})
    assert run(workspace, "dvc", "status").stdout.strip() == "Data and pipelines are up to date."
    audited = call(workspace, "audit")
    assert audited.stdout.startswith("1 decision on record, 0 findings\n"), audited.stdout + audited.stderr
    time.sleep(0.5)
    assert processes_of(workspace) == []


def killed(workspace, kills, alone=()):
    """(finished stages, published ones) after a run was killed at each instant in turn, and each time taken up where it was.

    At the instants of `alone` the flow is killed, and its descendants are not.
    """
    before, published = set(), set()
    for kill in kills:
        check_repeats_nothing(strike(workspace, kill, kill in alone), before, published)
        assert processes_of(workspace) == [], f"outlived the kill {kill}"
        before |= finished_stages(workspace)
        published |= {kill.stage} if kill.published else set()
    return before, published


def test_a_run_killed_twice_over_is_carried_on_to_the_same_model(finished, tmp_path):
    workspace = without_stages(copy_of(finished, tmp_path / "sluice"), BEFORE)
    check_ends_as_uninterrupted(workspace, finished, *killed(workspace, IN_CI, alone=IN_CI[:1]))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(4))
def test_a_run_killed_at_each_of_twenty_instants_is_carried_on_to_the_same_model(finished, tmp_path, first):
    workspace = make_workspace(tmp_path / "sluice")
    check_ends_as_uninterrupted(workspace, finished, *killed(workspace, KILLS[first::4]))  # five in turn; four such runs come to all
