"""The flight recorder: curves that are wrong are named, curves as honest runs have them are not."""

import numpy as np
import pytest
import torch

from models.core.checkpoints import Checkpoints
from models.core.errors import StageError
from models.core.work import Work
from models.train.recorder import Shown, diagnoses
from models.train.settings import Reinforcement
from models.train.worth import Rewards
from tests.models.test_reinforce import PLAN
from tests.tiny import method_of, recorder_of

STEPS = 20
HONEST = {
    "mean_reward": (0.0, 3.0),
    "answer_tokens": (40.0, 44.0),
    "length_correlation": (0.1, 0.2),
    "entropy_per_token": (1.2, 0.8),
    "kl_per_token": (0.0, 0.1),
    "answers_cut": (0.3, 0.4),
    "groups_alike": (0.0, 0.1),
    "value_error": (2.0, 0.5),
    "value_explained": (0.2, 0.7),
}


def curve(steps=STEPS, seed=0, **changes):
    """Rows from the first value to the last of each column, with some noise."""
    draw = np.random.default_rng(seed)
    columns = {**HONEST, **changes}
    noise = {name: 0.03 * (abs(begin) + abs(end)) * draw.standard_normal(steps) for name, (begin, end) in columns.items()}
    return [
        {name: float(begin + (end - begin) * at / (steps - 1) + noise[name][at]) for name, (begin, end) in columns.items()}
        for at in range(steps)
    ]


def found(rows, max_kl=10.0):
    return [one.name for one in diagnoses(rows, max_kl, ["taste", "b"])]


@pytest.mark.parametrize("seed", range(20))
def test_an_honest_curve_is_not_named(seed):
    assert found(curve(seed=seed)) == []
    assert found(curve(seed=seed, reward_a=(0.0, 1.0), reward_b=(1.0, 1.0))) == []


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("length", {"answer_tokens": (20.0, 60.0), "length_correlation": (0.9, 1.0)}),
        ("entropy", {"entropy_per_token": (1.2, 0.05)}),
        ("kl", {"kl_per_token": (0.0, 0.5)}),
        ("cut", {"answers_cut": (0.9, 1.0)}),
        ("alike", {"groups_alike": (0.9, 1.0)}),
        ("values", {"value_error": (0.1, 9.0), "value_explained": (0.5, -3.0)}),
        ("judge taste", {"reward_taste": (1.0, -1.0), "reward_other": (0.0, 4.0)}),
    ],
)
def test_each_fault_is_named_alone(name, changes):
    for seed in range(10):
        assert found(curve(seed=seed, **changes)) == [name]


def test_growing_answers_alone_are_no_fault():
    assert found(curve(answer_tokens=(20.0, 60.0), length_correlation=(0.9, 0.2))) == []
    assert found(curve(length_correlation=(0.9, 1.0))) == []


def test_nothing_is_said_of_a_few_steps_nor_of_what_is_not_told():
    assert found(curve(answers_cut=(1.0, 1.0))[:5]) == []
    assert found([{"mean_reward": float(at)} for at in range(STEPS)]) == []


def plan(act="warn", **changes):
    recorder = {"act": act, **({"every": 2} if act == "restore" else {})}
    return Reinforcement(method=method_of("grpo"), **{**PLAN, "answers_per_prompt": 3, "recorder": recorder, **changes})


def test_what_the_answers_of_a_step_show_is_told_with_its_row(tmp_path):
    told = []
    recorder = recorder_of(plan(), tmp_path)
    work = recorder.watching(Work(tmp_path, tmp_path, progress=lambda *call: told.append(call)))
    lengths = Rewards({"length": (1.0, lambda _, answers: [float(len(answer)) for answer in answers])})
    recorder.watched(lengths).parts([{}] * 6, ["a", "bb", "ccc", "d" * 50, "e" * 51, "f" * 52])
    work.progress(1, 9, {"mean_reward": 1.0})
    same = Rewards({"same": (1.0, lambda _, answers: [7.0] * len(answers))})
    recorder.watched(same).parts([{}] * 6, ["a", "bb", "ccc", "d" * 50, "e", "f"])
    recorder.watched(lengths).parts([{}] * 6, ["a", "bb", "ccc"] * 2)
    work.progress(3, 9, {"mean_reward": 1.0})
    assert told[0] == (1, 9, {"mean_reward": 1.0, "length_correlation": pytest.approx(1.0), "groups_alike": 0.0})
    assert told[1] == (3, 9, {"mean_reward": 1.0, "length_correlation": pytest.approx(0.5), "groups_alike": 0.5})  # of two steps


def hear(recorder, rows, **work):
    heard = recorder.watching(Work(recorder.folder, recorder.folder, **work))
    for step, row in enumerate(rows, 1):
        heard.progress(step, len(rows), row)
    return heard


def test_a_fault_is_said_once_and_kept(tmp_path, capsys):
    recorder = recorder_of(plan(max_kl=10.0), tmp_path)
    hear(recorder, curve(answers_cut=(1.0, 1.0)))
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1
    assert said[0].startswith("rlhf, at step 6: ")
    assert "of the answers are cut, and no reward sees how they end: raise max_new_tokens" in said[0]
    assert list(recorder.found) == ["cut"]


def test_stop_fails_at_the_step(tmp_path):
    with pytest.raises(StageError, match=r"^rlhf was stopped at step 6: \d+% of the answers are cut.*; set rlhf.recorder to warn to go on"):
        hear(recorder_of(plan("stop", max_kl=10.0), tmp_path), curve(answers_cut=(1.0, 1.0)))


def test_what_it_knows_is_in_a_checkpoint(tmp_path):
    rows = curve(answers_cut=(1.0, 1.0))
    first = recorder_of(plan(max_kl=10.0), tmp_path)
    kept = Checkpoints(tmp_path / "kept", notes=lambda: "told", recall=lambda *_: None)
    hear(first, rows[:12], checkpoints=kept)
    kept.save(12, lambda folder: (folder / "weights").write_text("x"))
    recalled = []
    second = recorder_of(plan(max_kl=10.0), tmp_path)
    again = Checkpoints(tmp_path / "kept", recall=lambda *call: recalled.append(call))
    heard = second.watching(Work(tmp_path, tmp_path, checkpoints=again))
    assert again.latest() is not None
    assert recalled == [(12, "told")]
    assert (second.rows, second.found) == (first.rows, first.found)
    heard.progress(13, STEPS, rows[12])
    assert len(second.rows) == 13


@pytest.mark.parametrize("fault", [True, False])
def test_the_weights_that_were_best_are_handed_on_where_something_was_found(tmp_path, fault):
    model = torch.nn.Linear(1, 1, bias=False)
    model.device = "cpu"
    rewards = iter([1.0, 5.0, 2.0])
    recorder = recorder_of(plan("restore", max_kl=10.0), tmp_path / "work", measure=lambda _: next(rewards) + 0 * torch.rand(1).item())
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    for step in range(1, 7):
        with torch.no_grad():
            model.weight.fill_(float(step))
        recorder.stepped(step, model)
    assert torch.equal(torch.rand(1), expected), "whoever looks draws nothing"
    hear(recorder, curve(answers_cut=(1.0, 1.0)) if fault else curve())
    recorder.restored(model)
    assert (model.weight.item(), recorder.handed_on) == ((4.0, 4) if fault else (6.0, None))


def test_its_page_shows_what_models_wrote_as_text(tmp_path):
    recorder = recorder_of(plan(max_kl=10.0), tmp_path)
    hear(recorder, curve(answers_cut=(1.0, 1.0)))
    text = recorder.page([Shown("<b>?", "<script>1</script>", 1.0)], [Shown("<b>?", "a & b", 2.5)])
    assert "<script>" not in text
    assert "<td>&lt;b&gt;?</td><td>&lt;script&gt;1&lt;/script&gt;</td><td>1</td><td>a &amp; b</td><td>2.5</td>" in text
    assert text.count("<tr><td>") == 1 + STEPS
    assert "of the answers are cut" in text
