"""Checks and measurements on one CUDA GPU: a JSON object a line, then the table for docs/gpu.md. Exit code 1 where a check failed.

`--device cpu --small` runs all of it in miniature, to try this code where there is no GPU; its numbers mean nothing.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

BUDGET_S = 480.0  # all of it, checks first


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny models and few steps")
    parser.add_argument("--only", default="", help="trainings by name, such as base,sft-full,ppo; else all")
    parser.add_argument("--without-bench", action="store_true", help="checks only")
    parser.add_argument("--seconds", type=float, default=BUDGET_S, help="what does not fit is left out, and says so")
    parser.add_argument("--to", type=Path, default=Path(".work/gpu"), help="a folder for results.jsonl and table.md")
    return parser.parse_args()


def prepare() -> None:
    """What the edge sets for stages: read before torch is loaded. No library speaks beside the lines, none looks for a hub."""
    from flows.host.workspace import DEFAULTS, OPT_OUTS

    for name, value in {**DEFAULTS, **OPT_OUTS, "HF_HUB_OFFLINE": "1"}.items():
        os.environ.setdefault(name, value)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


def main() -> int:
    started, chosen = time.perf_counter(), options()
    prepare()
    import torch

    if chosen.device == "cuda" and not torch.cuda.is_available():
        print("test-gpu: PyTorch sees no CUDA GPU here, must see one: run it on a machine that has one", file=sys.stderr)
        return 2
    from tests.gpu import reporting

    about = reporting.card(chosen.device)
    print(json.dumps(about), flush=True)
    with tempfile.TemporaryDirectory(prefix="sluice-gpu-") as folder:
        lines = reporting.run(every(chosen, Path(folder)), chosen.seconds, started)
    table = reporting.table(about, lines)
    chosen.to.mkdir(parents=True, exist_ok=True)
    (chosen.to / "results.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in [about, *lines]), encoding="utf-8")
    (chosen.to / "table.md").write_text(f"{table}\n", encoding="utf-8")
    failed, skipped = reporting.failed(lines), [line["name"] for line in lines if "skipped" in line]
    print(f"\n{table}\n\n{len(lines)} parts, {len(failed)} failed, {len(skipped)} left out: {', '.join(failed) or 'none failed'}")
    return 1 if failed else 0


def every(chosen, folder: Path):
    """The parts, in their order: what must be right before what is fast, and the large model's trainings last, for they are many."""
    from tests.gpu import bench, checks
    from tests.gpu.models import BILLION, MILLIONS_20, TINY, Stages
    from tests.tasks.test_parts import KINDS
    from tests.trainings import write_records

    records = write_records(folder / "short")
    kinds = [kind for kind in KINDS if kind in chosen.only.split(",") or not chosen.only]
    small, large = (TINY, TINY) if chosen.small else (MILLIONS_20, BILLION)
    stages = Stages(records, folder / "20M", chosen.device)
    killed = tuple(kind for kind in checks.KILLED if not chosen.only or kind in ("base", "rlhf-full"))
    yield from checks.parts(stages, Stages(records, folder / "20M", "cpu"), small, "20 M", kinds, killed)
    timed = bench.Timed(records, folder / "1B", chosen.device)
    yield checks.begun(timed, large, "1 B")
    if not chosen.without_bench:
        yield from bench.parts(timed, large, bench.SMALL if chosen.small else bench.FULL)
    yield from checks.once(timed, "1 B", kinds, 5 if chosen.small else 25)


if __name__ == "__main__":
    sys.exit(main())
