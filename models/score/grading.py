"""What an answer is worth, item by item: the records of items.jsonl. None of them holds the text of a question."""

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from models.core.errors import StageError
from models.sandbox import sandbox
from models.score import answers
from models.score.asking import Reply, Settings
from models.score.items import Choice, Code, Item, Problem, Short, Text
from models.score.reading import extracted, in_a_block, normal
from models.score.suite import ChoiceSuite, ExactSuite, LabelsSuite, Suite

BARE, CASE = ("case", "punctuation"), ("case",)
Records = list[dict[str, Any]]


def choices(described: Suite, items: Sequence[Item], cut: Sequence[bool], samples: Sequence[Mapping[str, Any]]) -> Records:
    """One record an item whose choices were rated; a likelihood that is not a number makes the item invalid, never a lucky guess."""
    cuts = iter(cut)
    a_character = isinstance(described, ChoiceSuite) and described.metric == "accuracy-per-character"
    records = []
    for item, sample in zip(items, samples, strict=True):
        assert isinstance(item, Choice)
        likelihoods = [likelihood for likelihood, _ in sample["filtered_resps"]]
        sound = all(math.isfinite(value) for value in likelihoods)
        flags = ["truncated"] * any(list(islice(cuts, len(likelihoods)))) + ["extraction-failed"] * (not sound)
        lengths = [len(choice) if a_character else 1 for choice in item.choices]
        rated = [value / length for value, length in zip(likelihoods, lengths, strict=True)]
        predicted = max(range(len(rated)), key=rated.__getitem__) if sound else None
        records.append(
            {
                **_named(item),
                "score": int(predicted == item.answer),
                "answer": item.answer,
                "predicted": predicted,
                "log_likelihoods": [round(value, 6) if math.isfinite(value) else None for value in likelihoods],
                "flags": flags,
            }
        )
    return records


def texts(items: Sequence[Item], samples: Sequence[Mapping[str, Any]]) -> Records:
    """One record a text: the score is 2^(-bits per byte)."""
    records = []
    for item, sample in zip(items, samples, strict=True):
        assert isinstance(item, Text)
        bits = -sample["filtered_resps"][0] / math.log(2) / len(item.text.encode())
        sound = math.isfinite(bits)
        record = {**_named(item), "score": round(2**-bits, 6) if sound else 0}
        records.append(record | {"bits_per_byte": round(bits, 6) if sound else None, "flags": ["extraction-failed"] * (not sound)})
    return records


def problems(items: Sequence[Item], replies: Sequence[Sequence[Reply]]) -> Records:
    """One record a problem, with the response."""
    asked = [(item, samples[0]) for item, samples in zip(items, replies, strict=True) if isinstance(item, Problem)]
    verdicts = answers.judge([(item.answer, reply.text) for item, reply in asked])
    records = []
    for (item, reply), verdict in zip(asked, verdicts, strict=True):
        flags = _flags(reply, unreadable=verdict == "unreadable", timeout=verdict == "too long")
        records.append({**_named(item), "score": int(verdict == "right"), "response": reply.text, "flags": _holding(flags)})
    return records


def short(described: ExactSuite, items: Sequence[Item], replies: Sequence[Sequence[Reply]]) -> Records:
    """One record a question: right where what is extracted of the response is one of the answers, but for what the suite ignores."""
    records = []
    for item, samples in zip(items, replies, strict=True):
        assert isinstance(item, Short)
        found = extracted(described.extract, samples[0].text)
        right = found is not None and normal(found, described.ignore) in {normal(answer, described.ignore) for answer in item.answers}
        flags = _flags(samples[0], unreadable=found is None, timeout=False)
        records.append({**_named(item), "score": int(right), "response": samples[0].text, "flags": _holding(flags)})
    return records


def labels(described: LabelsSuite, items: Sequence[Item], replies: Sequence[Sequence[Reply]]) -> Records:
    """One record a text whose label was written."""
    records = []
    for item, samples in zip(items, replies, strict=True):
        assert isinstance(item, Choice)
        predicted = written_label(described.words, samples[0].text)
        flags = _flags(samples[0], unreadable=predicted is None, timeout=False)
        record = {**_named(item), "score": int(predicted == item.answer), "answer": item.answer, "predicted": predicted}
        records.append({**record, "response": samples[0].text, "flags": _holding(flags)})
    return records


def written_label(labels: Sequence[str], text: str) -> int | None:
    """The place of the one label that a text is, or else holds as words of its own; None where it holds none, or several."""
    apart = len({normal(label, BARE) for label in labels}) == len(labels)  # "+" and "-" are not, without punctuation
    names, said = ([normal(one, BARE if apart else CASE) for one in many] for many in (labels, [text]))
    if said[0] in names:
        return names.index(said[0])
    # a label within another, such as "positive" in "very positive", does not count where the longer one stands
    named = [place for place, name in enumerate(names) if f" {name} " in f" {said[0]} "]
    named = [
        place for place in named if not any(names[place] != names[other] and f" {names[place]} " in f" {names[other]} " for other in named)
    ]
    return named[0] if len(named) == 1 else None


def programs(items: Sequence[Item], replies: Sequence[Sequence[Reply]], settings: Settings, chat: bool) -> Records:
    """One record an item: its score is pass@k, the first response, why that one failed, and how many of the samples passed.

    A flag holds that holds for most of the samples.
    """
    tasks = [item for item in items if isinstance(item, Code)]
    written = [(item, reply, _program(item, reply.text, chat)) for item, samples in zip(tasks, replies, strict=True) for reply in samples]
    jobs = [
        sandbox.Job(program=program or "", preamble=item.prompt, entry_point=item.entry_point, test=item.test)
        for item, _, program in written
    ]
    verdicts = sandbox.check_all(jobs, settings.limits)
    records, count = Records(), settings.sampling.samples
    for start in range(0, len(written), count):
        group, found = written[start : start + count], verdicts[start : start + count]
        item, passed = group[0][0], sum(verdict.passed for verdict in found)
        flags = [
            _flags(reply, unreadable=program is None, timeout=verdict.timeout, not_loaded=program is not None and not verdict.loaded)
            for (_, reply, program), verdict in zip(group, found, strict=True)
        ]
        value = pass_at(settings.sampling.pass_at, count, passed)
        record = {**_named(item), "score": value, "response": group[0][1].text, "reason": found[0].reason}
        several = {"passed": passed, "samples": [reply.text for _, reply, _ in group]} if count > 1 else {}
        records.append(record | several | {"flags": [name for name in flags[0] if 2 * sum(sample[name] for sample in flags) > count]})
    return records


def foreign(
    items: Sequence[Item], metric: str, cut: Sequence[bool], replies: Sequence[Sequence[Reply]], samples: Sequence[Mapping[str, Any]]
) -> Records:
    """One record an item of a task of lm-eval's: the value of its metric, as the task computed it."""
    cuts = iter(cut)
    records = []
    for place, (item, sample) in enumerate(zip(items, samples, strict=True)):
        reply = replies[place][0] if replies else None
        flags = [] if reply is None else _holding(_flags(reply, unreadable="[invalid]" in sample["filtered_resps"], timeout=False))
        flags += ["truncated"] * (reply is None and any(list(islice(cuts, len(sample["resps"])))))
        value = _value(metric, sample[metric])
        sound = all(part is not None and math.isfinite(part) for part in value.values())
        record = {**_named(item), **(value if sound else {"score": 0})}
        flags += ["extraction-failed"] * (not sound)
        records.append({**record, **({} if reply is None else {"response": reply.text}), "flags": flags})
    return records


def _value(metric: str, found: Any) -> dict[str, Any]:
    """What an item's metric says, as a score of 0 to 1: pairs are (log-likelihood, units), or (right, chosen) class of metrics of a whole
    set, a likelihood alone is a perplexity's."""
    match found:
        case bool():
            return {"score": int(found)}
        case (right, chosen) if metric in ("f1", "mcc"):
            return {"score": int(right == chosen), "answer": int(right), "predicted": int(chosen)}
        case (likelihood, units) if metric in ("word_perplexity", "byte_perplexity", "bits_per_byte"):
            return {"score": round(math.exp(likelihood / units), 6) if units else None}
        case _ if metric == "perplexity":
            return {"score": round(math.exp(found), 6)}
        case int() | float() if 0 <= found <= 1:
            return {"score": int(found) if found in (0, 1) else round(float(found), 6)}
        case int() | float() if not math.isfinite(found):
            return {"score": None}
    raise StageError(
        f"metric {metric} gives {str(found)[:60]} for an item, must be a number from 0 to 1: name another as 'metric' in suite.yaml"
    )


def _named(item: Item) -> dict[str, Any]:
    return {"id": item.id, "subject": item.subject}


def _flags(reply: Reply, unreadable: bool, timeout: bool, not_loaded: bool = False) -> dict[str, bool]:
    """What is wrong with a written answer, in the order in which flags are written."""
    return {
        "empty": not reply.text.strip(),
        "truncated": not (reply.complete and reply.whole_prompt),
        "extraction-failed": unreadable,
        "timeout": timeout,
        "not-loaded": not_loaded,
    }


def _holding(flags: Mapping[str, bool]) -> list[str]:
    return [name for name, holds in flags.items() if holds]


def pass_at(k: int, samples: int, passed: int) -> float:
    """pass@k: the probability that at least one of k programs drawn from the samples passes, 1 - C(n - c, k) / C(n, k).

    Source: Chen et al. (2021), equation 1. Greedy decoding is n = k = 1.
    """
    value = 1 - math.comb(samples - passed, k) / math.comb(samples, k)
    return int(value) if value in (0, 1) else round(value, 6)


def _program(item: Code, response: str, chat: bool) -> str | None:
    """The program that a response makes: a completion goes on from the prompt, an answer in chat brings the function in a code block."""
    if not chat:
        return item.prompt.rstrip() + response + "\n"
    code = in_a_block(response)
    return f"{item.prompt}\n{code}\n" if f"def {item.entry_point}" in code else None
