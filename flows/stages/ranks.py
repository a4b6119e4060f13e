"""Several processes for one stage: started beside it, each with its own rows of every batch, gone when it is gone.

The stage's own process leads. The others run this module: they bind the same files, call the same function with the same params, and what
they write goes nowhere. How many is execution and no part of what is computed: no hash knows of it.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from flows.host import failures, processes
from flows.host import workspace as workspaces
from flows.stages.parameters import load, stage_params
from flows.stages.pipeline import Pipeline, Stage, bindings, contract
from models.core.checkpoints import Checkpoints
from models.core.errors import SluiceError, StageError, Unavailable, UserError
from models.core.files import read_json, write_json
from models.core.work import Work

VARIABLE = "SLUICE_RANKS"  # another number than meta.ranks of dvc.yaml
CARDS = "SLUICE_CARDS"  # all that were visible before a rank took one
LIMIT_S = 3600.0  # that the others may need for a step, or to halve a batch
START_S = 300.0  # for imports, on a machine that is busy
LEAVE_S = 30.0  # for the others to end once the leader has, or to say why they could not go on
FOLDER, CHECKPOINTS = "ranks", "checkpoints"  # in the stage's work folder


def wanted(stage: Stage) -> int:
    """How many processes the stage gets. Raises UserError for a variable that is no number."""
    said = os.environ.get(VARIABLE, "")
    if said and not (said.isdigit() and 1 <= int(said) <= 1024):
        raise UserError(f"{VARIABLE} is {said!r}, must be a number from 1 on: the processes that train together")
    return (int(said) if said else stage.ranks) if stage.pool == "gpu" else 1


def prepare_device(pool: str, place: int = 0, count: int = 1) -> str:
    """Return the device that a rank of a stage of the pool may use, and set what makes equal work equal bytes on a CPU.

    A GPU for each rank, whichever are visible. The order of a sum depends on how many threads share it: they are counted out. MKL promises
    the same bytes from run to run only where its "conditional numerical reproducibility" is on. Raises UserError where GPUs are too few.
    """
    if pool != "gpu":
        return "cpu"
    import torch

    os.environ.setdefault("MKL_CBWR", "AUTO")  # read at the first product
    asked = os.environ.get("OMP_NUM_THREADS", "")
    torch.set_num_threads(int(asked) if asked.isdigit() else max(1, len(os.sched_getaffinity(0)) // count))
    if not torch.cuda.is_available():
        return "cpu"
    visible = os.environ.get(CARDS) or os.environ.get("CUDA_VISIBLE_DEVICES", "")
    cards = visible.split(",") if visible else [str(card) for card in range(torch.cuda.device_count())]
    if len(cards) < count:
        raise UserError(f"{count} ranks are asked for, and {len(cards)} GPUs are visible, must be one each: lower meta.ranks or {VARIABLE}")
    # To the libraries there is one: with several in sight they would share a model out.
    os.environ |= {CARDS: ",".join(cards), "CUDA_VISIBLE_DEVICES": cards[place]}
    return "cuda"


@contextmanager
def together(root: Path, stage: Stage, work: Work) -> Iterator[Work]:
    """The work with its ranks. Raises what a rank failed of, where one did: Unavailable where a signal ended it."""
    count = wanted(stage)
    if count == 1:
        yield work
        return
    from models.train.together import join  # loads torch

    folder = work.folder / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print(f"{stage.name}  on {count} ranks", flush=True)
    children = {place: _start(root, stage, work, place, count) for place in range(1, count)}
    try:
        _await(folder, children)
        ranks = join(str(folder / "meeting"), 0, count, work.device, LIMIT_S)
        if work.checkpoints is not None:
            work.checkpoints.ranks = ranks
        yield replace(work, ranks=ranks)
        _leave(children)
    except SluiceError:
        raise
    except Exception as error:
        if _is_lost(error):
            _leave(children)  # and say why
        if (blamed := _blame(folder, children)) is not None:
            raise blamed from error
        raise
    finally:
        for child in children.values():
            processes.stop(child, 0.0)


def _start(root: Path, stage: Stage, work: Work, place: int, count: int) -> subprocess.Popen[str]:
    given = [f"{name}={path}" for name, path in stage.given.items()]
    command = [sys.executable, "-m", "flows.stages.ranks", stage.name, str(work.folder), str(place), str(count), *given]
    with (work.folder / FOLDER / f"{place}.log").open("w") as log:
        return processes.start(command, root, dict(os.environ), log.fileno())


def _await(folder: Path, children: Mapping[int, subprocess.Popen[str]]) -> None:
    """Wait until all are at the meeting; who dies before that would keep the others waiting. Raises what one failed of."""
    deadline = time.monotonic() + START_S
    while not all((folder / f"{place}.ready").exists() for place in children):
        if any(child.poll() is not None for child in children.values()):
            raise _blame(folder, children) or StageError("a rank ended before the work began")
        if time.monotonic() > deadline:
            raise Unavailable(f"not all of {len(children) + 1} ranks were ready within {START_S:.0f} s: the machine is busy, run again")
        time.sleep(0.05)


def _leave(children: Mapping[int, subprocess.Popen[str]]) -> None:
    """Wait for the others to end, not for ever."""
    deadline = time.monotonic() + LEAVE_S
    while any(child.poll() is None for child in children.values()) and time.monotonic() < deadline:
        time.sleep(0.02)


def _blame(folder: Path, children: Mapping[int, subprocess.Popen[str]]) -> SluiceError | None:
    """Why the work of all ended, as far as one of the others knows: who lost the connection tells nothing."""
    for place, child in children.items():
        code, left = child.poll() or 0, read_json(folder / f"{place}.json", {})
        if left.get("reason"):
            kind = UserError if left["exit_code"] == 2 else StageError
            return kind(f"rank {place}: {left['reason']}")
        if code > 128 and not left:
            return Unavailable(
                f"rank {place} of {len(children) + 1} was ended by signal {code - 128}: the training goes on when it is run again"
            )
    return None


def _is_lost(error: Exception) -> bool:
    """Whether all that is wrong is that another rank is gone, or has said what is."""
    return isinstance(error, RuntimeError) and any(word in str(error) for word in ("gloo", "NCCL", "the leader: "))


def follow(name: str, folder: Path, place: int, count: int, given: Mapping[str, str]) -> None:
    """Do a rank's part of a stage, in the workspace of the current folder."""
    from models.train.together import join

    workspace = workspaces.find()
    stage = Pipeline(workspace).stage(name)
    stage = replace(stage, given={**stage.given, **given})
    spec = contract(stage)
    params = stage_params(load(workspace.params_file), stage, spec)
    device, own = prepare_device(stage.pool, place, count), folder / FOLDER / str(place)
    inputs = {field: workspace.root / path for field, path in stage.bind(spec.inputs, stage.artifacts).items()}
    outputs = {field: own / "outs" / field for field in stage.bind(spec.outputs, stage.outs)}
    (own / "outs").mkdir(parents=True)
    (folder / FOLDER / f"{place}.ready").touch()
    ranks = join(str(folder / FOLDER / "meeting"), place, count, device, LIMIT_S)
    checkpoints = Checkpoints(folder / CHECKPOINTS, ranks=ranks)
    work = Work(own, own / "reports", device, checkpoints, ranks=ranks)
    spec.function(params, spec.inputs(**inputs), spec.outputs(**outputs), work)


def main(name: str, folder: str, place: str, count: str, *given: str) -> int:
    """What went wrong stands beside the log, unless it is only that another rank is gone."""
    try:
        workspaces.prepare_environment(workspaces.find())
        follow(name, Path(folder), int(place), int(count), bindings(given))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        said = str(error) if isinstance(error, SluiceError) else str(failures.named(error) or f"{type(error).__name__}: {error}")
        code = error.exit_code if isinstance(error, SluiceError) else 1
        write_json(Path(folder) / FOLDER / f"{place}.json", {"exit_code": code, "reason": "" if _is_lost(error) else said})
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
