"""Benchmarks, side by side in one run: one JSON object a line, {"name", "ours", "theirs", "unit", "ratio"}; ratio = theirs / ours.

Medians over a few alternating repetitions: these machines are noisy, the ratio is what counts. Run it on an idle machine.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from models.sandbox import sandbox
from tests.bench import calibration, checkpoints, drift, importing, scoring, training
from tests.workspaces import environment, make_workspace, run

REPETITIONS, PROGRAMS = 3, 64


def compare(name: str, ours: Callable[[], object], theirs: Callable[[], object], repetitions: int = REPETITIONS) -> None:
    """Time both, alternating, and print the medians in seconds."""
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(repetitions):
        for side, call in (("ours", ours), ("theirs", theirs)):
            started = time.perf_counter()
            call()
            seconds[side].append(time.perf_counter() - started)
    mine, other = statistics.median(seconds["ours"]), statistics.median(seconds["theirs"])
    print(
        json.dumps({"name": name, "ours": round(mine, 2), "theirs": round(other, 2), "unit": "s", "ratio": round(other / mine, 2)}),
        flush=True,
    )


def succeed(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr


def stage_start(workspace: Path) -> None:
    """One benchmark cell through the warm process against the same command doing its own imports."""
    from flows.host.processes import stop_all
    from flows.host.workspace import Workspace
    from flows.stages import warm

    before = Path.cwd()
    os.chdir(workspace)
    cell = run(workspace, "sluice", "stages", "--json")
    command = next(stage["name"] for stage in json.loads(cell.stdout) if stage["name"].startswith("benchmark@base"))
    arguments = (
        next(line for line in (workspace / "dvc.lock").read_text().splitlines() if f"sluice stage {command} " in line)
        .split("sluice ")[1]
        .split()
    )
    address = warm.start(Workspace(workspace), environment(workspace), [])
    succeed(run(workspace, "sluice", *arguments, SLUICE_WARM=address))  # takes as long as the imports do
    try:
        compare(
            "start of a stage: warm process, cold process",
            lambda: succeed(run(workspace, "sluice", *arguments, SLUICE_WARM=address)),
            lambda: succeed(run(workspace, "sluice", *arguments)),
        )
    finally:
        stop_all()
        os.chdir(before)


def whole_run(folder: Path) -> Path:
    """The nano recipe from data to champion under the flow, against `dvc repro`, which neither registers nor gates."""
    workspaces = iter([make_workspace(folder / name) for name in ("flow", "repro")])
    flow, repro = next(workspaces), next(workspaces)
    compare(
        "nano run: sluice run, dvc repro",
        lambda: succeed(run(flow, "sluice", "run")),
        lambda: succeed(run(repro, "dvc", "repro", timeout=1800)),
        1,
    )
    return flow


def unchanged_run(workspace: Path) -> None:
    """A run with nothing to do, against local servers, and against `dvc repro` with nothing to do."""
    succeed(run(workspace, "sluice", "up"))
    try:
        compare(
            "nothing to do: sluice run with servers up, dvc repro",
            lambda: succeed(run(workspace, "sluice", "run")),
            lambda: succeed(run(workspace, "dvc", "repro")),
        )
    finally:
        run(workspace, "sluice", "down")


def sandboxed_programs() -> None:
    """What isolation costs a program that does next to nothing: as many side by side as there are cores, both times."""
    limits = sandbox.ResourceLimits(wall_seconds=10, cpu_seconds=5, memory_mib=256, processes=8, output_kib=64)
    job = sandbox.Job(
        program="def f(x):\n    return x\n", preamble="", entry_point="f", test="def check(candidate):\n    assert candidate(1) == 1\n"
    )
    bare = [sys.executable, "-I", "-S", "-c", f"{job.program}{job.test}check(f)"]

    def plain() -> None:
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            assert not any(done.returncode for done in pool.map(lambda _: subprocess.run(bare, check=False), range(PROGRAMS)))

    def isolated() -> None:
        assert all(verdict.passed for verdict in sandbox.check_all([job] * PROGRAMS, limits))

    compare(f"{PROGRAMS} programs: checked in the {sandbox.isolation().backend} sandbox, plain interpreter", isolated, plain)


def main() -> None:
    sandboxed_programs()
    folder = Path(tempfile.mkdtemp(prefix="sluice-bench-"))
    try:
        workspace = whole_run(folder)
        unchanged_run(workspace)
        stage_start(workspace)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    calibration.main()
    drift.main()
    scoring.main()
    importing.main()
    checkpoints.main()
    training.main()


if __name__ == "__main__":
    main()
