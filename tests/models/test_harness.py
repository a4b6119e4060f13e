"""Tasks of lm-eval's own package are scored as they stand, from files in a folder, with lm-eval's own verdicts."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from models.core.errors import UserError
from models.sandbox import sandbox
from models.score import evaluation, harness, items
from models.score import suite as suites
from models.score.asking import Settings
from models.score.items import Foreign
from tests.tiny import tiny_model

pytestmark = pytest.mark.long
torch.set_num_threads(1)

ARC = [
    {
        "id": f"A{n}",
        "question": f"Which is {n}?",
        "choices": {"text": ["one", "two", "three", "four"], "label": list("ABCD")},
        "answerKey": "ABCD"[n % 4],
    }
    for n in range(6)
]
PIQA = [{"goal": f"Reach {n}.", "sol1": "walk there", "sol2": "wait here", "label": n % 2} for n in range(6)]
BOOLQ = [{"passage": f"{n} is a number.", "question": f"is {n} even", "idx": n, "label": n % 2} for n in range(6)]
GSM8K = [{"question": f"What is {n} + 1?", "answer": f"{n} + 1 is {n + 1}.\n#### {n + 1}"} for n in range(8)]
HELLASWAG = [
    {
        "ctx_a": "A man",
        "ctx_b": "then",
        "activity_label": "Walking",
        "endings": ["stops.", "runs.", "[x] sits.", "flies."],
        "label": str(n % 4),
        "ind": n,
    }
    for n in range(5)
]
TRUTHFUL = [
    {
        "question": f"Is {n} true?",
        "mc1_targets": {"choices": ["It is.", "It is not."], "labels": [1, 0]},
        "mc2_targets": {"choices": ["It is.", "Yes.", "It is not."], "labels": [1, 1, 0]},
    }
    for n in range(4)
]
LAMBADA = [{"text": f"He went to the {word}"} for word in ("house", "river", "town")]
COLA = [{"sentence": f"Sentence {n}.", "label": n % 2, "idx": n} for n in range(6)]
WINOGRANDE = [
    {"sentence": f"The cup {n} fell on the _ loudly.", "option1": "table", "option2": "cat", "answer": "12"[n % 2]} for n in range(4)
]
WIKITEXT = [{"page": f"A page about {n}. It goes on and on."} for n in range(3)]
MRPC = [{"sentence1": f"It is {n}.", "sentence2": f"{n}, it is.", "label": n % 2, "idx": n} for n in range(8)]
QUICK = ("arc_easy", "gsm8k", "lambada_openai", "cola", "wikitext")  # one of each kind of request and of metric
TASKS: dict[str, tuple[dict[str, list[dict[str, Any]]], str]] = {  # the task: (rows by split, its metric)
    "arc_easy": ({"test": ARC}, "acc"),
    "arc_challenge": ({"test": ARC}, "acc"),
    "boolq": ({"validation": BOOLQ}, "acc"),
    "piqa": ({"validation": PIQA}, "acc"),
    "gsm8k": ({"test": GSM8K[:3], "train": GSM8K[3:]}, "exact_match"),
    "hellaswag": ({"validation": HELLASWAG}, "acc"),
    "truthfulqa_mc1": ({"validation": TRUTHFUL}, "acc"),
    "truthfulqa_mc2": ({"validation": TRUTHFUL}, "acc"),
    "lambada_openai": ({"test": LAMBADA}, "acc"),
    "cola": ({"validation": COLA}, "mcc"),
    "mrpc": ({"validation": MRPC}, "acc"),
    "winogrande": ({"validation": WINOGRANDE}, "acc"),
    "wikitext": ({"test": WIKITEXT}, "word_perplexity"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is fetched, and no cache outside is written."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))


def texts(suite: Path) -> list[tuple[str, str]]:
    return list(items.texts(suites.load(suite), harness.read(suite)))


def put(folder: Path, description: str, splits: dict[str, list[dict[str, Any]]]) -> Path:
    folder.mkdir(parents=True)
    (folder / suites.FILE).write_text(description, encoding="utf-8")
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return folder


def score(model: Path, suite: Path, output: Path, **changes: Any) -> list[dict[str, Any]]:
    limits = sandbox.ResourceLimits(wall_seconds=10, cpu_seconds=5, memory_mib=256, processes=8, output_kib=64)
    standard = {"batch_size": 4, "dtype": "float32", "items": None, "items_seed": 0, "max_new_tokens": 8, "sampling": evaluation.GREEDY}
    settings = Settings(**{**standard, "limits": limits, **changes})
    result = evaluation.score_suite(model, suite, output, settings, "cpu", lambda _done, _all: None)
    assert result.items is not None
    return result.items


def of_lm_eval(model: Path, suite: Path, metric: str) -> list[Any]:
    """What lm-eval's own model and loop make of the same task."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    described = suites.load(suite)
    assert isinstance(described, suites.HarnessSuite)
    task = harness.load(suite, described)
    stock = type("Stock", (HFLM,), {"max_gen_toks": 8})(
        pretrained=AutoModelForCausalLM.from_pretrained(model), tokenizer=tokenizer, backend="causal", batch_size=2
    )
    found = evaluate(stock, {"tasks": {suite.name: task}, "groups": {}, "group_map": {}}, bootstrap_iters=0)["samples"][suite.name]
    return [sample[metric] for sample in found if sample["filter"] == found[0]["filter"]]


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in TASKS])
def test_a_task_of_the_installed_package_gets_lm_evals_own_scores(model: Path, tmp_path: Path, name: str) -> None:
    splits, metric = TASKS[name]
    suite = put(tmp_path / "own", f"lm_eval: {name}\n", splits)
    found = score(model, suite, tmp_path / "out")
    theirs = of_lm_eval(model, suite, metric)
    assert len(found) == len(theirs) == len(next(iter(splits.values())))
    for item, value in zip(found, theirs, strict=True):
        if metric in ("mcc", "f1"):
            assert (item["answer"], item["predicted"]) == value
        elif metric == "word_perplexity":
            assert item["score"] == pytest.approx(2.718281828 ** (value[0] / value[1]), abs=1e-5)
        else:
            assert item["score"] == pytest.approx(float(value), abs=1e-5)
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").rglob("*.arrow"))


def test_worked_examples_filters_and_metrics_are_chosen_in_suite_yaml(model: Path, tmp_path: Path) -> None:
    splits = TASKS["gsm8k"][0]
    suite = put(tmp_path / "gsm", "lm_eval: gsm8k\nshots: 2\nfilter: flexible-extract\n", splits)
    score(model, suite, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "evidence.json").read_text())["shots"] == 2
    (suite / suites.FILE).write_text("lm_eval: gsm8k\nfilter: strict\n")
    with pytest.raises(UserError, match=r"filter is 'strict', must be one of the task's: strict-match, flexible-extract"):
        score(model, suite, tmp_path / "again")
    (suite / suites.FILE).write_text("lm_eval: gsm8k\nmetric: acc\n")
    with pytest.raises(UserError, match=r"metric is 'acc', must be one that the task computes: exact_match"):
        score(model, suite, tmp_path / "again")


def test_some_items_of_a_task_get_the_records_that_they_get_among_all(model: Path, tmp_path: Path) -> None:
    suite = put(tmp_path / "arc", "lm_eval: arc_easy\n", {"test": ARC})
    whole = {item["id"]: item for item in score(model, suite, tmp_path / "whole")}
    some = score(model, suite, tmp_path / "some", items=3)
    assert len(some) == 3
    assert all(whole[item["id"]] == item for item in some)


TASK = """task: mine
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: answer
{more}
"""
ROWS = [{"id": n, "question": f"Where is {n}?", "choices": ["here", "there"], "answer": n % 2, "area": f"a{n % 2}"} for n in range(4)]


@pytest.mark.parametrize("file", ["test.jsonl", "data/test.jsonl", "/elsewhere/data/test.jsonl"])
def test_a_task_file_of_ones_own_finds_its_data_beside_it(model: Path, tmp_path: Path, file: str) -> None:
    suite = put(tmp_path / "mine", "lm_eval: task.yaml\nfields: {subject: area}\n", {"test": ROWS})
    (suite / "task.yaml").write_text(TASK.format(file=file, more=""))
    found = score(model, suite, tmp_path / "out")
    assert [(item["id"], item["subject"]) for item in found] == [("0", "a0"), ("1", "a1"), ("2", "a0"), ("3", "a1")]
    assert texts(suite)[:2] == [("0", "Where is 0?"), ("0", "Where is 0? here")]


def test_a_task_file_may_include_another_and_bring_python(model: Path, tmp_path: Path) -> None:
    suite = put(tmp_path / "mine", "lm_eval: child.yaml\n", {"test": ROWS})
    (suite / "base.yaml").write_text(TASK.format(file="test.jsonl", more=""))
    (suite / "utils.py").write_text("def asked(doc):\n    return 'So: ' + doc['question']\n")
    (suite / "child.yaml").write_text("include: base.yaml\ntask: child\ndoc_to_text: !function utils.asked\n")
    assert len(score(model, suite, tmp_path / "out")) == 4
    assert texts(suite)[0][1] == "So: Where is 0?"


@pytest.mark.parametrize(
    ("description", "more", "said"),
    [
        ("lm_eval: no_such_task\n", "", "the installed lm-eval has no task 'no_such_task'"),
        ("lm_eval: gone.yaml\n", "", r"gone.yaml is missing: lm_eval must name a task file"),
        ("lm_eval: ../task.yaml\n", "", "is missing: lm_eval must name a task file"),
        ("lm_eval: task.yaml\n", "group: all\n", "is a group of tasks: a suite is one task"),
        ("lm_eval: task.yaml\n", "repeats: 4\n", "asks for several or for sampled answers"),
        ("lm_eval: task.yaml\n", "validation_split: other\ntest_split: other\n", "no file stands for split 'other'"),
        ("lm_eval: task.yaml\n", "doc_to_target: '{{nothing.at.all}}'\n", r"cannot be loaded \(UndefinedError"),
        ("lm_eval: task.yaml\n", "doc_to_target: [\n", r"cannot be loaded \(ParserError"),
        (
            "lm_eval: task.yaml\n",
            "process_results: !function checks.score\n",
            r"needs the package checkers_of_nobody, which is not installed",
        ),
    ],
)
def test_what_is_no_task_is_one_line(tmp_path: Path, description: str, more: str, said: str) -> None:
    suite = put(tmp_path / "mine", description, {"test": ROWS})
    text = TASK.format(file="test.jsonl", more="")
    kept = [line for line in text.splitlines() if not any(line.startswith(f"{one.split(':')[0]}:") for one in more.splitlines() if one)]
    (suite / "checks.py").write_text("import checkers_of_nobody\n")
    (suite / "task.yaml").write_text("\n".join(kept) + f"\n{more}")
    with pytest.raises(UserError, match=said) as failure:
        harness.read(suite)
    assert "\n" not in str(failure.value)


def test_a_random_answers_score_is_that_of_the_number_of_choices(tmp_path: Path) -> None:
    found = harness.read(put(tmp_path / "arc", "lm_eval: arc_easy\n", {"test": ARC}))
    assert all(isinstance(item, Foreign) and item.chance == 0.25 for item in found)
    assert [item.id for item in found] == [f"A{n}" for n in range(6)]


def test_nothing_is_fetched_where_a_tasks_data_are_not_here(tmp_path: Path) -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    suite = put(tmp_path / "arc", "lm_eval: arc_easy\n", {})
    with pytest.raises(UserError, match=r"no file stands for split 'test': put test.jsonl there, or name it, 'data: \{test: FILE\}'"):
        harness.read(suite)


def test_the_items_of_a_task_are_listed_beside_it_and_read_without_lm_eval(tmp_path: Path) -> None:
    suite = put(tmp_path / "arc", "lm_eval: arc_easy\n", {"test": ARC})
    found = harness.read(suite)
    harness.write_listing(suite, found)
    assert items.read(suite) == found
