"""Tokenizer, base, sft, reward, rlhf and preference on a handful of records: whole model folders, equal for equal runs."""

import shutil

import pytest
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from models.core.content import folder_md5
from models.core.errors import StageError, UserError
from models.core.files import write_lines
from models.core.given import read_lines
from models.core.work import Work
from models.train.methods import finetune
from tasks.reward import RewardInputs, RewardOutputs, RewardParams, reward
from tests.trainings import PRETRAINING, Pipeline, finetuning, reinforcement, write_records

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return write_records(tmp_path_factory.mktemp("records"))


@pytest.fixture(scope="module")
def done(records, tmp_path_factory):
    return Pipeline(records, tmp_path_factory.mktemp("one")).run()


def test_every_language_model_is_a_whole_folder_that_answers(done):
    for name in ("base", "sft", "rlhf", "preference"):
        model, words = (kind.from_pretrained(done.target / name) for kind in (AutoModelForCausalLM, AutoTokenizer))
        asked = words.apply_chat_template([{"role": "user", "content": "Hi"}], add_generation_prompt=True, return_tensors="pt")
        assert model.generate(**asked, max_new_tokens=3).shape[1] > asked["input_ids"].shape[1]


def test_the_reward_model_gives_one_number(done):
    assert AutoModelForSequenceClassification.from_pretrained(done.target / "reward").config.num_labels == 1


def test_equal_runs_give_equal_metrics_and_equal_bytes(done, records, tmp_path):
    again = Pipeline(records, tmp_path / "elsewhere").run()
    assert again.metrics == done.metrics
    for name in ("tokenizer", "base", "sft", "reward", "rlhf", "preference"):
        assert folder_md5(again.target / name) == folder_md5(done.target / name)


@pytest.mark.parametrize(("schedule", "halfway"), [("linear", 0.5), ("cosine", 0.5), ("wsd", 1.0)])
def test_the_rate_goes_as_the_schedule_says(done, schedule, halfway, tmp_path, monkeypatch):
    rates = []
    monkeypatch.setattr(done, "work", Work(tmp_path, tmp_path, progress=lambda _step, _all, values: rates.append(values)))
    done.sft("other", finetuning(epochs=5).model_copy(update={"schedule": schedule, "warmup_share": 0.0}))
    found = [values["learning_rate"] / 1e-3 for values in rates if "learning_rate" in values]
    assert found[len(found) // 2] == pytest.approx(halfway, abs=0.15)
    assert found[-1] < 0.35
    assert found == sorted(found, reverse=True)


def test_a_reward_model_below_its_floor_is_not_handed_on(done, tmp_path):
    high = RewardParams(seed=1, floor=1.0, **dict(finetuning()))
    inputs = RewardInputs(sft=done.target / "sft", preferences=done.records / "preferences")
    with pytest.raises(StageError, match=r"ranks 0\.\d+ ± 0\.\d+ of 4 held-out pairs as people did, must be reward.floor = 1.0 at least"):
        reward(high, inputs, RewardOutputs(reward=tmp_path / "reward"), Work(tmp_path, tmp_path))
    assert not (tmp_path / "reward").exists()


def test_a_loss_that_is_no_number_ends_the_training_at_its_step(done, tmp_path):
    broken = Pipeline(done.records, tmp_path)
    model, words = (kind.from_pretrained(done.target / "base") for kind in (AutoModelForCausalLM, AutoTokenizer))
    model.model.norm.weight.data.fill_(1e38)
    for part in (model, words):
        part.save_pretrained(broken.target / "base")
    with pytest.raises(StageError, match=r"loss is (nan|inf) at step 1, must be a number: look at the step's records, instruction-\d+, "):
        broken.sft()
    assert not (tmp_path / "sft").exists()


def test_few_logits_at_once_train_as_many_piece_by_piece(done, monkeypatch):
    done.sft("at-once")
    monkeypatch.setattr(finetune, "LOGITS", 0)
    done.sft("by-pieces")
    found, expected, start = (load_file(done.target / name / "model.safetensors") for name in ("by-pieces", "at-once", "base"))
    for name, weight in expected.items():
        assert (found[name] - weight).norm() <= 0.02 * (weight - start[name]).norm() + 1e-6, name


def test_no_out_holds_a_pickle_or_a_path(done):
    for name in ("tokenizer", "base", "sft", "reward", "rlhf", "preference"):
        for path in (done.target / name).rglob("*"):
            assert path.suffix in (".json", ".jinja", ".safetensors")
            assert str(done.target).encode() not in path.read_bytes()


def test_each_stage_changes_the_weights(done):
    assert len({folder_md5(done.target / name) for name in ("base", "sft", "rlhf", "preference")}) == 4


def test_progress_ends_with_the_last_step(done):
    told = []
    done.work = Work(folder=done.work.folder, reports=done.work.reports, progress=lambda *call: told.append(call))
    done.sft("sft-told")
    assert told[-1][0] == told[-1][1] > 1
    assert "loss" in [values for *_, values in told if values][-1]


@pytest.mark.parametrize("name", ["lora", pytest.param("last-layers", marks=pytest.mark.slow)])
def test_other_weights_give_whole_models_too(done, name):
    done.sft(f"sft-{name}", finetuning(name))
    done.reward(f"reward-{name}", finetuning(name))
    done.rlhf(f"rlhf-{name}", reinforcement(name))
    done.preference(f"preference-{name}", finetuning(name))
    for stage in ("sft", "reward", "rlhf", "preference"):
        same, other = ({path.name for path in (done.target / folder).iterdir()} for folder in (stage, f"{stage}-{name}"))
        assert same == other
        assert folder_md5(done.target / stage) != folder_md5(done.target / f"{stage}-{name}")


def test_a_pretrained_model_that_is_not_trained_is_taken_as_it_is(done):
    shutil.copytree(done.target / "sft", done.target / "published" / "model")
    metrics = done.base("taken", "sft", {**PRETRAINING, "start": {"take": "pretrained"}, "training": None})
    assert metrics.train_loss is None
    assert metrics.pretrained_md5 == folder_md5(done.target / "sft")
    assert metrics.training_tokens == 0
    assert (done.target / "taken" / "model.safetensors").read_bytes() == (done.target / "sft" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("changed", "pretrained", "said"),
    [
        ({"training": None}, None, "training is null, and from scratch there is nothing else to take"),
        ({"start": {"take": "pretrained"}}, None, "start takes pretrained, and the key 'pretrained' names none"),
        ({}, "sft", "start takes scratch, and the key 'pretrained' is sft"),
        ({"blocks": None}, None, "blocks is null, and training reads documents"),
    ],
)
def test_what_does_not_fit_together_is_refused(done, changed, pretrained, said):
    with pytest.raises(ValidationError, match=said):
        done.base("none", pretrained, {**PRETRAINING, **changed})


def test_one_prompt_is_trained_on_as_often_as_a_step_asks(done, records, tmp_path):
    rows = list(read_lines(records / "prompts" / "train.jsonl"))
    few = Pipeline(tmp_path, done.target)
    write_lines(tmp_path / "prompts" / "train.jsonl", rows[:1])
    write_lines(tmp_path / "prompts" / "held_out.jsonl", rows[1:3])
    told = []
    few.work = Work(folder=done.work.folder, reports=done.work.reports, progress=lambda *call: told.append(call))
    assert few.rlhf("few").held_out_prompts == 2
    assert told[-1][:2] == (2, 2)
    write_lines(tmp_path / "prompts" / "held_out.jsonl", rows[1:2])
    with pytest.raises(StageError, match=r"held_out.jsonl: 1 of 1 prompts leave room .* must be 2 at least"):
        few.rlhf("fewer")


def test_too_far_from_sft_fails_and_leaves_no_model(done):
    with pytest.raises(StageError, match=r"must be at most rlhf.max_kl = 1e-09"):
        done.rlhf("far", reinforcement(max_kl=1e-9))
    assert not (done.target / "far").exists()


def test_records_that_are_all_too_long_are_refused(done):
    with pytest.raises(StageError, match="raise the key max_tokens"):
        done.sft("none", finetuning().model_copy(update={"max_tokens": 16}))


@pytest.mark.parametrize("algorithm", ["grpo", "ppo", pytest.param("rloo", marks=pytest.mark.slow)])
def test_checks_train_without_a_reward_model_and_each_is_told_of(done, tmp_path, algorithm):
    told = []
    own = Pipeline(done.records, tmp_path)
    shutil.copytree(done.target / "sft", own.target / "sft")
    own.work = Work(folder=tmp_path, reports=tmp_path, progress=lambda *call: told.append(call[-1]))
    checks = {"short": {"take": "length", "words": 2, "weight": 1.0}, "letters": {"take": "format", "pattern": "[a-z ]*", "weight": 0.5}}
    metrics = own.rlhf(plan=reinforcement(algorithm=algorithm), rewards=checks, judged=False)
    assert metrics.gains["short"] + 0.5 * metrics.gains["letters"] == pytest.approx(metrics.reward_gain)
    for values in (values for values in told if "mean_reward" in values):
        assert values["reward_short"] + 0.5 * values["reward_letters"] == pytest.approx(values["mean_reward"], abs=1e-5)
    page = (tmp_path / "flight-recorder.html").read_text()
    assert page.count("<tr><td>") == 4 + len([values for values in told if "mean_reward" in values])  # held-out prompts, rows
    assert "<th>length_correlation</th>" in page
    with pytest.raises(UserError, match=r"rewards.judge takes the reward model, which dvc.yaml does not give the stage"):
        own.rlhf("none", judged=False)
