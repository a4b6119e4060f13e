"""The early decision, with whole models that are asked: it stops when the bet is decided, and asks nothing that training held."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows import early
from models import evaluation
from tasks.benchmark import BenchmarkParams
from tasks.benchmark import settings as settings_of
from tasks.gate import Policy
from tests.limits import ANY
from tests.tiny import tiny_model

ITEMS = 400
LIMITS = {"wall_seconds": 10, "cpu_seconds": 5, "memory_mib": 256, "processes": 8, "output_kib": 64}
BENCHMARK = {
    "batch_size": 8,
    "dtype": "float32",
    "items": {"mmlu-mini": None},
    "items_seed": 0,
    "max_new_tokens": 8,
    "sampling": {"temperature": 0.0, "samples": 1, "pass_at": 1},
    "program": LIMITS,
}
POLICY = Policy.model_validate(
    {
        "alpha": 0.05,
        "without_sandbox": "refuse",
        "better_on_one_of": [],
        "contaminated": 0.1,
        "health": {**ANY.model_dump(), "length_ratio": 9},
        "suites": {"mmlu-mini": {"margin": 0.1, "floor": None, "require": "non-inferior"}},
    }
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return [tiny_model(tmp_path_factory.mktemp("model"), seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def suites(models, tmp_path_factory):
    """One suite whose right answers are what the first model says."""
    suite = tmp_path_factory.mktemp("suites") / "mmlu-mini"
    rows = [{"id": f"q{n}", "question": f"Where is {n}?", "choices": [f"in {n * k % 97}" for k in (2, 3, 5, 7)]} for n in range(ITEMS)]
    write(suite, [{**row, "answer": 0, "subject": "places"} for row in rows])
    settings = settings_of(BenchmarkParams.model_validate(BENCHMARK), suite.name)
    said = evaluation.score(models[0], suite, suite.parent / "said", settings, "cpu", lambda _done, _all: None).items
    write(suite, [{**row, "answer": item["predicted"], "subject": "places"} for row, item in zip(rows, said, strict=True)])
    return suite.parent


def write(suite: Path, rows) -> None:
    suite.mkdir(exist_ok=True)
    (suite / "items.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def decide(candidate, champion, suites, leaked=frozenset()):
    told = []
    found = early.decide(candidate, champion, suites, POLICY, BENCHMARK, {"mmlu-mini": set(leaked)}, told.append)
    return found.decision, found.suites[0], told


def test_equals_are_told_after_a_part_of_the_items(models, suites):
    decision, verdict, told = decide(models[0], models[0], suites)
    assert (decision, verdict.verdict, verdict.gained, verdict.lost) == ("promote", "non-inferior", 0, 0)
    assert verdict.used < ITEMS / 4
    assert "shown after" in verdict.reason
    assert told[-1].startswith(f"mmlu-mini: {verdict.used} of {ITEMS}")


def test_one_that_loses_is_refused_before_the_end(models, suites):
    decision, verdict, _ = decide(models[1], models[0], suites)
    assert (decision, verdict.verdict) == ("refuse", "worse")
    assert verdict.lost > verdict.gained
    assert verdict.used < ITEMS


def test_items_that_training_held_are_never_asked(models, suites):
    clean = {f"q{n}" for n in range(20)}
    decision, verdict, told = decide(models[0], models[0], suites, {f"q{n}" for n in range(ITEMS)} - clean)
    assert (decision, verdict.verdict, verdict.used) == ("undecided", "undecided", len(clean))
    assert len(told) == 1


def test_batches_grow_and_hold_every_item_once():
    scorer = SimpleNamespace(items=[SimpleNamespace(id=str(n)) for n in range(1000)])
    batches = list(early._batches(scorer, set(), 0))
    assert sorted(place for batch in batches for place in batch) == list(range(1000))
    assert [len(batch) for batch in batches[:4]] == [32, 32, 32, 48]
    assert batches != list(early._batches(scorer, set(), 1))
