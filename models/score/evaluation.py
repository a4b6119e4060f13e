"""Scores of one model on one suite, item by item: the one door to lm-eval.

lm-eval reads the task (models/score/suite_tasks/SUITE.yaml), writes the prompts, asks the model and picks the likeliest choice.
What it would write itself is left aside, because its samples carry the text of every question: items.jsonl and evidence.json are ours.

We call its `evaluate`, not `simple_evaluate`: that one asks a model hub for the model's revision, starts a dozen processes to describe the
machine and puts a date into the results.
"""

import contextlib
import hashlib
import io
import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from inspect import signature
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from lm_eval.api.instance import Instance
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import env, get_rolling_token_windows, make_disjoint_window
from pydantic import Field
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from models.core.content import folder_md5
from models.core.errors import StageError
from models.core.files import write_json, write_lines
from models.core.records import Record
from models.sandbox import sandbox
from models.score import answers, packing, suites
from models.train.settings import Sampling

TASKS = Path(__file__).with_name("suite_tasks")
Progress = Callable[[int, int], None]
GREEDY = Sampling(samples=1, pass_at=1, temperature=0.0)
Row = tuple[int, ...]  # the tokens that a model is given
SCORING = {  # by kind of suite, raised where a score of it may move: tests/models/test_scoring.py says when
    "choices": 1,
    "text": 1,
    "code": 1,
    "written": 1,
}
KINDS: dict[type[suites.Item], str] = {suites.Code: "code", suites.Problem: "written", suites.Text: "text"}  # and "choices"
LIBRARIES = ("lm-eval", "torch", "transformers", "tokenizers")  # they tokenise and compute: another version is another evaluation
LOGITS = 1 << 26  # computed at once at most: 256 MiB in float32
SHARED_TOKENS = 32  # a shorter common beginning costs about as much to keep as to compute again


class Settings(Record):
    """How a suite is asked; all of it may move a score, so all of it is in the evidence."""

    batch_size: int = Field(ge=1)
    dtype: str
    items: int | None = Field(description="size of the subset; None for all")
    items_seed: int
    max_new_tokens: int = Field(ge=1)
    sampling: Sampling = Field(description="of code suites; the others are asked greedily")
    limits: sandbox.Limits


class Reply(Record):
    """A generated text: `complete` says that it ended by itself, `whole_prompt` that the model saw all of the prompt."""

    text: str
    complete: bool
    whole_prompt: bool


class Result(Record):
    """The items as they were written, None where programs cannot be run safely; chance is the score of random answers."""

    items: list[dict[str, Any]] | None
    chance: float


class Scorer:
    """One model, loaded once, that can be asked any items of one suite.

    Raises UserError for a broken suite and StageError for a model that the suite cannot ask.
    """

    def __init__(self, model: Path, suite: Path, settings: Settings, device: str, progress: Progress) -> None:
        self.model, self.suite, self.settings = model, suite, settings
        how = settings if suites.is_code(suite) else settings.model_copy(update={"sampling": GREEDY})
        self.items = suites.subset(suites.suite_items(suite), settings.items, settings.items_seed)
        self.isolation = sandbox.isolation() if suites.is_code(suite) else None
        self.tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
        self._tasks = _tasks(suite, settings, self.tokenizer)
        self.meta = self._tasks["tasks"][suite.name].config.metadata
        if self.meta["chat"] and not self.tokenizer.chat_template:
            raise StageError(f"the model's tokenizer has no chat template, but suite {suite.name} asks in chat form: train it with one")
        self.available = self.isolation is None or self.isolation.backend is not None
        if self.available:
            with _quiet():
                self._asked = LocalModel(model, self.tokenizer, how, device, _heard(progress))

    def results(self, places: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """One record an item, in the suite's order; `places` picks items of the suite, ascending."""
        chosen = None if places is None else {self.suite.name: list(places)}
        with _quiet():
            found = evaluate(self._asked, self._tasks, samples=chosen, bootstrap_iters=0, apply_chat_template=bool(self.meta["chat"]))[
                "samples"
            ][self.suite.name]
        items = self.items if places is None else [self.items[place] for place in places]
        kind = suites.suite_format(self.suite).kind
        if kind is suites.Code:
            return _code_items(self._asked, items, self.settings, self.meta["chat"])
        if kind is suites.Problem:
            return _written_items(self._asked, items)
        return _text_items(items, found) if kind is suites.Text else _choice_items(self._asked, found)

    def evidence(self) -> dict[str, Any]:
        """What a comparison of two scores must find equal, and what ran the programs."""
        return _evidence(self.model, self.suite, self.settings, self.items, self.tokenizer, self.meta, self.isolation)


def score(model: Path, suite: Path, output: Path, settings: Settings, device: str, progress: Progress) -> Result:
    """Write items.jsonl and evidence.json into `output` and return the items.

    Raises UserError for a broken suite and StageError for a model that the suite cannot ask.
    """
    scorer = Scorer(model, suite, settings, device, progress)
    results = scorer.results() if scorer.available else None
    write_lines(output / "items.jsonl", results or [])
    write_json(output / "evidence.json", scorer.evidence())
    return Result(items=results, chance=_chance(scorer.items))


def _tasks(suite: Path, settings: Settings, tokenizer: PreTrainedTokenizerBase) -> Any:
    """The suite's task with its documents; what is given here reaches `documents` through the task's metadata."""
    lead, end = _turn(tokenizer) if tokenizer.chat_template else ("", "")
    given = {"suite": str(suite), "items": settings.items, "items_seed": settings.items_seed, "turn_lead": lead, "turn_end": end}
    with _quiet():
        tasks = TaskManager(include_path=str(TASKS), include_defaults=False, metadata=given).load([suite.name])
    asked = tasks["tasks"][suite.name].config
    if "{{" in asked.doc_to_text:  # lm-eval would compile it for every item: a twentieth of the time of five-shot questions
        template = env.from_string(asked.doc_to_text)
        asked.doc_to_text = lambda doc: template.render(doc)
    return tasks


def _chance(items: list[suites.Item]) -> float:
    """Mean score of random answers; a random text's bytes have a probability of 1/256 each."""
    chances = {suites.Code: 0.0, suites.Problem: 0.0, suites.Text: 1 / 256}
    return sum(1 / len(item.choices) if isinstance(item, suites.Choice) else chances[type(item)] for item in items) / len(items)


def documents(suite: str, items: int | None, items_seed: int, turn_lead: str, turn_end: str, shots: int, **_: Any) -> dict[str, Dataset]:
    """Return the suite as lm-eval wants it, held in memory only; lm-eval calls this with a task's metadata.

    `turns` are the choices as whole turns, begun and closed as the chat template begins and closes them: without the end, "3" would be at
    least as likely as "37" by construction.
    """
    folder = Path(suite)
    examples = {subject: [item.model_dump() for item in group[:shots]] for subject, group in suites.shots(folder).items()}
    rows = []
    for item in suites.subset(suites.suite_items(folder), items, items_seed):
        row = item.model_dump()
        if isinstance(item, suites.Choice):
            row |= {
                "turns": [turn_lead + choice + turn_end for choice in item.choices],
                "shots": examples.get(item.subject, []) if shots else [],
            }
        rows.append(row)
    return {"test": Dataset.from_list(rows)}


class LocalModel(HFLM):
    """lm-eval's Hugging Face model with our own two loops over batches, and a note of every prompt that did not fit.

    Its own loops compute logits for all tokens of a prompt, go on with rows that are finished until the last one of the batch is, and
    do not tell why a text ended.
    """

    def __init__(self, folder: Path, tokenizer: PreTrainedTokenizerBase, settings: Settings, device: str, progress: Progress) -> None:
        network = AutoModelForCausalLM.from_pretrained(folder, dtype=settings.dtype, local_files_only=True).to(device)
        super().__init__(pretrained=network, tokenizer=tokenizer, backend="causal", batch_size=settings.batch_size)
        self._head_in_single_precision()
        self.takes = frozenset(signature(network.forward).parameters)
        self.new_tokens, self.sampling, self.seed = settings.max_new_tokens, settings.sampling, settings.items_seed
        configured = getattr(network.generation_config, "eos_token_id", None)
        self.ends = {tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])}
        self.told = progress
        self.packs = packing.can_pack(network)
        self.rows = (0, 0)  # computed, in all
        self.encoded: tuple[str | None, list[int]] = (None, [])  # the last context and its tokens
        self.cut: list[bool] = []  # one a log-likelihood request, in their order
        self.replies: list[list[Reply]] = []  # the samples of each generation request, in their order

    def _head_in_single_precision(self) -> None:
        """Keep the last layer in float32: logits rounded to bfloat16 give choices equal likelihoods, and the first letter wins ties."""
        head = self.model.get_output_embeddings()
        if head.weight.dtype != torch.float32:
            for name, value in list(head.named_parameters(recurse=False)):  # anew: the embedding may share the weight
                setattr(head, name, torch.nn.Parameter(value.float(), requires_grad=False))
            head.register_forward_pre_hook(lambda _, states: (states[0].float(),))

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Split the tokens of the joined text where they stop being the context's own.

        lm-eval moves the context's trailing white space into the continuation, which would count the template's line break as an answer's.
        """
        if self.encoded[0] != context:  # the choices of a question come one after another
            self.encoded = (context, self.tok_encode(context))
        joined, alone = self.tok_encode(context + continuation), self.encoded[1]
        shared = next((place for place, (one, other) in enumerate(zip(joined, alone, strict=False)) if one != other), len(alone))
        shared = min(shared, len(joined) - 1)
        return joined[:shared], joined[shared:]

    @torch.inference_mode()
    def _loglikelihood_tokens(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether it is the greedy one.

        Requests that differ in their last token only, such as letters, share a row. What rows have in common at their beginning, such as
        worked examples, is computed once. Rows are packed where the model allows it, else padded on the right, longest first; logits are
        computed where a continuation is read and nowhere else.
        """
        self.cut = [len(context) + len(continuation) > self.max_length + 1 for _, context, continuation in requests]
        rows: dict[Row, list[int]] = {}
        for place, (_, context, continuation) in enumerate(requests):
            rows.setdefault(tuple([*context, *continuation][-self.max_length - 1 : -1]), []).append(place)
        reads = {row: max(len(requests[place][2]) for place in places) for row, places in rows.items()}
        self.rows = (0, len(rows))
        found: dict[int, tuple[float, bool]] = {}
        for shared, group in shared_beginnings({row: (len(row) - count) * self.packs for row, count in reads.items()}):
            beginning = packing.begin(self.model, list(group[0][:shared]))
            most = max(reads[row] for row in group) * self.model.get_output_embeddings().weight.shape[0]
            size = max(1, min(self.batch_size, LOGITS // most))
            for start in range(0, len(group), size):
                batch = group[start : start + size]
                for row, log_likelihoods in zip(batch, self._log_likelihoods(batch, reads, shared, beginning), strict=True):
                    for place in rows[row]:
                        target = torch.tensor(requests[place][2], device=self.device)
                        own = log_likelihoods[-len(target) :]
                        total = own.gather(-1, target[:, None]).sum()
                        found[place] = (float(total), bool((own.argmax(-1) == target).all()))
                self._tell(len(batch))
        return [found[place] for place in range(len(requests))]

    def _log_likelihoods(
        self, batch: list[Row], reads: dict[Row, int], shared: int, beginning: packing.Beginning
    ) -> Iterator[torch.Tensor]:
        """For each row, log-probabilities of the next token [tokens read, vocabulary], where the row's continuations begin."""
        if not self.packs:
            yield from self._padded(batch, reads)
            return
        rows = [list(row[shared:]) for row in batch]
        ends = accumulate(map(len, rows))
        kept = [place for row, end in zip(batch, ends, strict=True) for place in range(end - reads[row], end)]
        yield from packing.run(self.model, rows, beginning, kept).log_softmax(-1).split([reads[row] for row in batch])

    def _forward(self, **given: Any) -> Any:
        """What the model makes of the arguments that its architecture takes: not every one takes positions, or tells which logits."""
        return self.model(**{name: value for name, value in given.items() if name in self.takes})

    def _padded(self, batch: list[Row], reads: dict[Row, int]) -> Iterator[torch.Tensor]:
        longest = max(map(len, batch))
        starts = [len(row) - reads[row] for row in batch]
        kept = sorted({start + place for start, row in zip(starts, batch, strict=True) for place in range(reads[row])})
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in batch], device=self.device)
        logits = self._forward(input_ids=ids, use_cache=False, logits_to_keep=torch.tensor(kept, device=self.device)).logits
        logits = logits if "logits_to_keep" in self.takes else logits[:, kept]
        for start, row, row_logits in zip(starts, batch, logits, strict=True):
            yield row_logits[[kept.index(start + place) for place in range(reads[row])]].log_softmax(-1)

    def loglikelihood_rolling(self, requests: list[Instance], **_: Any) -> list[float]:
        """Log-likelihood of whole texts, in windows of the model's length; the last sees what was before it as far as fits."""
        windows = [
            (place, *make_disjoint_window(window))
            for place, request in enumerate(requests)
            for window in get_rolling_token_windows(self.tok_encode(request.args[0]), self.prefix_token_id, self.max_length, context_len=1)
        ]
        totals = [0.0] * len(requests)
        for (place, *_rest), (value, _greedy) in zip(windows, self._loglikelihood_tokens(windows), strict=True):
            totals[place] += value
        return totals

    def generate_until(self, requests: list[Instance], **_: Any) -> list[str]:
        """Longest prompts first, ties in the order given, so that equal requests always share their batches and paddings.

        Each prompt is answered as often as the settings say, every time with random numbers of its own: seed, prompt and place decide them.
        """
        if self.new_tokens >= self.max_length:
            raise StageError(
                f"max_new_tokens is {self.new_tokens}, must be below the model's {self.max_length} positions: lower it in params"
            )
        prompts = [self.tok_encode(request.args[0]) for request in requests]
        longest_first = sorted(range(len(prompts)), key=lambda place: (-len(prompts[place]), place))
        order = [(place, sample) for place in longest_first for sample in range(self.sampling.samples)]
        self.rows = (0, len(order))
        replies: dict[tuple[int, int], Reply] = {}
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            draws = batch if self.sampling.temperature else []  # greedy decoding draws nothing
            chance = [self._random(f"{self.seed} {sample} {requests[place].args[0]}") for place, sample in draws]
            found = self._replies([prompts[place] for place, _ in batch], requests[0].args[1]["until"], chance)
            replies.update(zip(batch, found, strict=True))
            self._tell(len(batch))
        self.replies = [[replies[place, sample] for sample in range(self.sampling.samples)] for place in range(len(requests))]
        return [samples[0].text for samples in self.replies]

    def _random(self, name: str) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1)

    def _next(self, logits: torch.Tensor, rows: list[int], chance: Sequence[torch.Generator]) -> torch.Tensor:
        """The next token of each row [rows, 1]: the likeliest at temperature 0, else drawn with that row's own random numbers."""
        if self.sampling.temperature == 0:
            return logits.argmax(-1, keepdim=True)
        odds = (logits.float() / self.sampling.temperature).softmax(-1)
        return torch.stack([torch.multinomial(own, 1, generator=chance[row]) for own, row in zip(odds, rows, strict=True)])

    @torch.inference_mode()
    def _replies(self, prompts: list[list[int]], stops: list[str], chance: Sequence[torch.Generator] = ()) -> list[Reply]:
        """Continuations of prompts, left-padded to [batch, tokens]; a row leaves the batch as soon as it has ended."""
        room = self.max_length - self.new_tokens
        kept = [prompt[-room:] for prompt in prompts]
        longest = max(map(len, kept))
        ids = torch.tensor([[0] * (longest - len(row)) + row for row in kept], device=self.device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in kept], device=self.device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        written: list[list[int]] = [[] for _ in kept]
        done = [False] * len(kept)
        rows, cache = list(range(len(kept))), None
        for _ in range(self.new_tokens):
            step = self._forward(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
            )
            cache, new = getattr(step, "past_key_values", None), self._next(step.logits[:, -1], rows, chance)
            if cache is None:  # an architecture that keeps what it has read in its own way reads all anew
                ids, positions = torch.cat([ids, new], -1), torch.cat([positions, positions[:, -1:] + 1], -1)
            else:
                ids, positions = new, positions[:, -1:] + 1
            for row, token in zip(rows, new[:, 0].tolist(), strict=True):
                written[row].append(token)
                done[row] = token in self.ends or self._stopped(written[row], stops)
            left = [place for place, row in enumerate(rows) if not done[row]]
            if not left:
                break
            if len(left) < len(rows):
                keep = torch.tensor(left, device=self.device)
                ids, mask, positions, rows = ids[keep], mask[keep], positions[keep], [rows[place] for place in left]
                if cache is not None:
                    cache.batch_select_indices(keep)
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], -1)
        return [
            Reply(text=self._text(prompt, tokens, stops), complete=ended, whole_prompt=len(prompt) <= room)
            for tokens, ended, prompt in zip(written, done, prompts, strict=True)
        ]

    def _stopped(self, tokens: list[int], stops: list[str]) -> bool:
        """Whether a stop string ends in the newest token; a token is at least one byte, so the longest stop bounds the look back."""
        tail = self.tokenizer.decode(tokens[-max(map(len, stops), default=1) :], clean_up_tokenization_spaces=False)
        return any(stop in tail for stop in stops)

    def _text(self, prompt: list[int], tokens: list[int], stops: list[str]) -> str:
        """What was written, up to the first stop. It is read after the prompt's end: at a text's beginning some tokenizers drop a blank,
        and with it a program's indentation.
        """
        before, whole = self._decoded(prompt[-8:]), self._decoded([*prompt[-8:], *tokens])
        text = whole.removeprefix(before) if whole.startswith(before) else self._decoded(tokens)
        return text[: min((place for place in map(text.find, stops) if place >= 0), default=len(text))]

    def _decoded(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _tell(self, rows: int) -> None:
        self.rows = (self.rows[0] + rows, self.rows[1])
        self.told(*self.rows)


def shared_beginnings(room: Mapping[Row, int]) -> Iterator[tuple[int, list[Row]]]:
    """Yield (tokens in common at the beginning, rows that have them), the rows longest first; (0, rows) for those with nothing in common.

    `room` is how many tokens of a row may be shared. Neighbours in lexical order join while they share SHARED_TOKENS or more and the
    group's common part does not shrink to half: below that, two computations of what each has in common are cheaper.
    """
    alone: list[Row] = []
    group: list[Row] = []
    shared = 0
    for row in [*sorted(room), None]:
        common = 0 if row is None or not group else min(shared, room[row], _common(group[-1], row))
        if row is not None and (not group or (common >= SHARED_TOKENS and (len(group) == 1 or 2 * common > shared))):
            shared = room[row] if not group else common
            group.append(row)
            continue
        if len(group) > 1:
            yield shared, sorted(group, key=lambda row: (-len(row), row))
        else:
            alone += group
        if row is not None:
            group, shared = [row], room[row]
    if alone:
        yield 0, sorted(alone, key=lambda row: (-len(row), row))


def _common(one: Row, other: Row) -> int:
    """How many tokens two rows share at their beginning."""
    return next((place for place, (ours, theirs) in enumerate(zip(one, other, strict=False)) if ours != theirs), min(len(one), len(other)))


def _choice_items(asked: LocalModel, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One record an item; a likelihood that is not a number makes the item invalid, never a lucky guess.

    The task says by its metric whether likelihoods count as they are or a character.
    """
    cut = iter(asked.cut)
    items = []
    for sample in samples:
        likelihoods = [likelihood for likelihood, _ in sample["filtered_resps"]]
        sound = all(math.isfinite(value) for value in likelihoods)
        flags = ["truncated"] * any(list(islice(cut, len(likelihoods)))) + ["extraction-failed"] * (not sound)
        metric = "acc_norm" if "acc_norm" in sample else "acc"
        lengths = [len(choice) if metric == "acc_norm" else 1 for choice in sample["doc"]["choices"]]
        rated = [value / length for value, length in zip(likelihoods, lengths, strict=True)]
        items.append(
            {
                "id": sample["doc"]["id"],
                "subject": sample["doc"]["subject"],
                "score": int(sample[metric]) if sound else 0,
                "answer": sample["doc"]["answer"],
                "predicted": max(range(len(rated)), key=rated.__getitem__) if sound else None,
                "log_likelihoods": [round(value, 6) if math.isfinite(value) else None for value in likelihoods],
                "flags": flags,
            }
        )
    return items


def _text_items(items: list[suites.Item], samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One record a text: the score is 2^(-bits per byte)."""
    records = []
    for item, sample in zip(items, samples, strict=True):
        assert isinstance(item, suites.Text)
        bits = -sample["filtered_resps"][0] / math.log(2) / len(item.text.encode())
        sound = math.isfinite(bits)
        record = {"id": item.id, "subject": item.subject, "score": round(2**-bits, 6) if sound else 0}
        records.append(record | {"bits_per_byte": round(bits, 6) if sound else None, "flags": ["extraction-failed"] * (not sound)})
    return records


def _written_items(asked: LocalModel, items: list[suites.Item]) -> list[dict[str, Any]]:
    """One record a problem, with the response."""
    problems = [item for item in items if isinstance(item, suites.Problem)]
    replies = [samples[0] for samples in asked.replies]
    verdicts = answers.judge([(item.answer, reply.text) for item, reply in zip(problems, replies, strict=True)])
    records = []
    for item, reply, verdict in zip(problems, replies, verdicts, strict=True):
        flags = _flags(reply, unreadable=verdict == "unreadable", timeout=verdict == "too long")
        record = {"id": item.id, "subject": item.subject, "score": int(verdict == "right"), "response": reply.text}
        records.append({**record, "flags": [name for name, holds in flags.items() if holds]})
    return records


def _code_items(asked: LocalModel, items: list[suites.Item], settings: Settings, chat: bool) -> list[dict[str, Any]]:
    """One record an item: its score is pass@k, the first response, why that one failed, and how many of the samples passed.

    A flag holds that holds for most of the samples.
    """
    tasks = [item for item in items if isinstance(item, suites.Code)]
    written = [
        (item, reply, _program(item, reply.text, chat)) for item, replies in zip(tasks, asked.replies, strict=True) for reply in replies
    ]
    jobs = [
        sandbox.Job(program=program or "", preamble=item.prompt, entry_point=item.entry_point, test=item.test)
        for item, _, program in written
    ]
    verdicts = sandbox.check_all(jobs, settings.limits)
    records, count = [], settings.sampling.samples
    for start in range(0, len(written), count):
        replies, found = written[start : start + count], verdicts[start : start + count]
        item, passed = replies[0][0], sum(verdict.passed for verdict in found)
        flags = [
            _flags(reply, unreadable=program is None, timeout=verdict.timeout, not_loaded=program is not None and not verdict.loaded)
            for (_, reply, program), verdict in zip(replies, found, strict=True)
        ]
        value = pass_at(settings.sampling.pass_at, count, passed)
        record = {"id": item.id, "subject": item.subject, "score": value, "response": replies[0][1].text, "reason": found[0].reason}
        several = {"passed": passed, "samples": [reply.text for _, reply, _ in replies]} if count > 1 else {}
        records.append(record | several | {"flags": [name for name in flags[0] if 2 * sum(sample[name] for sample in flags) > count]})
    return records


def _flags(reply: Reply, unreadable: bool, timeout: bool, not_loaded: bool = False) -> dict[str, bool]:
    """What is wrong with a written answer, in the order in which flags are written."""
    return {
        "empty": not reply.text.strip(),
        "truncated": not (reply.complete and reply.whole_prompt),
        "extraction-failed": unreadable,
        "timeout": timeout,
        "not-loaded": not_loaded,
    }


def pass_at(k: int, samples: int, passed: int) -> float:
    """pass@k: the probability that at least one of k programs drawn from the samples passes, 1 - C(n - c, k) / C(n, k).

    Source: Chen et al. (2021), equation 1. Greedy decoding is n = k = 1.
    """
    value = 1 - math.comb(samples - passed, k) / math.comb(samples, k)
    return int(value) if value in (0, 1) else round(value, 6)


def _program(item: suites.Code, response: str, chat: bool) -> str | None:
    """The program that a response makes: a completion goes on from the prompt, an answer in chat brings the function in a code block."""
    if not chat:
        return item.prompt.rstrip() + response + "\n"
    blocks = response.split("```")
    code = blocks[1].removeprefix("python") if len(blocks) > 1 else response
    return f"{item.prompt}\n{code}\n" if f"def {item.entry_point}" in code else None


def _evidence(
    model: Path,
    suite: Path,
    settings: Settings,
    items: list[suites.Item],
    tokenizer: PreTrainedTokenizerBase,
    meta: dict[str, Any],
    isolation: sandbox.Isolation | None,
) -> dict[str, Any]:
    """What a comparison of two scores must find equal, and what ran the programs; suite_md5 covers the file and the choice of items."""
    template = tokenizer.chat_template
    kind = KINDS.get(suites.suite_format(suite).kind, "choices")
    return {
        "suite": suite.name,
        "suite_md5": _md5("\n".join([folder_md5(suite), *(item.id for item in items)])),
        "available": isolation is None or isolation.backend is not None,
        "items": len(items),
        "seed": settings.items_seed,
        "chance": round(_chance(items), 6),
        "target": meta.get("target"),
        "harness": _harness(kind),
        "scoring": f"{kind} {SCORING[kind]}",
        "task_version": meta["version"],
        "shots": meta["shots"],
        "chat": meta["chat"],
        "template_md5": _md5(template) if isinstance(template, str) else None,
        "model_md5": folder_md5(model),
        "dtype": settings.dtype,
        "batch_size": settings.batch_size,
        "max_new_tokens": settings.max_new_tokens if kind in ("code", "written") else None,
        "sampling": settings.sampling.model_dump_json() if isolation else None,
        "limits": settings.limits.model_dump() if isolation else None,
        "sandbox": (isolation.backend or f"unavailable: {isolation.reason}") if isolation else None,
    }


def _harness(kind: str) -> str:
    """What else makes a score, and is not ours: libraries and, where programs are run or answers compared, what does that."""
    names = [*LIBRARIES, *(["math-verify"] * (kind == "written"))]
    python = [f"python {sys.version_info.major}.{sys.version_info.minor}"] * (kind == "code")
    return ", ".join([*(f"{name} {version(name).partition('+')[0]}" for name in names), *python])


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _turn(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """What the chat template writes between the prompt and the assistant's words, and right after them, without trailing white space."""
    asked, mark = [{"role": "user", "content": "q"}], "\ue000"
    before = str(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))
    whole = str(tokenizer.apply_chat_template([*asked, {"role": "assistant", "content": mark}], tokenize=False))
    lead, _, end = whole.removeprefix(before).partition(mark) if whole.startswith(before) else ("", "", "")
    return lead, end.rstrip()


def _heard(progress: Progress) -> Progress:
    """Progress that keeps today's standard error: what it has to say is not lm-eval's."""
    errors = sys.stderr

    def tell(step: int, total: int) -> None:
        with contextlib.redirect_stderr(errors):
            progress(step, total)

    return tell


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep lm-eval's bars and notices, which would fill a log file, to itself."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
