"""What DVC calls: `sluice stage NAME` binds one stage's files, runs its function, and publishes its outputs whole or not at all."""

import contextlib
import errno
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flows import failures, pretrained
from flows.masking import masked
from flows.parameters import load, stage_params
from flows.pipeline import Contract, Pipeline, Stage, contract
from flows.tracking import PIPELINE, Tracker, git_commit
from flows.workspace import Workspace, locked
from models import weights
from models.errors import SluiceError, StageError, Unavailable, UserError
from models.records import write_json
from models.work import Work

PROGRESS_S = 1.0  # between two lines of progress


def outcome_file(workspace: Workspace, name: str) -> Path:
    """Where a stage leaves how it ended, for the flow: DVC turns every exit code into 255."""
    return workspace.state / "outcomes" / f"{name}.json"


def started_line(name: str) -> str:
    """What a stage prints when it has its place in the pool and begins to work."""
    return f"{name}  started"


def run_stage(workspace: Workspace, name: str, bindings: Mapping[str, str]) -> None:
    """Run one stage. Raises a SluiceError, after its reason is in the outcome file and its run is closed."""
    outcome: dict[str, Any] = {"exit_code": 1, "reason": "", "run_id": None, "seconds": 0.0}
    try:
        pipeline = Pipeline(workspace)
        stage = pipeline.stage(name)
        _require_inputs(workspace.root, stage)
        _require_whole_weights(workspace.root, stage, bindings)
        with _place(workspace, stage.pool):
            print(started_line(name), flush=True)
            started = time.monotonic()
            try:
                _execute(pipeline, stage, bindings, outcome)
            finally:
                outcome["seconds"] = round(time.monotonic() - started, 3)
        outcome["exit_code"] = 0
    except SluiceError as error:
        outcome |= {"exit_code": error.exit_code, "reason": masked(str(error))}
        raise
    except Exception as error:
        known = failures.named(error)
        said = str(known or f"{type(error).__name__}: {failures.one_line(error, 500)}")
        outcome |= {"exit_code": known.exit_code if known else 1, "reason": f"stage {name!r} failed: {said}"}
        raise
    finally:
        with contextlib.suppress(OSError):
            write_json(outcome_file(workspace, name), outcome)


@contextlib.contextmanager
def _place(workspace: Workspace, pool: str) -> Iterator[None]:
    """A place in the pool: the gpu pool has one in a workspace, the cpu pool as many as are asked for."""
    if pool != "gpu":
        yield
        return
    with locked(workspace.lock_file(f"pool-{pool}")):
        yield


def _execute(pipeline: Pipeline, stage: Stage, bindings: Mapping[str, str], outcome: dict[str, Any]) -> None:
    name, workspace = stage.name, pipeline.workspace
    spec, values = contract(name), load(workspace.params_file)
    params = stage_params(values, stage, spec)
    if pretrained.PLACE in stage.deps:
        pretrained.bring(workspace, values, ask=False)  # as it is: DVC hashes it when the stage has ended
    signature = pipeline.signature(name)
    tracker = Tracker(workspace, values["model"])
    tags = {"sluice.stage": name, "sluice.stage_hash": signature, "git.commit": git_commit(workspace.root)}
    if "SLUICE_FLOW_RUN_ID" in os.environ:
        tags["prefect.flow_run_id"] = os.environ["SLUICE_FLOW_RUN_ID"]
    else:
        tracker.close_dead_runs()
    run_id = outcome["run_id"] = tracker.start(PIPELINE, name, tags, os.environ.get("SLUICE_PARENT_RUN_ID"))
    with _closing(tracker, run_id):
        tracker.log_params(run_id, params.model_dump())
        reports = workspace.state / "reports" / name
        progress = Progress(tracker, run_id, name)
        work = Work(workspace.work / name / signature, reports, device(stage.pool), progress)
        try:
            metrics = produce(workspace.root, stage, spec, params, bindings, work)
        finally:
            progress.flush()
            if reports.is_dir():
                tracker.client.log_artifacts(run_id, str(reports), "reports")
        tracker.log_metrics(run_id, metrics)
    shutil.rmtree(workspace.work / name, ignore_errors=True)


def produce(root: Path, stage: Stage, spec: Contract, params: Any, bindings: Mapping[str, str], work: Work) -> dict[str, Any]:
    """Call the stage function on bound paths and rename its outputs into place; return its metrics.

    Outputs are written beside their places under a temporary name. Raises StageError where the function leaves one out.
    """
    inputs = stage.bind(list(spec.inputs.model_fields), stage.artifacts, bindings)
    outputs = stage.bind(list(spec.outputs.model_fields), stage.outs, bindings)
    places = {field: root / path for field, path in outputs.items()}
    drafts = {field: place.with_name(f".{place.name}.draft") for field, place in places.items()}
    for draft in drafts.values():
        draft.parent.mkdir(parents=True, exist_ok=True)
        remove(draft)
    remove(work.reports)
    extra = {"work": work} if spec.wants_work else {}
    try:
        with _disk_errors(stage.name):
            found = spec.function(params, spec.inputs(**{k: root / v for k, v in inputs.items()}), spec.outputs(**drafts), **extra)
            missing = [str(outputs[field]) for field, draft in drafts.items() if not draft.exists()]
            if missing:
                raise StageError(f"stage {stage.name!r} left out {', '.join(missing)}: a stage writes every output it declares")
            metrics: dict[str, Any] = found.model_dump(mode="json")
            for field, draft in drafts.items():
                replace(draft, places[field])
            write_json(root / stage.metrics_file, metrics)
    finally:
        for draft in drafts.values():
            remove(draft)
    return metrics


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def replace(draft: Path, place: Path) -> None:
    """Rename `draft` to `place`; what stood there (a stage run by hand, DVC clears it) moves aside first and is deleted after."""
    if place.exists():
        aside = place.with_name(f".{place.name}.old")
        remove(aside)
        place.rename(aside)
        draft.rename(place)
        remove(aside)
    else:
        draft.rename(place)


def device(pool: str) -> str:
    """The device that a stage of the pool may use, and what makes equal work equal bytes on a CPU.

    The order of a sum depends on how many threads share it: they are counted out. MKL promises the same bytes from run to run only where
    its "conditional numerical reproducibility" is on.
    """
    if pool != "gpu":
        return "cpu"
    import torch

    os.environ.setdefault("MKL_CBWR", "AUTO")  # read at the first product
    asked = os.environ.get("OMP_NUM_THREADS", "")
    torch.set_num_threads(int(asked) if asked.isdigit() else len(os.sched_getaffinity(0)))
    return "cuda" if torch.cuda.is_available() else "cpu"


def _require_inputs(root: Path, stage: Stage) -> None:
    missing = [dep for dep in stage.artifacts if not (root / dep).exists()]
    if missing:
        raise UserError(
            f"stage {stage.name!r} needs {', '.join(missing)}, not found in {root}: "
            "'sluice run' or 'dvc repro' makes what stages make, 'dvc pull' brings what DVC tracks"
        )


def _require_whole_weights(root: Path, stage: Stage, bindings: Mapping[str, str]) -> None:
    """Model folders that somebody brought here, or half of them: told before a library stumbles over them."""
    for folder in sorted({*stage.artifacts, *bindings.values()}):
        for path in sorted((root / folder).glob("*.safetensors")):
            try:
                weights.require_whole(path)
            except UserError as error:
                raise UserError(f"stage {stage.name!r}: {error}") from None


@contextlib.contextmanager
def _disk_errors(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise Unavailable(
            f"stage {name!r}: the disk is full at {error.filename}, nothing half-written is left; free some space, run again"
        ) from None


@contextlib.contextmanager
def _closing(tracker: Tracker, run_id: str) -> Iterator[None]:
    """Close the run as what happened: FINISHED, FAILED with the reason, or KILLED by SIGTERM or Ctrl-C."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, interrupt)
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        tracker.end(run_id, "KILLED", "stopped by a signal")
        raise
    except BaseException as error:
        tracker.end(run_id, "FAILED", f"{type(error).__name__}: {error}")
        raise
    tracker.end(run_id, "FINISHED")


class Progress:
    """Prints a stage's steps as lines that the flow can read, and keeps them for MLflow; both at a bearable rate."""

    def __init__(self, tracker: Tracker, run_id: str, name: str) -> None:
        self.tracker, self.run_id, self.name = tracker, run_id, name
        self.started = self.printed = time.monotonic()
        self.waiting: list[tuple[int, dict[str, float]]] = []

    def __call__(self, step: int, total: int, values: Mapping[str, float]) -> None:
        now = time.monotonic()
        self.waiting.append((step, dict(values)))
        if step < total and now - self.printed < PROGRESS_S:
            return
        self.printed = now
        left = (now - self.started) / step * (total - step)
        shown = "".join(f"  {key} {value:.4g}" for key, value in values.items())
        print(f"{self.name}  step {step}/{total}{shown}  left {left:.0f} s", flush=True)
        if now - self.started > 10 * PROGRESS_S * (1 + len(self.waiting) // 200):
            self.flush()

    def flush(self) -> None:
        """Hand what is waiting to MLflow. A server that is away costs the curve, not the training."""
        waiting, self.waiting = self.waiting[-2000:], []
        try:
            self.tracker.log_steps(self.run_id, waiting)
        except Exception as error:
            print(f"{self.name}  MLflow did not take {len(waiting)} steps of progress: {failures.one_line(error, 200)}", file=sys.stderr)


def parse_bindings(pairs: Sequence[str]) -> dict[str, str]:
    """{"model": "artifacts/base"} from ["model=artifacts/base"]."""
    faulty = [pair for pair in pairs if "=" not in pair]
    if faulty:
        raise UserError(f"{faulty[0]!r} is no binding: write NAME=PATH")
    return dict(pair.split("=", 1) for pair in pairs)
