"""A training of tests/tasks/test_parts.py by several processes, each of which runs this module."""

import json
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import torch

from models.core.checkpoints import Checkpoints, Stopped
from models.train.together import join
from tests.trainings import Pipeline

LIMIT_S = 120.0


def train(stages, kinds, kind, name, count, kept="", stop=0):
    """Train `kind` as `name` with so many ranks; the progress rows that the leader was told.

    kept: a folder for checkpoints; stop: the step after which one is written, and all end.
    """
    folder = stages.target / f"ranks-{name}"
    folder.mkdir(exist_ok=True)
    (folder / "meeting").unlink(missing_ok=True)
    command = [sys.executable, "-m", "tests.ranked", str(stages.records), str(stages.target), kinds, kind, name]
    children = [subprocess.Popen([*command, str(place), str(count), str(kept), str(stop)]) for place in range(count)]
    try:
        assert [child.wait(2 * LIMIT_S) for child in children] == [0] * count
    finally:
        for child in children:
            child.kill()
            child.wait()
    return [(step, values) for step, values in json.loads((folder / "rows.json").read_text())]


class Stopping(Checkpoints):
    """Has all stop after a step."""

    steps = 0
    stop = 0

    def due(self):
        self.steps += 1
        self.asked |= self.steps == self.stop
        return super().due()


def main(records, target, kinds, kind, name, place, count, kept, stop):
    torch.set_num_threads(1)
    stages, rows = Pipeline(Path(records), Path(target)), []
    folder = stages.target / f"ranks-{name}"
    ranks = join(str(folder / "meeting"), int(place), int(count), "cpu", LIMIT_S)
    checkpoints = None
    if kept:
        checkpoints = Stopping(Path(kept), ranks=ranks)
        checkpoints.stop = int(stop) if ranks.leads else 0
    stages.work = replace(
        stages.work,
        folder=folder / f"work-{place}",
        reports=folder / f"reports-{place}",
        ranks=ranks,
        checkpoints=checkpoints,
        progress=lambda step, _, values: rows.append((step, dict(values))),
    )
    try:
        import_module(kinds).KINDS[kind](stages, name if ranks.leads else f"{folder.name}/{place}")
    except Stopped:
        assert int(stop)
    if ranks.leads:
        (folder / "rows.json").write_text(json.dumps(rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
