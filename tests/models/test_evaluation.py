"""What a model is asked, what counts as its answer, and what is written about it; with a tiny model of random weights."""

import json
import math
import zipfile
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

from models.core.errors import StageError
from models.sandbox import sandbox
from models.score import evaluation, grading, items, local_model
from models.score import suite as suites
from models.score.asking import Reply, Settings
from tests.suites import described, tasks
from tests.tiny import tiny_model

pytestmark = pytest.mark.long

torch.set_num_threads(1)
CHOICES = [
    {"id": f"q{number}", "question": f"Where is {number}?", "choices": ["here", "there", "over there", "no"], "answer": number % 4}
    for number in range(12)
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def mini(tmp_path: Path) -> Path:
    return write(tmp_path / "mmlu-mini", [{**item, "subject": "places"} for item in CHOICES])


@pytest.fixture
def mmlu(tmp_path: Path) -> Path:
    rows = "".join(f"  What is {number}? ,a{number},b{number},c{number},d{number},{'ABCD'[number % 4]}\n" for number in range(8))
    return packed(tmp_path / "mmlu" / "mmlu.zip", {"data/test/odd_facts_test.csv": rows, "data/dev/odd_facts_dev.csv": rows * 2})


@pytest.fixture
def code(tmp_path: Path) -> Path:
    test = "def check(candidate):\n    assert candidate(1) == 2\n"
    item = {"prompt": "def f(x):\n    ''\n", "entry_point": "f", "canonical_solution": "    return 2 * x\n", "test": test}
    return write(tmp_path / "humaneval-mini", [{"task_id": f"m/{number}", **item} for number in range(3)])


def write(suite: Path, rows: list[dict[str, Any]]) -> Path:
    described(suite)
    (suite / "items.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return suite


def packed(path: Path, members: dict[str, str]) -> Path:
    described(path.parent)
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return path.parent


def settings(**changes: Any) -> Settings:
    limits = sandbox.ResourceLimits(wall_seconds=10, cpu_seconds=5, memory_mib=256, processes=8, output_kib=64)
    standard = {"batch_size": 5, "dtype": "float32", "items": None, "items_seed": 0, "max_new_tokens": 12, "sampling": evaluation.GREEDY}
    return Settings(**{**standard, "limits": limits, **changes})


def score(model: Path, suite: Path, output: Path, **changes: Any) -> list[dict[str, Any]]:
    result = evaluation.score_suite(model, suite, output, settings(**changes), "cpu", lambda _step, _total: None)
    assert result.items is not None
    return result.items


def asked(model: Path, suite: Path, **changes: Any) -> list[Any]:
    """The requests that lm-eval makes of a suite's task."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    task = tasks(suite, settings(**changes), tokenizer)["tasks"][suite.name]
    network = local_model.LocalModel(model, tokenizer, settings(**changes), "cpu", lambda _step, _total: None)
    chat = suites.load(suite).chat
    task.build_all_requests(apply_chat_template=chat, chat_template=network.apply_chat_template if chat else None)
    return [instance.args for instance in task.instances]


def test_mmlu_is_asked_as_its_authors_ask_it(model: Path, mmlu: Path) -> None:
    prompt, letter = asked(model, mmlu)[1]
    first = "What is 0?\nA. a0\nB. b0\nC. c0\nD. d0\nAnswer: A\n\nWhat is 1?\nA. a1\nB. b1\nC. c1\nD. d1\nAnswer: B\n\n"
    assert prompt.startswith(f"The following are multiple choice questions (with answers) about odd facts.\n\n{first}")
    assert prompt.count("Answer:") == 6
    assert prompt.endswith("Answer: A\n\nWhat is 0?\nA. a0\nB. b0\nC. c0\nD. d0\nAnswer:")
    assert letter == " B"


def test_a_mini_suite_asks_for_whole_turns_of_the_chat_template(model: Path, mini: Path) -> None:
    assert asked(model, mini)[1] == ("<|user|>\nWhere is 0?<|end|>\n<|assistant|>\n", "there<|end|>")


def test_a_program_is_asked_for_without_the_line_break_that_its_body_starts_with(model: Path, code: Path) -> None:
    assert asked(model, code)[0][0] == "def f(x):\n    ''"


def test_likelihoods_are_those_of_the_tokens_one_by_one(model: Path, mini: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    found = score(model, mini, tmp_path / "out")
    for place, (prompt, turn) in enumerate(asked(model, mini)):
        start, ids = len(tokenizer.encode(prompt)), torch.tensor([tokenizer.encode(prompt + turn)])
        with torch.no_grad():
            steps = network(ids).logits.log_softmax(-1)[0, start - 1 : -1]
        expected = float(steps.gather(-1, ids[0, start:, None]).sum())
        assert found[place // 4]["log_likelihoods"][place % 4] == pytest.approx(expected, abs=1e-3)


def test_letters_are_picked_as_by_the_stock_model_of_lm_eval(model: Path, mmlu: Path, tmp_path: Path) -> None:
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    stock = HFLM(pretrained=AutoModelForCausalLM.from_pretrained(model), tokenizer=tokenizer, batch_size=2)
    samples = evaluate(stock, tasks(mmlu, settings(), tokenizer), bootstrap_iters=0)["samples"]["mmlu"]
    for ours, theirs in zip(score(model, mmlu, tmp_path / "out"), samples, strict=True):
        assert ours["log_likelihoods"] == pytest.approx([value for value, _ in theirs["filtered_resps"]], abs=1e-3)
        assert ours["score"] == theirs["acc"]


def test_scores_are_those_of_the_likeliest_choices(model: Path, mini: Path, tmp_path: Path) -> None:
    for item in score(model, mini, tmp_path / "out"):
        likeliest = max(range(4), key=item["log_likelihoods"].__getitem__)
        assert (item["predicted"], item["score"]) == (likeliest, int(likeliest == item["answer"]))


@pytest.mark.parametrize("suite", ["mini", "code"])
def test_two_equal_runs_write_equal_bytes(model: Path, suite: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(suite)
    score(model, folder, tmp_path / "one")
    score(model, folder, tmp_path / "two")
    for name in ("items.jsonl", "evidence.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_reply_does_not_depend_on_the_rows_beside_it(model: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, network = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    ours = local_model.LocalModel(model, tokenizer, settings(max_new_tokens=40), "cpu", lambda _step, _total: None)
    prompts = [tokenizer.encode("x" * length + text) for length, text in enumerate(["def f", "one ", "Tell me", "(", "never"])]
    stops = [ours._replies(prompts[:1], ["never"])[0].text[8:10], "never"]
    together = ours._replies(prompts, stops)
    assert [ours._replies([prompt], stops)[0] for prompt in prompts] == together
    assert {reply.complete for reply in together} == {True, False}
    for prompt, reply in zip(prompts, together, strict=True):
        ids = torch.tensor([prompt])
        whole = network.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40)[0, len(prompt) :]
        assert tokenizer.decode(whole, skip_special_tokens=True).startswith(reply.text)


def test_a_prompt_that_does_not_fit_is_flagged(model: Path, tmp_path: Path) -> None:
    long = {**CHOICES[0], "id": "long", "question": "where? " * 200, "subject": "places"}
    suite = write(tmp_path / "mmlu-mini", [long, {**CHOICES[1], "subject": "places"}])
    assert [item["flags"] for item in score(model, suite, tmp_path / "out")] == [["truncated"], []]


def test_a_program_that_never_ends_is_flagged(model: Path, code: Path, tmp_path: Path) -> None:
    found = score(model, code, tmp_path / "out", max_new_tokens=1)
    assert all("truncated" in item["flags"] and item["score"] == 0 for item in found)


def test_nothing_written_about_gpqa_holds_its_text(model: Path, tmp_path: Path) -> None:
    head = "Record ID,Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3,High-level domain\n"
    rows = "".join(f"rec{number},SECRET {number}?,SECRET,SECRET b,SECRET c,SECRET d,Physics\n" for number in range(6))
    score(model, packed(tmp_path / "gpqa" / "dataset.zip", {"dataset/gpqa_diamond.csv": head + rows}), tmp_path / "out")
    written = [path.read_text(encoding="utf-8") for path in (tmp_path / "out").iterdir()]
    assert any("rec5" in text for text in written)
    assert not any("SECRET" in text for text in written)


def test_evidence_tells_apart_what_must_not_be_compared(model: Path, mini: Path, tmp_path: Path) -> None:
    def evidence(name: str, **changes: Any) -> dict[str, Any]:
        score(model, mini, tmp_path / name, **changes)
        found: dict[str, Any] = json.loads((tmp_path / name / "evidence.json").read_text(encoding="utf-8"))
        return found

    whole, part = evidence("whole"), evidence("part", items=8)
    assert (whole["items"], part["items"], whole["chance"], whole["scoring"]) == (12, 8, 0.25, "choice 1")
    assert [name.split()[0] for name in whole["harness"].split(", ")] == ["lm-eval", "torch", "transformers", "tokenizers"]
    assert whole["suite_md5"] != part["suite_md5"]
    assert whole["model_md5"] == part["model_md5"]
    assert whole["template_md5"]


def test_a_chat_suite_refuses_a_model_without_a_template(model: Path, mini: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in model.iterdir():
        if path.name != "chat_template.jinja":
            (bare / path.name).write_bytes(path.read_bytes())
    with pytest.raises(StageError, match="has no chat template"):
        score(bare, mini, tmp_path / "out")


def test_without_isolation_no_program_runs_and_the_evidence_says_what_to_do(
    model: Path, code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    isolation: Callable[..., Any] = sandbox.isolation
    isolation.cache_clear()  # type: ignore[attr-defined]
    try:
        result = evaluation.score_suite(model, code, tmp_path / "out", settings(), "cpu", lambda _step, _total: None)
    finally:
        isolation.cache_clear()  # type: ignore[attr-defined]
    evidence = json.loads((tmp_path / "out" / "evidence.json").read_text(encoding="utf-8"))
    assert result.items is None
    assert (tmp_path / "out" / "items.jsonl").read_bytes() == b""
    assert evidence["available"] is False
    assert "apt install bubblewrap" in evidence["sandbox"]


def test_a_chat_answer_brings_its_function_in_a_code_block() -> None:
    item = items.Code(id="a", prompt="def f(x):\n    ''\n", entry_point="f", canonical_solution="", test="x")
    answer = "Sure!\n```python\ndef f(x):\n    return x\n```\nBye"
    assert grading._program(item, answer, chat=True) == "def f(x):\n    ''\n\n\ndef f(x):\n    return x\n\n"
    assert grading._program(item, "I cannot.", chat=True) is None
    assert grading._program(item, "\n    return x", chat=False) == "def f(x):\n    ''\n    return x\n"


def test_rows_that_begin_alike_are_found_and_others_are_left_together():
    law, art = tuple(range(100, 160)), tuple(range(200, 240))
    rows = [(*law, 1, 2, 3), (*law, 1, 9), (*law, 7, 7, 7, 7), (*art, 5), (*art, 6, 6), (1, 2, 3), (1, 2, 4, 5)]
    groups = list(local_model.shared_beginnings({row: len(row) - 1 for row in rows}))
    assert groups == [
        (60, [(*law, 7, 7, 7, 7), (*law, 1, 2, 3), (*law, 1, 9)]),
        (40, [(*art, 6, 6), (*art, 5)]),
        (0, [(1, 2, 4, 5), (1, 2, 3)]),
    ]


def test_a_shared_beginning_never_reaches_into_what_is_read():
    rows = [tuple(range(50)), (*range(50), 7)]
    assert next(local_model.shared_beginnings(dict.fromkeys(rows, 40)))[0] == 40


@pytest.mark.parametrize("suite", ["mini", "code"])
def test_some_items_asked_alone_get_the_records_that_they_get_among_all(model: Path, suite: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(suite)
    scorer = evaluation.Scorer(model, folder, settings(), "cpu", lambda _done, _all: None)
    whole = scorer.results()
    places = list(range(0, len(whole), 2))
    for alone, among in zip(scorer.results(places), (whole[place] for place in places), strict=True):
        assert (alone["id"], alone["score"], alone["flags"]) == (among["id"], among["score"], among["flags"])


def test_choices_as_texts_are_rated_a_character_as_by_the_stock_model(model: Path, mmlu: Path, tmp_path: Path) -> None:
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    suite = described(mmlu.rename(mmlu.with_name("mmlu-continuation")))
    rows = "".join(f"What is {number}?,{'a' * (number + 1)},b{number},c,{'d ' * number}d,{'ABCD'[number % 4]}\n" for number in range(12))
    with zipfile.ZipFile(suite / "mmlu.zip", "w") as archive:
        for part in ("test", "dev"):
            archive.writestr(f"data/{part}/odd_facts_{part}.csv", rows)
    tokenizer = AutoTokenizer.from_pretrained(model)
    stock = HFLM(pretrained=AutoModelForCausalLM.from_pretrained(model), tokenizer=tokenizer, batch_size=2)
    samples = evaluate(stock, tasks(suite, settings(), tokenizer), bootstrap_iters=0)["samples"][suite.name]
    found = score(model, suite, tmp_path / "out")
    assert [item["score"] for item in found] == [sample["acc_norm"] for sample in samples]
    assert all((item["predicted"] == item["answer"]) == item["score"] for item in found)
    assert asked(model, suite)[0][0].endswith("Question: What is 0?\nAnswer:")


def test_a_pair_is_won_by_the_sentence_that_the_stock_model_finds_likelier(model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    suite = described(tmp_path / "crows-pairs")
    pairs = [(f"They are {word}.", f"We are {word}.") for word in ("late", "kind", "old", "rich", "tall")]
    rows = "".join(f"{number},{more},{less},stereo,age,[],a0,[]\n" for number, (more, less) in enumerate(pairs))
    (suite / "crows_pairs_anonymized.csv").write_text(f",sent_more,sent_less,stereo_antistereo,bias_type,annotations,a,b\n{rows}")
    tokenizer, network = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)

    def likelihood(sentence: str) -> float:
        ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer.encode(sentence)]])
        with torch.no_grad():
            return float(network(ids).logits.log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None]).sum())

    found = score(model, suite, tmp_path / "out")
    assert [item["score"] for item in found] == [int(likelihood(less) > likelihood(more)) for more, less in pairs]
    assert json.loads((tmp_path / "out" / "evidence.json").read_text())["chance"] == 0.5


def test_bits_per_byte_are_those_of_lm_eval_and_long_texts_are_read_in_windows(model: Path, tmp_path: Path) -> None:
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    suite = described(tmp_path / "perplexity")
    texts = ["Once upon a time.", "é" * 30, "On and on. " * 250]  # the last is longer than the model's 1,024 positions
    rows = [{"id": str(number), "text": text, "source": "tales"} for number, text in enumerate(texts)]
    (suite / "documents.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    tokenizer = AutoTokenizer.from_pretrained(model)
    stock = HFLM(pretrained=AutoModelForCausalLM.from_pretrained(model), tokenizer=tokenizer, batch_size=2)
    samples = evaluate(stock, tasks(suite, settings(), tokenizer), bootstrap_iters=0)["samples"][suite.name]
    found = score(model, suite, tmp_path / "out")
    for item, sample, text in zip(found, samples, texts, strict=True):
        bits = -sample["filtered_resps"][0] / len(text.encode()) / math.log(2)
        assert item["bits_per_byte"] == pytest.approx(bits, abs=1e-4)
        assert item["score"] == pytest.approx(2**-bits, abs=1e-4)


def test_a_written_answer_counts_by_what_it_means(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = described(tmp_path / "math500")
    rows = [{"problem": f"{n} / 4?", "answer": f"\\frac{{{n}}}{{4}}", "subject": "sums", "unique_id": f"p{n}"} for n in (1, 2, 3)]
    (suite / "math500.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert "2 / 4?\n\nReason step by step, and put your final answer within \\boxed{}." in asked(model, suite)[1][0]
    texts = iter(["It is \\boxed{0.25}.", "No idea.", "\\boxed{1}"])
    replies = lambda *_: [Reply(text=next(texts), complete=True, whole_prompt=True)]  # noqa: E731
    monkeypatch.setattr(local_model.LocalModel, "_replies", replies)
    found = score(model, suite, tmp_path / "out", batch_size=1)
    assert [(item["score"], item["flags"]) for item in found] == [(1, []), (0, ["extraction-failed"]), (0, [])]


def test_pass_at_k_is_the_share_of_draws_that_hold_a_program_that_passes() -> None:
    for samples, passed, k in ((5, 2, 1), (5, 2, 2), (6, 3, 4), (4, 0, 2), (4, 4, 2)):
        draws = list(combinations([True] * passed + [False] * (samples - passed), k))
        assert grading.pass_at(k, samples, passed) == pytest.approx(sum(map(any, draws)) / len(draws), abs=1e-6)


def test_sampled_programs_are_the_same_in_whatever_company(model: Path, code: Path, tmp_path: Path) -> None:
    sampled = evaluation.Sampling(samples=4, pass_at=2, temperature=0.8)
    found = score(model, code, tmp_path / "out", sampling=sampled)
    assert all(len(set(item["samples"])) > 1 for item in found)  # drawn, not copied
    assert [item["samples"] for item in found] == [
        item["samples"] for item in score(model, code, tmp_path / "again", sampling=sampled, batch_size=3)
    ]
    assert {(item["passed"], item["score"]) for item in found} <= {(0, 0), (1, 0.5), (2, 0.833333), (3, 1), (4, 1)}
    evidence = json.loads((tmp_path / "out" / "evidence.json").read_text())
    assert json.loads(evidence["sampling"]) == {"samples": 4, "pass_at": 2, "temperature": 0.8}
