"""A stage's steps as a plot: what goes by is kept, without a time, and in no more rows than a page can draw."""

import csv
from pathlib import Path

import pytest

from flows.stages import runner
from flows.stages.pipeline import Contract, Stage
from flows.stages.runner import POINTS, Curve
from models.core.work import Work
from tasks.stage import Inputs, Metrics, Outputs, Params


def written(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def told(curve, steps):
    for step in steps:
        curve(step, steps[-1], {"loss": 1 / step, **({"reward": step} if step % 2 else {})})
    return curve


def test_every_step_goes_on_to_progress_and_into_the_plot(tmp_path):
    heard = []
    curve = told(Curve("a", lambda step, total, values: heard.append((step, total, dict(values)))), range(1, 4))
    curve(3, 3, {})
    curve.write(tmp_path / "curve.csv")
    assert [step for step, _, _ in heard] == [1, 2, 3, 3]
    assert written(tmp_path / "curve.csv") == [
        {"step": "1", "loss": "1.0", "reward": "1"},
        {"step": "2", "loss": "0.5", "reward": ""},
        {"step": "3", "loss": "0.3333333333333333", "reward": "3"},
    ]


def test_a_long_training_keeps_its_first_and_its_last_step_and_no_more_than_a_page_can_draw(tmp_path):
    told(Curve("a", lambda *_: None), range(1, 10 * POINTS)).write(tmp_path / "curve.csv")
    steps = [int(row["step"]) for row in written(tmp_path / "curve.csv")]
    assert steps[0] == 1
    assert steps[-1] == 10 * POINTS - 1
    assert len(steps) <= POINTS + 1
    assert steps == sorted(set(steps))


def test_a_stage_without_a_step_leaves_a_plot_without_a_row(tmp_path):
    Curve("a", lambda *_: None).write(tmp_path / "curve.csv")
    assert (tmp_path / "curve.csv").read_text() == "step\n"


class Model(Outputs):
    model: Path


@pytest.mark.usefixtures("signals")
def test_a_stage_leaves_its_plot_where_dvc_yaml_wants_it_and_is_handed_only_its_outputs(tmp_path):
    def work_at(_params, _inputs, outputs, work):
        assert set(outputs.model_fields_set) == {"model"}
        outputs.model.write_text("weights")
        work.progress(1, 1, {"loss": 2.0})
        return Metrics()

    stage = Stage("one", "", (), ("artifacts/model",), "metrics/one.json", (), "cpu", 1.0, 0, (), plots=("artifacts/curves/one.csv",))
    spec = Contract(work_at, Params, Inputs, Model, True)
    runner.produce(tmp_path, stage, spec, Params(), Work(tmp_path / "work", tmp_path / "reports"))
    assert (tmp_path / "artifacts" / "curves" / "one.csv").read_text() == "step,loss\n1,2.0\n"
    assert [path.name for path in (tmp_path / "artifacts" / "curves").iterdir()] == ["one.csv"]
