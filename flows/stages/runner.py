"""What DVC calls: `sluice stage NAME` binds one stage's files, runs its function, and publishes its outputs whole or not at all."""

import contextlib
import csv
import errno
import os
import resource
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace as with_fields
from pathlib import Path
from typing import Any

from flows.host import courier, failures, slots, spool
from flows.host.masking import masked
from flows.host.workspace import Workspace
from flows.stages import finished, pretrained, ranks
from flows.stages.parameters import load, stage_params
from flows.stages.pipeline import Contract, Pipeline, Stage, contract, data_of, git_commit
from flows.stages.pipeline import signature as signature_of
from flows.stages.pretrained import RegistryOf
from models.core.checkpoints import Checkpoints
from models.core.errors import SluiceError, StageError, Unavailable, UserError
from models.core.files import write_json
from models.core.work import Work
from models.train import weights

CURVE = "curve"  # the field under which a stage's plot is saved beside its outputs
POINTS = 2000  # of a plot
SHOWN = ("loss", "mean_reward", "accuracy", "kl_per_token")  # of a step's values, on the screen
PROGRESS_S = 1.0  # between two lines of progress
FLOW_RUN, PARENT = "SLUICE_FLOW_RUN_ID", "SLUICE_PARENT_RUN"  # what a flow tells its stages: its own id, the key of its run


def outcome_file(workspace: Workspace, name: str) -> Path:
    """Where a stage leaves how it ended, for the flow: DVC turns every exit code into 255."""
    return workspace.state / "outcomes" / f"{name}.json"


def started_line(name: str) -> str:
    """What a stage prints when it has its slot of the pool and begins to work."""
    return f"{name}  started"


def run_stage(workspace: Workspace, name: str, bindings: Mapping[str, str], registry_of: RegistryOf) -> None:
    """Run one stage. Raises a SluiceError, after its reason is in the outcome file and its run is closed."""
    outcome: dict[str, Any] = {"exit_code": 1, "reason": "", "passing": False, "seconds": 0.0}
    try:
        pipeline = Pipeline(workspace)
        stage = pipeline.stage(name)
        stage = with_fields(stage, given={**stage.given, **bindings})
        _require_inputs(workspace.root, stage)
        _require_whole_weights(workspace.root, stage)
        with _slots(workspace, stage):
            print(started_line(name), flush=True)
            started = time.monotonic()
            outcome |= {"started": round(time.time(), 3), "host": socket.gethostname()}
            try:
                _execute(pipeline, stage, registry_of)
            finally:
                outcome |= {"seconds": round(time.monotonic() - started, 3), "peak_mib": round(_peak_mib())}
        outcome["exit_code"] = 0
    except SluiceError as error:
        outcome |= {"exit_code": error.exit_code, "reason": masked(str(error)), "passing": _passes(error)}
        raise
    except Exception as error:
        known = failures.named(error)
        said = str(known or f"{type(error).__name__}: {failures.one_line(error, 500)}")
        outcome |= {"exit_code": known.exit_code if known else 1, "reason": f"stage {name!r} failed: {said}", "passing": _passes(error)}
        raise
    finally:
        with contextlib.suppress(OSError):
            write_json(outcome_file(workspace, name), outcome)


def _peak_mib() -> float:
    """The most memory that this process and the largest of those that it waited for had; Linux counts KiB, macOS bytes."""
    most = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return most / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def _passes(error: BaseException | None) -> bool:
    """Whether it may be over in some seconds: a server that did not answer, also where an error of ours says so in its place.

    A full disk, a sandbox that is missing, a training that went astray are the same then.
    """
    if error is None:
        return False
    away = isinstance(error, ConnectionError | TimeoutError) or any(word in type(error).__name__ for word in ("Connect", "Timeout"))
    return away or _passes(error.__cause__ or error.__context__)


def _by_dvc() -> bool:
    """Whether DVC runs this stage, and will put it on record."""
    return "DVC_STAGE" in os.environ


def _by_hand() -> bool:
    """Whether no flow started this stage, but a person or `dvc repro`."""
    return FLOW_RUN not in os.environ


@contextlib.contextmanager
def _slots(workspace: Workspace, stage: Stage) -> Iterator[None]:
    """All that the stage must have to itself: the workspace against flows, its outputs, its device. Says what it waits for."""

    def tell(line: str) -> None:
        print(f"{stage.name}  {line}", flush=True)

    with contextlib.ExitStack() as stack:
        if _by_hand():
            stack.enter_context(slots.beside_no_flow(workspace))
        stack.enter_context(slots.stage_slot(workspace, f"stage-{stage.name}", tell))
        stack.enter_context(slots.slot(workspace, stage.pool, tell))
        yield


def _execute(pipeline: Pipeline, stage: Stage, registry_of: RegistryOf) -> None:
    """Produce the outputs, reported on in a run; nothing fails once they are published."""
    name, workspace = stage.name, pipeline.workspace
    spec, values = contract(stage), load(workspace.params_file)
    params = stage_params(values, stage, spec)
    if pretrained.PLACE in stage.deps:
        pretrained.bring(workspace, values, registry_of, ask=False)  # as it is: DVC hashes it when the stage has ended
    entry = pipeline.entries([name])[name]
    signature, read = signature_of(entry), data_of(entry, stage)
    tags = {"sluice.stage": name, "sluice.stage_hash": signature, "git.commit": git_commit(workspace.root)}
    if not _by_hand():
        tags["prefect.flow_run_id"] = os.environ[FLOW_RUN]
    run = spool.Run(workspace, values["model"], name, tags, os.environ.get(PARENT))
    checkpoints = Checkpoints(workspace.work / name / signature / ranks.CHECKPOINTS, 60 * stage.checkpoint_minutes)
    with _delivered(workspace, run), _closing(run, name, checkpoints):
        run.params(params.model_dump())
        run.inputs(read)
        reports, progress = workspace.state / "reports" / name, Progress(run, name)
        work = Work(
            workspace.work / name / signature, reports, ranks.prepare_device(stage.pool, 0, ranks.wanted(stage)), checkpoints, progress
        )
        if finished.is_saved(work.folder) and not (_by_dvc() and pipeline.recorded_signatures().get(name) != signature):
            finished.drop(work.folder)  # whoever asks for what is on record, or by hand, wants it made again
        try:
            metrics = produce(workspace.root, stage, spec, params, work)
        finally:
            if reports.is_dir():
                run.reports(reports)
        run.results(metrics, progress.last)
        finished.clear(work.folder, keep=_by_dvc())


@contextlib.contextmanager
def _delivered(workspace: Workspace, run: spool.Run) -> Iterator[None]:
    """Have the run delivered while it is written: by the flow, else by a process, whose end is waited for; not after a signal."""
    if not _by_hand():
        yield
        return
    process = courier.start(workspace)
    try:
        yield
    finally:
        enough = threading.Event()
        _answer_signals(lambda *_: enough.set())
        if isinstance(sys.exception(), KeyboardInterrupt):
            enough.set()
        courier.wait_for(process, run, enough)
        for line in spool.describe(spool.waiting(workspace)) if run.folder.exists() else ():
            print(f"sluice: {line}", file=sys.stderr)


def produce(root: Path, stage: Stage, spec: Contract, params: Any, work: Work) -> dict[str, Any]:
    """Call the stage function on bound paths and rename its outputs into place; return its metrics.

    Outputs are written beside their places under a temporary name, and saved from the moment they are whole: what this very execution made
    before it was killed is not made again. Raises StageError where the function leaves one out.
    """
    inputs = stage.bind(spec.inputs, stage.artifacts)
    outputs = stage.bind(spec.outputs, stage.outs)  # a plot among them is given by name
    targets = {field: root / path for field, path in outputs.items()}
    curve = Curve(stage.name, work.progress)
    if stage.curve_file:
        targets[CURVE] = root / stage.curve_file
    drafts = {field: target.with_name(f".{target.name}.draft") for field, target in targets.items()}
    for draft in drafts.values():
        draft.parent.mkdir(parents=True, exist_ok=True)
        remove(draft)
    try:
        with _disk_errors(stage.name):
            metrics = finished.load(work.folder, drafts)
            if metrics is None:
                bound = {field: root / path for field, path in inputs.items()}
                if work.checkpoints is not None:
                    work.checkpoints.notes, work.checkpoints.recall = curve.told.copy, curve.recall
                with ranks.together(root, stage, with_fields(work, progress=curve)) as shared:
                    metrics = _call(spec, params, bound, {field: drafts[field] for field in outputs}, shared)
                missing = [outputs[field] for field in outputs if not drafts[field].exists()]
                if missing:
                    raise StageError(f"stage {stage.name!r} left out {', '.join(missing)}: a stage writes every output it declares")
                if stage.curve_file:
                    curve.write(drafts[CURVE])
                finished.save(work.folder, drafts, metrics)
            else:
                print(f"{stage.name}  had ended when it was killed: its outputs are put in place", flush=True)
            _heed_no_signal()
            for field, draft in drafts.items():
                replace(draft, targets[field])
            write_json(root / stage.metrics_file, metrics)
    finally:
        for draft in drafts.values():
            remove(draft)
    return metrics


def _call(spec: Contract, params: Any, inputs: Mapping[str, Path], drafts: Mapping[str, Path], work: Work) -> dict[str, Any]:
    """Call the stage function and return its metrics."""
    remove(work.reports)
    extra = {"work": work} if spec.wants_work else {}
    metrics: dict[str, Any] = spec.function(params, spec.inputs(**inputs), spec.outputs(**drafts), **extra).model_dump(mode="json")
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


def _require_inputs(root: Path, stage: Stage) -> None:
    missing = [dep for dep in stage.artifacts if not (root / dep).exists()]
    if missing:
        raise UserError(
            f"stage {stage.name!r} needs {', '.join(missing)}, not found in {root}: "
            "'sluice run' or 'dvc repro' makes what stages make, 'dvc pull' brings what DVC tracks"
        )


def _require_whole_weights(root: Path, stage: Stage) -> None:
    """Model folders that somebody brought here, or half of them: told before a library stumbles over them."""
    for folder in sorted({*stage.artifacts, *stage.given.values()}):
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
def _closing(run: spool.Run, name: str, checkpoints: Checkpoints) -> Iterator[None]:
    """Close the run as what happened: FINISHED, FAILED with the reason, or KILLED by SIGTERM or Ctrl-C.

    A training ends its step and writes a checkpoint first, unless it is asked a second time.
    """

    def interrupt(*_: object) -> None:
        if not checkpoints.ask():
            raise KeyboardInterrupt
        print(f"{name}  was asked to stop: it ends this step and writes a checkpoint", flush=True)

    _answer_signals(interrupt)
    try:
        yield
    except KeyboardInterrupt:
        run.end("KILLED", "stopped by a signal")
        raise
    except BaseException as error:
        run.end("FAILED", f"{type(error).__name__}: {error}")
        raise
    run.end("FINISHED")


def _heed_no_signal() -> None:
    """From here on the outputs are published: a signal must not make the stage a failed one, which DVC would run again."""
    _answer_signals(lambda *_: None)


def _answer_signals(handler: Callable[..., None]) -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
        signal.signal(signal.SIGINT, handler)


class Curve:
    """Keeps the values of a stage's steps on their way to `progress`, as the plot that DVC and the report show: no time is among them."""

    def __init__(self, name: str, progress: Callable[[int, int, Mapping[str, float]], None]) -> None:
        self.name, self.progress, self.told = name, progress, list[tuple[int, int, dict[str, float]]]()

    def __call__(self, step: int, total: int, values: Mapping[str, float]) -> None:
        self.progress(step, total, values)
        if values:
            self.told.append((step, total, dict(values)))

    def recall(self, done: int, told: Sequence[tuple[int, int, dict[str, float]]]) -> None:
        """Tell again what an execution had told that was killed: its own run ends there, this one's has the whole curve."""
        print(f"{self.name}  goes on after step {done}, from its checkpoint", flush=True)
        for step, total, values in told:
            self(step, total, values)

    def write(self, path: Path) -> None:
        """As CSV, a column a name; of more than POINTS rows the first of as many equal parts, and the last."""
        rows = [{"step": step, **values} for step, _, values in self.told]
        stride = -(-len(rows) // POINTS) or 1
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)) or ["step"], lineterminator="\n")
            table.writeheader()
            table.writerows(row for place, row in enumerate(rows, 1) if place % stride == 1 % stride or place == len(rows))


class Progress:
    """Prints a stage's steps as lines that the flow can read, at a bearable rate, and puts every one into its run's log: 20 µs a step."""

    def __init__(self, run: spool.Run, name: str) -> None:
        self.run, self.name, self.last = run, name, 0
        self.started = self.printed = time.monotonic()

    def __call__(self, step: int, total: int, values: Mapping[str, float]) -> None:
        now = time.monotonic()
        self.run.step(step, {f"train/{name}": value for name, value in values.items()})  # apart from results of the same name
        self.last = max(self.last, step)
        if step < total and now - self.printed < PROGRESS_S:
            return
        self.printed = now
        left = (now - self.started) / max(step, 1) * (total - step)
        shown = "".join(f"  {key} {values[key]:.4g}" for key in SHOWN if key in values)
        print(f"{self.name}  step {step}/{total}{shown}  left {left:.0f} s", flush=True)


def parse_bindings(pairs: Sequence[str]) -> dict[str, str]:
    """{"model": "artifacts/base"} from ["model=artifacts/base"]. Raises UserError for what is no binding."""
    faulty = [pair for pair in pairs if "=" not in pair]
    if faulty:
        raise UserError(f"{faulty[0]!r} is no binding: write NAME=PATH")
    return dict(pair.split("=", 1) for pair in pairs)
