"""What a run is going to take: each stage that would run is tried in miniature, and its time, memory and disk are foretold."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.host import processes
from flows.host.workspace import Workspace
from flows.registry.decisions import registry_of
from flows.stages import probe, warm
from flows.stages.parameters import PRICES, check, load
from flows.stages.pipeline import Pipeline, Stage
from flows.stages.session import look
from models.core.errors import StageError
from models.core.files import read_json, write_json

LIMIT_S = 3600.0
BETWEEN_S = 1.0  # from a stage's end to the next one's start: DVC hashes, Prefect notes
AROUND_S = 20.0  # of a run, before and after its stages
Tell = Callable[[str], None]


def plan(workspace: Workspace, tell: Tell) -> dict[str, Any]:
    """{stages: [{name, pool, seconds, steps, ..., cost, micro_batch}], seconds, cost, disk_mb, free_mb, peak_mib, memory_mib, params_md5}.

    Keeps it for the report. Raises StageError for a stage that fails in miniature, or that no micro_batch makes fit.
    """
    pipeline, params = Pipeline(workspace), load(workspace.params_file)
    check(params, pipeline.stages.values(), workspace.root)
    look(workspace, params, registry_of)
    changed, needed = pipeline.changes(), pipeline.needed(params)
    stages = [stage for name, stage in pipeline.stages.items() if name in changed and name in needed]
    folder, prices = workspace.work / "plan", params.get(PRICES) or {}
    shutil.rmtree(folder, ignore_errors=True)
    processes.reset()
    address = warm.start(workspace, dict(os.environ), list(dict.fromkeys(stage.task for stage in stages)))
    try:
        rows = [_row(workspace, stage, folder, address, prices.get(stage.pool), tell) for stage in stages]
    finally:
        processes.stop_all()
        shutil.rmtree(folder, ignore_errors=True)
    costs = [row["cost"] for row in rows if row["cost"] is not None]
    found = {
        "stages": rows,
        "seconds": sum(row["seconds"] + BETWEEN_S for row in rows) + AROUND_S if rows else 0.0,
        "cost": sum(costs) if costs else None,
        "disk_mb": sum(row["outputs_mb"] for row in rows) + max((row["checkpoints_mb"] for row in rows), default=0.0),
        "peak_mib": max((row["peak_mib"] for row in rows), default=0.0),
        "memory_mib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 20),
        "free_mb": shutil.disk_usage(workspace.root).free / 1e6,
        "params_md5": probe.params_md5(workspace),
    }
    write_json(workspace.state / probe.PLAN, found)
    return found


def _row(workspace: Workspace, stage: Stage, folder: Path, address: str, price: float | None, tell: Tell) -> dict[str, Any]:
    """One stage in miniature; where memory does not do, with half of a batch at once, and half of that."""
    micro_batch: int | None = None
    while True:
        tell(f"{stage.name}  in miniature" + (f", {micro_batch} at once" if micro_batch else ""))
        lines: list[str] = []
        given = ["--micro-batch", str(micro_batch)] if micro_batch else []
        command = [processes.program("sluice"), "probe", stage.name, str(folder), *given]
        code = processes.stream(command, workspace.root, {**os.environ, "SLUICE_WARM": address}, lines.append, LIMIT_S)
        smaller = next((int(line.split(": ")[1].split()[0]) for line in reversed(lines) if line.startswith("no memory for ")), None)
        if code == 0:
            found = read_json(probe.seen(folder, stage.name), {})
            cost = None if price is None else found["seconds"] / 3600 * price
            return {"name": stage.name, "pool": stage.pool, **found, "cost": cost, "micro_batch": smaller or micro_batch}
        if code not in (137, -9) or micro_batch == 1:
            said = next((line for line in reversed(lines) if line.strip()), "no output").removeprefix("sluice: ")
            raise StageError(f"stage {stage.name!r} does not run, not even in miniature: {said}")
        micro_batch = max(1, (micro_batch or _batch(workspace, stage)) // 2)


def _batch(workspace: Workspace, stage: Stage) -> int:
    """How many records a step of the stage has."""
    section = load(workspace.params_file).get(stage.section) or {}
    groups = section.get("prompts_per_step", 1) * section.get("answers_per_prompt", 1)
    return int(section.get("batch_size") or (section.get("blocks") or {}).get("batch") or groups)


def warnings(found: dict[str, Any]) -> list[str]:
    """What will not fit, and what would."""
    lines = []
    for row in found["stages"]:
        if row["micro_batch"]:
            lines.append(f"{row['name']} does not fit with all of a batch at once: micro_batch {row['micro_batch']} does")
        if row["peak_mib"] > 0.9 * found["memory_mib"]:
            lines.append(
                f"{row['name']} takes {row['peak_mib'] / 1024:.1f} of the machine's {found['memory_mib'] / 1024:.1f} GiB of memory"
            )
    if found["disk_mb"] > found["free_mb"]:
        lines.append(f"{found['disk_mb'] / 1e3:.1f} GB are written, {found['free_mb'] / 1e3:.1f} GB are free: free some space first")
    return lines
