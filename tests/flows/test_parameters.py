"""params.yaml is checked whole: every fault at once, each with its key and what to do."""

from pathlib import Path

import pytest

from flows.host.workspace import Workspace
from flows.stages.parameters import check, gated, load
from flows.stages.pipeline import Pipeline
from models.core.errors import UserError

ROOT = Path(__file__).parents[2]
STAGES = list(Pipeline(Workspace(ROOT)).stages.values())


def faults(values, root=ROOT):
    with pytest.raises(UserError) as caught:
        check(values, STAGES, root)
    return str(caught.value).splitlines()


@pytest.fixture
def values():
    return load(ROOT / "params.yaml")


def test_the_default_is_accepted(values):
    check(values, STAGES, ROOT)


def test_an_unknown_key_names_the_nearest_valid_one(values):
    values["rlhf"]["learning_rat"] = values["rlhf"].pop("learning_rate")
    assert "params.yaml: rlhf.learning_rat is not a known key; did you mean rlhf.learning_rate?" in faults(values)


def test_a_missing_key_is_named(values):
    del values["sft"]["epochs"]
    assert faults(values) == ["params.yaml: sft.epochs is missing; 'sluice recipe show tiny' prints the default"]


def test_a_value_out_of_bounds_says_the_bound(values):
    values["rlhf"]["learning_rate"] = 5
    [fault] = faults(values)
    assert "rlhf.learning_rate is 5" in fault
    assert "less than or equal to" in fault


def test_an_unknown_section_and_a_wrong_type_are_told_together(values):
    values["sftt"] = {}
    values["base"]["training"]["steps"] = "many"
    found = faults(values)
    assert any("sftt is not a known key; did you mean sft?" in fault for fault in found)
    assert any("base.training.steps is 'many'" in fault for fault in found)


def test_the_gates_policy_is_checked_too(values):
    values["gate"]["alpha"] = 0.9
    assert any("gate.alpha is 0.9" in fault for fault in faults(values))


@pytest.mark.parametrize("found", ["strict", None, ["mmlu-mini"]])
def test_a_policy_that_is_no_mapping_is_named(values, found):
    values["gate"] = found
    [fault] = faults(values)
    assert fault.startswith(f"params.yaml: gate is {found!r}: ")


def test_a_policy_for_a_suite_that_is_not_asked_is_named(values):
    policies = values["gate"]["suites"]
    policies["mmlu-mni"] = policies.pop("mmlu-mini")
    [stray, missing] = faults(values)
    assert stray == "params.yaml: gate.suites.mmlu-mni is not among suites; did you mean gate.suites.mmlu-mini?"
    assert missing.startswith("params.yaml: gate.suites.mmlu-mini is missing")


@pytest.mark.parametrize("place", ["", "data/raw/suites/mmlu-mini", "artifacts/suites/mmlu-mini"])
def test_a_suite_that_is_scored_must_say_what_is_asked_of_it(values, tmp_path, place):
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    del values["gate"]["suites"]["mmlu-mini"]
    does = "'sluice suite use mmlu-mini' writes it" if place else "add 'mmlu-mini: {margin: 0.1, floor: null, require: non-inferior}'"
    assert faults(values, tmp_path) == [
        "params.yaml: gate.suites.mmlu-mini is missing, and suites names it, must say what is asked of it: "
        f"{does}, or 'mmlu-mini: null' under gate.suites, for one that is scored and decides nothing"
    ]


def test_null_has_a_suite_scored_that_decides_nothing(values):
    values["gate"]["suites"]["mmlu-mini"] = None
    check(values, STAGES, ROOT)
    assert gated(values) == ["gpqa-mini", "humaneval-mini"]
    values["gate"]["suites"] = dict.fromkeys(values["suites"])
    [fault] = faults(values)
    assert fault.startswith("params.yaml: gate.suites is ")
    assert "at least 1 item" in fault


def cells_but(*, model, suite):
    """The stages, without the one that scores this model on this suite."""
    return [stage for stage in STAGES if (stage.given.get("model"), stage.given.get("suite")) != (model, suite)]


def test_a_policy_for_what_no_stage_scores_the_candidate_on_is_named(values):
    less = cells_but(model="artifacts/rlhf", suite="artifacts/suites/gpqa-mini")
    assert len(less) == len(STAGES) - 1
    with pytest.raises(UserError) as caught:
        check(values, less, ROOT)
    assert str(caught.value) == (
        "params.yaml: gate.suites.gpqa-mini asks what no stage of dvc.yaml measures: the candidate rlhf must be scored on it: "
        "add that to dvc.yaml, or write 'gpqa-mini: null' there"
    )
    values["gate"]["suites"]["gpqa-mini"] = None
    check(values, less, ROOT)


def test_a_suite_that_only_dvc_yaml_names_is_told(values):
    values["suites"].remove("gpqa-mini")
    del values["gate"]["suites"]["gpqa-mini"]
    [fault] = faults(values)
    assert fault.startswith("params.yaml: suites does not name gpqa-mini, which dvc.yaml scores: add it there")


def test_a_suite_that_does_not_exist_is_named(values):
    values["suites"] = ["mmlu-mini", "gpqa-minii", "humaneval-mini"]
    assert faults(values) == [
        "params.yaml: suites names 'gpqa-minii', which is no suite here; did you mean gpqa-mini? "
        "'sluice suite new gpqa-minii --from FILE' brings one",
        "params.yaml: gate.suites.gpqa-mini is not among suites; did you mean gate.suites.gpqa-minii?",
    ]


def test_a_published_suite_that_was_not_brought_in_says_how_it_is(values):
    values["suites"].append("math500")
    assert "'sluice suite import math500 --from FILE' brings one" in faults(values)[0]


@pytest.mark.parametrize("here", ["math500", "math500.dvc"])
def test_a_suite_without_its_number_of_items_is_named(values, tmp_path, here):
    values["suites"].append("math500")
    values["gate"]["suites"]["math500"] = None
    (tmp_path / "data" / "raw" / "suites" / here).mkdir(parents=True)
    assert faults(values, tmp_path) == ["params.yaml: benchmark.items.math500 is missing: add 'math500: null' for all its items"]


@pytest.mark.parametrize("name", [None, "", 7])
def test_a_model_must_have_a_name(values, name):
    values["model"] = name
    [fault] = faults(values)
    assert fault.startswith(f"params.yaml: model is {name!r}: must be the registered model's name")


def test_a_section_that_is_missing_is_told_once(values):
    del values["rlhf"]
    assert faults(values) == ["params.yaml: rlhf is missing; 'sluice recipe show tiny' prints the default"]


def test_a_number_such_as_1e_4_is_a_number(tmp_path):
    (tmp_path / "params.yaml").write_text("rate: 1e-4\n")
    assert load(tmp_path / "params.yaml") == {"rate": 1e-4}


def test_a_duplicate_key_is_refused_with_its_line(tmp_path):
    (tmp_path / "params.yaml").write_text("seed: 1\nseed: 2\n")
    with pytest.raises(UserError, match="line 2"):
        load(tmp_path / "params.yaml")


def test_a_nested_key_is_looked_up_where_it_stands(values):
    values["rlhf"]["weights"] = {"train": "lora", "rnk": 8, "alpha": 16}
    values["validate"]["limits"]["documents"]["min_record"] = 1
    values["gate"]["suites"]["mmlu-mini"]["flor"] = 0.1
    found = faults(values)
    assert any("rlhf.weights.rnk is not a known key; did you mean rlhf.weights.rank?" in fault for fault in found)
    assert any("rlhf.weights.rank is missing" in fault for fault in found)
    assert any("did you mean validate.limits.documents.min_records?" in fault for fault in found)
    assert any("did you mean gate.suites.mmlu-mini.floor?" in fault for fault in found)


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (
            {"take": "length", "weight": 1.0, "word": 3},
            "rewards.short.word is not a known key; did you mean rlhf.rewards.short.words?",
        ),
        ({"take": "length", "weight": 1.0}, "rlhf.rewards.short.words is missing"),
        ({"take": "size", "weight": 1.0}, "rlhf.rewards.short is "),
        ({"take": "function", "weight": 1.0, "function": "mine"}, "rewards.short.function is 'mine': string should match pattern"),
        (
            {"take": "function", "weight": 1.0, "function": "mine:f"},
            "function is mine:f, and mine.py is missing: write it",
        ),
        (
            {"take": "function", "weight": 1.0, "function": "tests.suites:letter_prompts"},
            "function is in tests/suites.py, which is no dep of rlhf: a change of it would train nothing again: add it to the deps of rlhf",
        ),
    ],
)
def test_a_reward_is_checked_as_any_key_is_and_its_file_must_be_a_dep(values, reward, said):
    values["rlhf"]["rewards"]["short"] = reward
    assert any(said in fault for fault in faults(values)), faults(values)


def test_a_method_of_another_algorithm_has_other_keys(values):
    values["rlhf"]["method"] = {"algorithm": "grpo", "clip": 0.2}
    assert any("rlhf.method.clip is not a known key" in fault for fault in faults(values)), faults(values)
    values["rlhf"]["method"] = "grpo"
    assert any("rlhf.method is 'grpo'" in fault for fault in faults(values)), faults(values)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"train": "lora"}, "sft.weights.rank is missing"),
        ({"train": "full", "rank": 8}, "sft.weights.rank is not a known key"),
        ({"train": "fulll"}, "sft.weights is {'train': 'fulll'}: input tag 'fulll' found using 'train' does not match"),
        ({}, "sft.weights is {}: unable to extract tag using discriminator 'train'"),
    ],
)
def test_a_number_that_the_chosen_weights_do_not_read_is_no_key(values, weights, said):
    values["sft"]["weights"] = weights
    assert any(said in fault for fault in faults(values)), faults(values)


@pytest.mark.parametrize("key", ["seed", "benchmark.items_seed"])
@pytest.mark.parametrize(("value", "good"), [(2**32 - 1, True), (2**32, False), (20251126213000, False), (-1, False)])
def test_a_seed_fits_into_32_bits_wherever_one_stands(key, value, good):
    values = load(ROOT / "params.yaml")
    section, _, name = key.rpartition(".")
    (values[section] if section else values)[name] = value
    if good:
        check(values, STAGES, ROOT)
    else:
        with pytest.raises(UserError, match=f"{key} is {value}: "):
            check(values, STAGES, ROOT)
