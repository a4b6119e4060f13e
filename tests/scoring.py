"""What makes a score, held against tests/models/scoring.json: `python -m tests.scoring` writes it anew, where a version was raised.

Every suite is made here in its published form, of generated items only, and asked of a model that follows a rule: its logits depend on all
the tokens that it was given, its answers are written down below. So what is asked, what is read out of an answer and what is right of it
can be kept as text, and two machines agree on it.
"""

import csv
import gzip
import hashlib
import io
import json
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from models.sandbox import sandbox
from models.score import evaluation, grading
from models.score import suite as suites

GOLDEN = Path(__file__).parent / "models" / "scoring.json"
NEAR = 1e-3  # of likelihoods, which are sums in float32
VERSIONS = ("scoring",)
POSITIONS, NEW_TOKENS = 640, 200

PROGRAMS = {  # entry point: (what the prompt says, the answer, the test)
    "right": ("def right(x):\n", "\n    return x + 1<|end|>", "assert candidate(1) == 2"),
    "wrong": ("def wrong(x):\n", "\n    return x<|end|>", "assert candidate(1) == 2"),
    "goes_on": ("def goes_on(x):\n", "\n    return x\n\nprint(goes_on(1))\nraise SystemExit", "assert candidate(1) == 1"),
    "second": (
        "def first(x):\n    return 2\n\n\ndef second(x):\n",
        "\n    return first(x)\ndef other(): pass",
        "assert candidate(1) == first(1)",
    ),
    "raises": (
        "def raises(x):\n",
        "\n    raise ValueError('no')<|end|>",
        "try:\n        candidate(1)\n    except ValueError:\n        return\n    assert 0",
    ),
    "no_program": ("def no_program(x):\n", " return x)<|end|>", "assert candidate(1) == 1"),
    "hides": ("def hides(x):\n", "\n    return x\n\ndel hides", "assert candidate(1) == 1"),
    "loops": ("def loops(x):\n", "\n    while True: pass<|end|>", "assert candidate(1) == 1"),
    "leaves": ("import os\ndef leaves(x):\n", "\n    os._exit(0)<|end|>", "assert candidate(1) == 1"),
    "equals": (
        "def equals(x):\n",
        "\n    class A:\n        def __eq__(self, other): return True\n    return A()<|end|>",
        "assert candidate(1) == 1",
    ),
    "counts": ("import collections\ndef counts(x):\n", "\n    return collections.Counter(x)<|end|>", "assert candidate('aa') == {'a': 2}"),
    "yields": ("def yields(x):\n", "\n    yield from x<|end|>", "assert list(candidate([1, 2])) == [1, 2]"),
    "half": ("from fractions import Fraction\ndef half(x):\n", "\n    return Fraction(1, 2)<|end|>", "assert candidate(1) == 0.5"),
    "a_tuple": ("def a_tuple(x):\n", "\n    return (1, 2)<|end|>", "assert candidate(1) == [1, 2]"),
    "changes": ("def changes(x):\n", "\n    x.append(1)\n    return x<|end|>", "given = []\n    candidate(given)\n    assert given == [1]"),
    "large": ("def large(x):\n", "\n    return 'a' * 10 ** 6<|end|>", "assert len(candidate(1)) == 10 ** 6"),
    "endless": ("def endless(x):\n", "\n    return 1" + " + 1" * 80, "assert candidate(1) == 1"),
    "unasked": ("def unasked(x):\n", "\n    return 1<|end|>", "pass"),
    "empty": ("def empty(x):\n", "<|end|>", "assert candidate(1) is None"),
}
PROBLEMS = {  # problem: (answer, what is written)
    "one half?": (r"\frac{1}{2}", r"It is \boxed{0.5}.<|end|>"),
    "the last counts?": ("2", r"Not \boxed{1} but \boxed{2}<|end|>"),
    "the first counts?": ("1", r"Not \boxed{1} but \boxed{2}<|end|>"),
    "a formula?": ("x^2-1", r"\boxed{(x-1)(x+1)}<|end|>"),
    "no box?": ("7", "It is 7.<|end|>"),
    "in dollars?": ("7", "It is $7$.<|end|>"),
    "nothing?": ("7", "<|end|>"),
    "a set?": (r"\{1, 2\}", r"\boxed{\{2, 1\}}<|end|>"),
    "a pair?": ("(1, 2)", r"\boxed{(2, 1)}<|end|>"),
    "a percentage?": (r"50\%", r"\boxed{50}<|end|>"),
    "cut?": ("3", r"\boxed{3} and " + "so on " * 60),
}
QUESTIONS = [
    ("Where is  the key?", ("in the box", "in the box there", " outside", "no"), 1),
    (" What is _____ plus 1?\nSay it. ", ("3", "37", "-3", "3 "), 0),
    ('Which, "quoted", is it?', ("A", "A", "A a", "The answer"), 3),
    ("Long? " + "where the road ends " * 40, ("here", "there", "nowhere", "all of these"), 2),
]
ANSWERS = {  # question: (right answers, what is written)
    "Capital, exactly?": ("Paris", " Paris<|end|>"),
    "Case and stops?": (["the Seine", "Seine"], "  the SEINE.<|end|>"),
    "Articles count?": ("Seine", " the Seine<|end|>"),
    "Which number?": ("42", " 42\nso it is<|end|>"),
    "Nothing said?": ("no", "<|end|>"),
    "Full width?": ("ABC", " ＡＢＣ<|end|>"),
}
LABELLED = [  # text, label, what is written
    ("A fine day.", "good", " good<|end|>"),
    ("A bad day, all of it.", "bad", " It is Bad.<|end|>"),
    ("Not so good a day.", "very bad", " very bad<|end|>"),
    ("A day.", "good", " good or bad<|end|>"),
    ("No day.", "bad", " badly<|end|>"),
]
OWN = {  # suites of the formats that no published one has
    "perplexity": "format: text\nitems: documents.jsonl\nfields: {subject: source}\n",
    "own-exact": "format: exact\nitems: exact.jsonl\n",
    "own-exact-chat": 'format: exact\nchat: true\nextract: "[A-Za-z]+|[0-9]+"\nignore: [case, punctuation, articles]\nitems: exact.jsonl\n',
    "own-labels": "format: labels\nlabels: [good, bad, very bad]\nmetric: macro-f1\nitems: labelled.jsonl\n",
    "own-labels-auc": (
        "format: labels\nchat: true\nlabels: {good: yes!, bad: no, very bad: never}\nmetric: auc\npositive: bad\nitems: labelled.jsonl\n"
    ),
    "own-labels-written": "format: labels\nby: written\nlabels: [good, bad, very bad]\nmetric: f1\npositive: good\nitems: labelled.jsonl\n",
    "own-letters": "format: choice\nby: letter\nchat: true\nitems: items.jsonl\n",
    "own-continuation": "format: choice\nby: continuation\nmetric: accuracy-per-character\nitems: items.jsonl\n",
    "own-task": "lm_eval: task.yaml\ndata: {test: test.jsonl}\nmetric: acc_norm\nfields: {subject: subject}\n",
}
TASK = """task: own
dataset_path: nobody/nothing
output_type: multiple_choice
test_split: test
doc_to_text: "Q: {{question}}\\nA:"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
SENTENCES = [("We are late.", "They are late."), ("It is his work.", "It is her work."), ("Old people are kind.", "Young people are kind.")]
TEXTS = ["A short text.", "Ünïcode, 日本.\n\nTwo paragraphs: ", "a long text, again and again, " * 60]


def make_suites(folder: Path) -> list[Path]:
    """Write every suite of the catalogue and of OWN in its own form, and return their folders."""
    for name, text in descriptions().items():
        described = suites.parse(text, name)
        file = described.data["test"] if isinstance(described, suites.HarnessSuite) else described.items.file
        path = folder / name / file
        path.parent.mkdir(parents=True)
        path.write_bytes(CONTENT[file](name))
        (path.parent / suites.FILE).write_text(text, encoding="utf-8")
        if "lm_eval:" in text:
            (path.parent / "task.yaml").write_text(TASK, encoding="utf-8")
    return [folder / name for name in descriptions()]


def descriptions() -> dict[str, str]:
    """suite.yaml of every suite, by name."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(suites.CATALOGUE.glob("*.yaml"))} | OWN


def _items(name: str) -> bytes:
    if name == "humaneval-mini":
        return _programs(name)
    asked = [{"question": question, "choices": choices, "answer": answer} for question, choices, answer in QUESTIONS]
    return _lines({"id": f"q{number}", "subject": f"s{number % 2}", **item} for number, item in enumerate(asked))


def _programs(name: str) -> bytes:
    """All programs in one suite; a few in the other, whose readers differ and nothing else."""
    parts = ("prompt", "canonical_solution", "test")
    items = {
        entry: dict(zip(parts, (f"{prompt}    ''\n", "    pass\n", f"def check(candidate):\n    {test}\n"), strict=True))
        for entry, (prompt, _, test) in list(PROGRAMS.items())[: 5 if name == "humaneval" else None]
    }
    return _lines({"task_id": f"p/{entry}", "entry_point": entry, **item} for entry, item in items.items())


def _mmlu(_name: str) -> bytes:
    members: dict[str, list[Any]] = {}
    for subject, turn in (("odd_facts", 0), ("even_facts", 1)):
        rows = [(question, *choices, "ABCD"[answer]) for question, choices, answer in QUESTIONS]
        shots = [(f" Example {number}{turn}? ", f"a{number}", " b", "c ", "d", "ABCD"[(number + turn) % 4]) for number in range(7)]
        members |= {f"data/test/{subject}_test.csv": rows[turn:], f"data/dev/{subject}_dev.csv": shots}
    return _zip({name: _csv(rows) for name, rows in members.items()})


def _gpqa(_name: str) -> bytes:
    head = (
        "Record ID",
        "Question",
        "Correct Answer",
        "Incorrect Answer 1",
        "Incorrect Answer 2",
        "Incorrect Answer 3",
        "High-level domain",
    )
    rows = [(f"rec{number}", question, *choices, "Physics") for number, (question, choices, _) in enumerate(QUESTIONS)]
    return _zip({f"dataset/gpqa_{part}.csv": _csv([head, *rows]) for part in ("diamond", "main")})


def _crows(_name: str) -> bytes:
    rows = [(number, more, less, "stereo", "age", "[]", "a0", "[]") for number, (less, more) in enumerate(SENTENCES)]
    head = ("", "sent_more", "sent_less", "stereo_antistereo", "bias_type", "annotations", "anon_writer", "anon_annotators")
    return _csv([head, *rows]).encode()


def _problems(_name: str) -> bytes:
    asked = enumerate(PROBLEMS.items())
    return _lines(
        {"unique_id": f"m{number}", "problem": problem, "answer": answer, "subject": "Algebra"} for number, (problem, (answer, _)) in asked
    )


def _texts(_name: str) -> bytes:
    return _lines({"id": f"t{number}", "text": text, "source": "made"} for number, text in enumerate(TEXTS))


def _lines(rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _zip(members: Mapping[str, str]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in members.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return packed.getvalue()


def _labelled(_name: str) -> bytes:
    return _lines({"id": f"l{number}", "question": text, "answer": label} for number, (text, label, _) in enumerate(LABELLED))


def _short_answers(_name: str) -> bytes:
    rows = enumerate(ANSWERS.items())
    return _lines({"id": f"e{number}", "question": question, "answer": right} for number, (question, (right, _)) in rows)


CONTENT = {
    "labelled.jsonl": _labelled,
    "exact.jsonl": _short_answers,
    "test.jsonl": _items,
    "items.jsonl": _items,
    "mmlu.zip": _mmlu,
    "dataset.zip": _gpqa,
    "HumanEval.jsonl.gz": lambda name: gzip.compress(_programs(name), mtime=0),
    "math500.jsonl": _problems,
    "crows_pairs_anonymized.csv": _crows,
    "documents.jsonl": _texts,
}


def make_model(folder: Path) -> Path:
    """Write a model whose tokenizer joins some letters, blanks and line breaks across words, and a chat template; return the folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    specials = ["<|end|>", "<|user|>", "<|assistant|>", "<|pad|>"]
    merges = [("Ġ", "A"), ("Ġ", "t"), ("Ġt", "h"), ("Ċ", "Ċ"), (":", "Ġ"), ("Ċ", "Ġ"), ("ĊĠ", "Ġ"), ("i", "n"), ("Ġ", "Ġ")]
    tokens = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    whole = Tokenizer(models.BPE({token: place for place, token in enumerate(tokens)}, merges))
    whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    whole.decoder = decoders.ByteLevel()
    whole.add_special_tokens(specials)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=whole, eos_token="<|end|>", pad_token="<|pad|>")
    tokenizer.chat_template = (
        "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokens), max_position_embeddings=POSITIONS, eos_token_id=0, **shape)).save_pretrained(
        folder
    )
    return folder


class Rule(torch.nn.Module):
    """A network that follows a rule instead of weights; it keeps no cache, and packs no rows."""

    device = torch.device("cpu")

    def __init__(self, config: Any, vocabulary: int, answers: Mapping[str, list[int]], decode: Any) -> None:
        super().__init__()
        self.config, self.vocabulary, self.answers, self.decode = config, vocabulary, answers, decode
        self.prompts: dict[tuple[int, ...], list[int]] = {}

    def get_output_embeddings(self) -> Any:
        return SimpleNamespace(weight=torch.zeros(self.vocabulary, 1))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> Any:
        if attention_mask is not None:
            rows = [row[mask == 1].tolist() for row, mask in zip(input_ids, attention_mask, strict=True)]
            return SimpleNamespace(
                logits=torch.nn.functional.one_hot(torch.tensor([[self._next(row)] for row in rows]), self.vocabulary).float()
            )
        read = (input_ids * torch.arange(1, input_ids.shape[1] + 1)).cumsum(-1) % 1009
        return SimpleNamespace(logits=(read[..., None] * 31 + torch.arange(self.vocabulary) * 17) % 97 / 16)

    def _next(self, row: list[int]) -> int:
        """The next token of the answer to the prompt that the row begins with; a row that begins with none is a new prompt."""
        known = next((prompt for prompt in self.prompts if tuple(row[: len(prompt)]) == prompt), tuple(row))
        if known not in self.prompts:
            text = self.decode(row)
            self.prompts[known] = next(tokens for mark, tokens in self.answers.items() if mark in text)
        return [*self.prompts[known], 0][len(row) - len(known)]


def facts(model: Path, suite: Path) -> dict[str, Any]:
    """All about a suite that makes a score, as plain values: what is asked, what is read out of the answers, and its versions."""
    limits = sandbox.ResourceLimits(wall_seconds=20, cpu_seconds=1, memory_mib=256, processes=8, output_kib=64)
    settings = evaluation.Settings(
        batch_size=3, dtype="float32", items=None, items_seed=0, max_new_tokens=NEW_TOKENS, sampling=evaluation.GREEDY, limits=limits
    )
    scorer = evaluation.Scorer(model, suite, settings, "cpu", lambda _done, _all: None)
    asked, tokenizer = scorer._asked, scorer.tokenizer
    answers = {f"def {name}(": text for name, (_, text, _) in PROGRAMS.items()} | {problem: text for problem, (_, text) in PROBLEMS.items()}
    answers |= {question: text for question, (_, text) in ANSWERS.items()} | {text: said for text, _, said in LABELLED}
    tokens = {mark: tokenizer.encode(text) for mark, text in answers.items()}
    asked._model = Rule(asked.model.config, len(tokenizer), tokens, tokenizer.decode)
    asked.packs, asked.takes = False, frozenset(("input_ids", "attention_mask"))
    requests: list[Any] = []
    for name in ("_loglikelihood_tokens", "generate_until"):
        _listen(asked, name, requests)
    records = scorer.results()
    evidence = scorer.evidence()
    return {
        "scoring": evidence["scoring"],
        "chance": evidence["chance"],
        "asked": _grouped([_request(tokenizer, request) for request in requests]),
        "read": [{key: value for key, value in record.items() if key != "reason"} for record in records],
        **({"drawn": _drawn(asked)} if scorer.isolation else {}),
    }


def _listen(asked: evaluation.LocalModel, name: str, requests: list[Any]) -> None:
    ask = getattr(asked, name)

    def heard(given: list[Any], **rest: Any) -> Any:
        requests.extend(given)
        return ask(given, **rest)

    setattr(asked, name, heard)


def _grouped(requests: list[list[Any]]) -> list[list[Any]]:
    """[prompt, all that follows it], for prompts that come one after another."""
    return [[prompt, [rest for _, *rest in group]] for prompt, group in groupby(requests, key=lambda request: request[0])]


def _request(tokenizer: Any, request: Any) -> list[Any]:
    if hasattr(request, "args"):
        prompt, how = request.args
        return [prompt, how["until"], _short(tokenizer.encode(prompt, add_special_tokens=False))]
    place, context, continuation = request
    return [
        *(place if isinstance(place, tuple) else [place]),
        _short(context),
        continuation if len(continuation) < 20 else _short(continuation),
    ]


def _short(tokens: Sequence[int]) -> str:
    return f"{len(tokens)} tokens, {hashlib.sha256(json.dumps(list(tokens)).encode()).hexdigest()[:12]}"


def _drawn(asked: evaluation.LocalModel) -> list[Any]:
    """Where the random numbers of sampled programs begin, and pass@k of some counts."""
    return [asked._random("0 1 a prompt").initial_seed(), *(grading.pass_at(k, 5, passed) for k in (1, 2, 5) for passed in range(6))]


def fault(suite: str, found: Mapping[str, Any], kept: Mapping[str, Any] | None) -> str:
    """What is wrong with the golden file's word on a suite, and what to do; empty where nothing is."""
    renew = "then write the file anew: python -m tests.scoring"
    if kept is None:
        return f"{suite} is not in {GOLDEN.name}: {renew.removeprefix('then ')}"
    where = next((key for key in found.keys() | kept.keys() if key not in VERSIONS and not _same(found.get(key), kept.get(key))), "")
    now, then = ([side[key] for key in VERSIONS] for side in (found, kept))
    if where and now == then:
        kind = found["scoring"].split()[0]
        return (
            f"{suite}: what is {where} is not what {GOLDEN.name} holds: a score may move. Raise SCORING[{kind!r}] in "
            f"models/score/evaluation.py, unless models/score/catalogue/{suite}.yaml was changed, which is part of a score's identity; "
            f"{renew}"
        )
    if now != then:
        lower = int(found["scoring"].split()[1]) < int(kept["scoring"].split()[1])
        return f"{suite}: {GOLDEN.name} is of {then}, the code of {now}: " + (
            "a version never goes back" if lower else renew.removeprefix("then ")
        )
    return ""


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) or isinstance(other, float):
        return isinstance(one, int | float) and isinstance(other, int | float) and abs(one - other) <= NEAR
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return bool(one == other)


def golden() -> dict[str, Any]:
    """The file, by suite; empty before there is one."""
    return json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.is_file() else {}


def _text(kept: Mapping[str, Mapping[str, Any]]) -> str:
    """JSON with an entry of a list a line, so that a change is seen in the diff."""

    def dump(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False)

    def lines(value: Any) -> str:
        return "[\n" + ",\n".join(f"  {dump(one)}" for one in value) + "\n ]" if isinstance(value, list) else dump(value)

    found = {suite: ",\n".join(f" {dump(key)}: {lines(value)}" for key, value in one.items()) for suite, one in kept.items()}
    return "{" + ",\n".join(f"{dump(suite)}: {{\n{one}}}" for suite, one in found.items()) + "}\n"


def main() -> None:
    """Write the golden file anew, but for suites that changed while their versions did not: those it names, and exits with 1."""
    kept, faults = golden(), []
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder) / "model")
        for suite in make_suites(Path(folder) / "suites"):
            found = json.loads(json.dumps(facts(model, suite)))
            wrong = fault(suite.name, found, kept.get(suite.name))
            if "Raise SCORING" in wrong or "never goes back" in wrong:
                faults.append(wrong)
            else:
                kept[suite.name] = found
    GOLDEN.write_text(_text({name: kept[name] for name in descriptions() if name in kept}), encoding="utf-8")
    sys.exit("\n".join(faults) or None)


if __name__ == "__main__":
    main()
