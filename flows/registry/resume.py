"""Whether a training that is killed goes on to the very bytes that dvc.lock records: tried on the stage itself, beside the workspace."""

import contextlib
import os
import random
import re
import shutil
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from flows.host import checkout, processes
from flows.host.workspace import Workspace
from flows.registry.decisions import Registry
from flows.registry.verify import Tell, env_of
from flows.stages import listing, pretrained
from flows.stages.pipeline import Pipeline, Stage, git_commit, signature
from models.core.errors import StageError, UserError

FILE, TAG = "resumed.json", "sluice.resumed"
STEP, WENT_ON = re.compile(r"  step (\d+)/(\d+)"), re.compile(r"  goes on after step (\d+),")


def certificate(registry: Registry, name: str, seed: int, tell: Tell) -> dict[str, Any]:
    """Make a stage's outputs again with its process killed at a random step, and compare; what is found is kept with the stage's run.

    {stage, commit, signature, steps, killed_after, went_on_after, outs: {path: [recorded, made again]}, equal, run_id}. Raises UserError
    where the stage has not run as it stands here, is no training, or the code is not that of a commit.
    """
    workspace = registry.tracker.workspace
    pipeline = Pipeline(workspace)
    stage, recorded = pipeline.stage(name), pipeline.recorded()
    wanted = signature(pipeline.entries([name])[name])
    if name not in recorded or signature(recorded[name]) != wanted:
        raise UserError(f"stage {name!r} has not run as it stands here, must have to be compared with: 'sluice run' makes it")
    commit = git_commit(workspace.root)
    if not commit or commit.endswith("-dirty"):
        raise UserError(f"{workspace.root} is not as a commit has it, must be to be checked out beside it: commit the changes")
    with checkout.checkout(workspace, commit, workspace.params_file.read_text(encoding="utf-8"), apart=True) as copy:
        _prepare(workspace, copy, stage)
        kill = _Kill(copy, stage, seed, tell)
        kill.strike()
        went_on = _finish(copy, stage, tell)
        again = Pipeline(copy).recorded()[name]
    outs = {out["path"]: [out["md5"], _md5(again, out["path"])] for out in recorded[name]["outs"]}
    found = {
        "stage": name,
        "commit": commit,
        "signature": wanted,
        "steps": kill.steps,
        "killed_after": kill.after,
        "went_on_after": went_on,
        "outs": outs,
        "equal": all(before == after for before, after in outs.values()),
    }
    return found | {"run_id": _keep(registry, wanted, found)}


def _md5(entry: Mapping[str, Any], path: str) -> str | None:
    return next((out["md5"] for out in entry["outs"] if out["path"] == path), None)


def _prepare(workspace: Workspace, copy: Workspace, stage: Stage) -> None:
    """Put the stage's inputs into the checkout, and have it write a checkpoint after each step."""
    shutil.copy2(workspace.root / "dvc.lock", copy.root / "dvc.lock")
    if pretrained.PLACE in stage.deps:
        shutil.copytree(workspace.root / pretrained.PLACE, copy.root / pretrained.PLACE, symlinks=True, dirs_exist_ok=True)
    for path in stage.artifacts:
        if path != pretrained.PLACE:
            checkout.dvc(copy.root, "checkout", path)
    keep_each_step(copy.root, stage.section)


def keep_each_step(root: Path, name: str) -> None:
    """Have a stage of dvc.yaml write a checkpoint after each step; `meta` is in no hash."""
    yaml, file = YAML(), root / "dvc.yaml"
    pipeline = yaml.load(file.read_text(encoding="utf-8"))
    made = pipeline["stages"][name]
    made.get("do", made).setdefault("meta", {})["checkpoint_minutes"] = 0
    with file.open("w", encoding="utf-8") as out:
        yaml.dump(pipeline, out)


class _Kill:
    """One execution of a stage, killed with all its processes once a checkpoint of a step is there that is drawn by the seed."""

    def __init__(self, copy: Workspace, stage: Stage, seed: int, tell: Tell) -> None:
        self.copy, self.stage, self.tell, self.random = copy, stage, tell, random.Random(f"{seed} {stage.name}")
        self.steps = self.at = self.after = 0
        self.over = threading.Event()

    def strike(self) -> None:
        """Raises UserError for a stage that ends without having written the checkpoint: it trains nothing, or in one step."""
        command = listing.dvc("repro", "--single-item", "--force", self.stage.name)
        child = processes.start(command, self.copy.root, env_of(self.copy.root), -1)
        watcher = threading.Thread(target=self._watch, args=(child.pid,), daemon=True)
        watcher.start()
        assert child.stdout is not None
        for line in child.stdout:
            self._hear(line)
        child.wait()
        self.over.set()
        watcher.join()
        processes.stop(child)
        if not self.after:
            raise UserError(f"stage {self.stage.name!r} ended before it could be killed between two steps: it must train, for some steps")

    def _hear(self, line: str) -> None:
        if not self.at and (told := STEP.search(line)):
            self.steps = int(told[2])
            self.at = self.random.randint(1, max(1, self.steps - 1))
            self.tell(f"{self.stage.name} has {self.steps} steps, and is killed after step {self.at} or later")

    def _watch(self, group: int) -> None:
        while not self.over.wait(0.01):
            kept = [int(path.name) for path in self.copy.work.glob(f"{self.stage.name}/*/checkpoints/[0-9]*")]
            if self.at and kept and self.at <= max(kept) < self.steps:
                self.after = max(kept)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)
                return


def _finish(copy: Workspace, stage: Stage, tell: Tell) -> int:
    """Run the stage to its end, and return the step after which it went on. Raises StageError where it fails or begins anew."""
    (copy.root / ".dvc" / "tmp" / "rwlock").unlink(missing_ok=True)  # names those that were killed, whom init may not have buried yet
    lines: list[str] = []
    command = listing.dvc("repro", "--single-item", "--force", stage.name)
    code = processes.stream(command, copy.root, env_of(copy.root), lines.append, threading.TIMEOUT_MAX)
    if code:
        raise StageError(f"stage {stage.name!r} failed when it went on: {lines[-1] if lines else 'no output'}")
    went_on = next((int(told[1]) for line in lines if (told := WENT_ON.search(line))), None)
    if went_on is None:
        raise StageError(f"stage {stage.name!r} began anew after it was killed: no checkpoint of it was whole")
    tell(f"{stage.name} went on after step {went_on}")
    return went_on


def _keep(registry: Registry, wanted: str, found: Mapping[str, Any]) -> str | None:
    """Put the certificate on the run that made what is on record; its id, None where MLflow knows of none."""
    run_id, client = registry.tracker.run_of(wanted), registry.tracker.client
    if run_id:
        client.log_dict(run_id, dict(found), FILE)
        client.set_tag(run_id, TAG, f"{_word(found['equal'])}, killed after step {found['killed_after']}")
    return run_id


def _word(equal: bool) -> str:
    return "equal" if equal else "DIFFERENT"


def describe(found: Mapping[str, Any]) -> str:
    """The certificate as lines."""
    said = f"{found['stage']}: {found['steps']} steps, killed after {found['killed_after']}, went on after {found['went_on_after']}"
    outs = [f"{_word(before == after):9}  {path}  {after}" for path, (before, after) in found["outs"].items()]
    kept = f"kept with MLflow run {found['run_id']}" if found["run_id"] else "MLflow has no run of it to keep this with"
    return "\n".join([said, *outs, kept])
