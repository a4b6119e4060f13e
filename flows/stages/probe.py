"""A stage in miniature: its real function on a few steps' worth of its data, timed and measured, in a process of its own.

What a stage does once it does here in full: load, one checkpoint, measure on held-out records, save. What it does again and again it
does a few times, on records of every length. Nothing is published, told to MLflow, or known to DVC.
"""

import hashlib
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from flows.host import slots
from flows.host.workspace import Workspace
from flows.stages import pretrained, ranks
from flows.stages.parameters import load, stage_params
from flows.stages.pipeline import Pipeline, Stage, contract
from flows.stages.pretrained import RegistryOf
from models.core.checkpoints import KEPT, Checkpoints
from models.core.files import read_json, write_json
from models.core.given import read_lines
from models.core.records import Record
from models.core.work import Work

STEPS = 12  # of a training
ASKED = 48  # items of a suite
WARM = 2  # first steps, which are slower
SAVED = 4  # the step after which a checkpoint is written
OUTS = "outs"
PLAN = "plan.json"  # in the workspace's state: what was foretold of the stages, for the report of the run that follows
LIFTED = {"floor": 0.0, "max_kl": 1e9, "max_rise": None}  # what a training of a few steps may not meet


class Probed(Record):
    """What a stage is going to take: seconds in all, steps of so many seconds, memory of process and device in MiB, and MB of disk."""

    seconds: float
    steps: int
    step_seconds: float
    peak_mib: float
    device_mib: float
    checkpoints_mb: float
    outputs_mb: float


@dataclass
class Timing(Checkpoints):
    """Notes when each step ends, and writes one checkpoint."""

    ends: list[float] = field(default_factory=list)
    saving: float = 0.0
    size: int = 0

    def due(self) -> bool:
        self.ends.append(time.perf_counter())
        return len(self.ends) == SAVED

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        started = time.perf_counter()
        super().save(step, write)
        self.saving, self.size = time.perf_counter() - started, _size(self.folder)


@dataclass(frozen=True)
class Miniature:
    """A stage with fewer of everything: its params, its inputs, and how many times as much the stage itself has to do."""

    params: Any
    inputs: Mapping[str, Path]
    times: float


def probe(workspace: Workspace, name: str, folder: Path, micro_batch: int | None, registry_of: RegistryOf) -> None:
    """Run a stage in miniature, and leave in `folder` what was seen, and its outputs for the stages after it."""
    stage, values = Pipeline(workspace).stage(name), load(workspace.params_file)
    if pretrained.PLACE in stage.deps:
        pretrained.bring(workspace, values, registry_of, ask=False)
    spec, own = contract(stage), seen(folder, name).with_suffix("")
    whole = stage_params(values, stage, spec)
    small = _miniature(workspace, stage, whole, folder, own, micro_batch)
    outputs = {field: folder / OUTS / path for field, path in stage.bind(spec.outputs, stage.outs).items()}
    for path in outputs.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    timing, told = Timing(own / ranks.CHECKPOINTS), list[float]()
    with slots.slot(workspace, stage.pool, lambda line: print(f"{name}  {line}", flush=True)):
        work = Work(own, own / "reports", ranks.prepare_device(stage.pool), timing, lambda *_: told.append(time.perf_counter()))
        extra = {"work": work} if spec.wants_work else {}
        started = time.perf_counter()
        spec.function(small.params, spec.inputs(**small.inputs), spec.outputs(**outputs), **extra)
        ended = time.perf_counter()
    steps = _steps(whole, len(timing.ends), small.times)
    seconds, a_step = _seconds(stage, timing, steps, small.times, started, told[0] if told else ended, ended)
    found = Probed(
        seconds=seconds,
        steps=steps,
        step_seconds=a_step,
        peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10),
        device_mib=_device_mib(work.device),
        checkpoints_mb=KEPT * timing.size / 1e6,
        outputs_mb=sum(map(_size, outputs.values())) / 1e6,
    )
    write_json(seen(folder, name), found.model_dump())


def seen(folder: Path, name: str) -> Path:
    """Where a probe leaves what it saw of a stage."""
    return folder / f"{name.replace('/', '-')}.json"


def _miniature(workspace: Workspace, stage: Stage, whole: Any, folder: Path, own: Path, micro_batch: int | None) -> Miniature:
    """Trainings get STEPS steps, suites ASKED items; records of every length are among those that are left."""
    spec = contract(stage)
    params: Any = spec.params.model_validate(_few(whole.model_dump(), micro_batch))
    bound = stage.bind(spec.inputs, stage.artifacts)
    inputs = {field: _found(workspace.root, folder / OUTS, path) for field, path in bound.items()}
    if hasattr(params, "epochs"):
        count = STEPS * int(params.batch_size)
        for field, path in inputs.items():
            if (path / "train.jsonl").is_file():
                some = own / "inputs" / field
                return Miniature(params, inputs | {field: some}, _shortened(path, some, count))
    suite = inputs.get("suite")
    if suite is not None and isinstance(asked := whole.model_dump().get("items"), dict):
        listed = suite / "items.jsonl"
        every = sum(1 for _ in read_lines(listed)) if listed.is_file() else ASKED
        return Miniature(params, inputs, max(1.0, min(every, asked.get(suite.name) or every) / ASKED))
    return Miniature(params, inputs, 1.0)


def _few(params: Mapping[str, Any], micro_batch: int | None) -> dict[str, Any]:
    """Params of any stage with few steps, one epoch, few items, and without limits that only a whole training meets."""
    found = dict(params)
    for key, value in params.items():
        if key == "steps":
            found[key] = min(value, STEPS)
        elif key == "epochs":
            found[key] = 1.0
        elif key == "items" and isinstance(value, dict):
            found[key] = {suite: min(count or ASKED, ASKED) for suite, count in value.items()}
        elif key == "micro_batch" and micro_batch is not None:
            found[key] = micro_batch
        elif key in LIFTED:
            found[key] = LIFTED[key]
        elif isinstance(value, dict):
            found[key] = _few(value, micro_batch)
    return found


def _found(root: Path, made: Path, path: str) -> Path:
    """An input: as a probe before this one made it; but a model of an earlier run, of the same shape, writes as a trained one does."""
    old, new = root / path, made / path
    if not new.exists():
        return old
    shapes = [place / "config.json" for place in (old, new)]
    alike = all(shape.is_file() for shape in shapes) and shapes[0].read_bytes() == shapes[1].read_bytes()
    return old if alike else new


def _shortened(whole: Path, some: Path, count: int) -> float:
    """Copy a folder of records with `count` of those to train on, from the shortest to the longest; how many times as many there are."""
    shutil.copytree(whole, some, dirs_exist_ok=True)
    lines = (some / "train.jsonl").read_bytes().splitlines(keepends=True)
    by_length = sorted(lines, key=len)
    kept = [by_length[place * len(lines) // count] for place in range(count)] if len(lines) > count else lines
    (some / "train.jsonl").write_bytes(b"".join(kept))
    return len(lines) / len(kept) if kept else 1.0


def _steps(whole: Any, done: int, times: float) -> int:
    """The steps of the whole training, of which so many were done; 0 where there is none."""
    if not done:
        return 0
    plan = getattr(whole, "training", None) or whole
    return int(plan.steps) if hasattr(plan, "steps") else round(done * times * float(getattr(plan, "epochs", 1)))


def _seconds(stage: Stage, timing: Timing, steps: int, times: float, started: float, first: float, ended: float) -> tuple[float, float]:
    """Of the whole stage, and of a step of its training."""
    if len(timing.ends) <= WARM:
        return (first - started) + (ended - first) * times, 0.0  # what was before the first word of progress is done once
    gaps = [after - before for before, after in pairwise(timing.ends)]
    if len(gaps) >= SAVED:
        gaps[SAVED - 1] -= timing.saving
    usual = sorted(gaps[WARM - 1 :])
    a_step = statistics.mean(usual[len(usual) // 4 : -(len(usual) // 4) or None])  # without what a busy moment of the machine adds
    once = (ended - started) - (timing.ends[-1] - timing.ends[0])
    written = int(steps * a_step / max(1.0, 60 * stage.checkpoint_minutes))
    return once + (steps - 1) * a_step + written * timing.saving, a_step


def params_md5(workspace: Workspace) -> str:
    return hashlib.md5(workspace.params_file.read_bytes(), usedforsecurity=False).hexdigest()


def foretold(workspace: Workspace) -> dict[str, Any]:
    """The rows of the last plan by stage, as far as it was for these params."""
    found = read_json(workspace.state / PLAN, {})
    return {row["name"]: row for row in found["stages"]} if found and found["params_md5"] == params_md5(workspace) else {}


def _device_mib(device: str) -> float:
    if device == "cpu":
        return 0.0
    import torch

    return torch.cuda.max_memory_reserved() / (1 << 20)


def _size(path: Path | None) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path is None or not path.exists():
        return 0
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
