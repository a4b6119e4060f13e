"""One model, asked by our own two loops over batches: lm-eval's Hugging Face model, quicker, and with a note of what did not fit."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, cycle, islice
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from models.core.errors import StageError
from models.core.ranks import ALONE, Ranks
from models.score import packing
from models.score.asking import Reply, Settings
from models.train import decoding

Progress = Callable[[int, int], None]
Row = tuple[int, ...]  # the tokens that a model is given
LOGITS = 1 << 26  # computed at once at most: 256 MiB in float32
SHARED_TOKENS = 32  # a shorter common beginning costs about as much to keep as to compute again


class LocalModel(HFLM):
    """lm-eval's Hugging Face model with our own two loops over batches, and a note of every prompt that did not fit.

    Its own loops compute logits for all tokens of a prompt, go on with rows that are finished until the last one of the batch is, and
    do not tell why a text ended.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: PreTrainedTokenizerBase,
        settings: Settings,
        device: str,
        progress: Progress,
        ranks: Ranks = ALONE,
    ) -> None:
        network = AutoModelForCausalLM.from_pretrained(folder, dtype=settings.dtype, local_files_only=True).to(device)
        super().__init__(pretrained=network, tokenizer=tokenizer, backend="causal", batch_size=settings.batch_size)
        self._head_in_single_precision()
        self.new_tokens, self.sampling, self.seed = settings.max_new_tokens, settings.sampling, settings.items_seed
        configured = getattr(network.generation_config, "eos_token_id", None)
        self.ends = {tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])}
        self.told, self.ranks = progress, ranks
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
        turns = cycle(range(self.ranks.count))
        for shared, group in shared_beginnings({row: (len(row) - count) * self.packs for row, count in reads.items()}):
            beginning: packing.Beginning | None = None
            most = max(reads[row] for row in group) * self.model.get_output_embeddings().weight.shape[0]
            size = max(1, min(self.batch_size, LOGITS // most))
            for start in range(0, len(group), size):
                batch = group[start : start + size]
                self._tell(len(batch))
                if next(turns) != self.ranks.place:
                    continue
                beginning = packing.begin(self.model, list(group[0][:shared])) if beginning is None else beginning
                found |= self._read(batch, rows, requests, self._log_likelihoods(batch, reads, shared, beginning))
        found = {place: one for part in self.ranks.gather(found) for place, one in part.items()}
        return [found[place] for place in range(len(requests))]

    def _read(
        self, batch: list[Row], rows: Mapping[Row, list[int]], requests: list[Any], log_likelihoods: Iterator[torch.Tensor]
    ) -> dict[int, tuple[float, bool]]:
        """Of each request of a batch, by place, the log-likelihood of its continuation, and whether it is the greedy one.

        Both leave the device once a batch: a GPU would wait for each number as long as it computes a row.
        """
        places = [place for row in batch for place in rows[row]]
        wanted = [requests[place][2] for place in places]
        targets = iter(torch.tensor([token for own in wanted for token in own], device=self.device).split([len(own) for own in wanted]))
        totals, greedy = list[torch.Tensor](), list[torch.Tensor]()
        for row, own in zip(batch, log_likelihoods, strict=True):
            likeliest = own.argmax(-1)
            for target in islice(targets, len(rows[row])):
                totals.append(own[-len(target) :].gather(-1, target[:, None]).sum())
                greedy.append((likeliest[-len(target) :] == target).all())
        return dict(zip(places, zip(torch.stack(totals).tolist(), torch.stack(greedy).tolist(), strict=True), strict=True))

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

    def _padded(self, batch: list[Row], reads: dict[Row, int]) -> Iterator[torch.Tensor]:
        longest = max(map(len, batch))
        starts = [len(row) - reads[row] for row in batch]
        kept = sorted({start + place for start, row in zip(starts, batch, strict=True) for place in range(reads[row])})
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in batch], device=self.device)
        logits = decoding.forward(self.model, input_ids=ids, use_cache=False, logits_to_keep=torch.tensor(kept, device=self.device)).logits
        logits = logits if logits.shape[1] == len(kept) else logits[:, kept]
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
        for number, start in enumerate(range(0, len(order), self.batch_size)):
            batch = order[start : start + self.batch_size]
            self._tell(len(batch))
            if number % self.ranks.count != self.ranks.place:
                continue
            draws = batch if self.sampling.temperature else []  # greedy decoding draws nothing
            chance = [self._random(f"{self.seed} {sample} {requests[place].args[0]}") for place, sample in draws]
            found = self._replies([prompts[place] for place, _ in batch], requests[0].args[1]["until"], chance)
            replies.update(zip(batch, found, strict=True))
        replies = {place: reply for part in self.ranks.gather(replies) for place, reply in part.items()}
        self.replies = [[replies[place, sample] for sample in range(self.sampling.samples)] for place in range(len(requests))]
        return [samples[0].text for samples in self.replies]

    def _random(self, name: str) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1)

    def _replies(self, prompts: list[list[int]], stops: list[str], chance: Sequence[torch.Generator] = ()) -> list[Reply]:
        """Continuations of prompts; at temperature 0 the likeliest token each time, else drawn with each row's own random numbers."""
        room = self.max_length - self.new_tokens
        kept = [prompt[-room:] for prompt in prompts]

        def over(tokens: list[int]) -> bool:
            return tokens[-1] in self.ends or self._stopped(tokens, stops)

        written = decoding.written(self.model, kept, self.new_tokens, decoding.chosen(self.sampling.temperature, chance), over)
        return [
            Reply(text=self._text(prompt, tokens, stops), complete=over(tokens), whole_prompt=len(prompt) <= room)
            for tokens, prompt in zip(written, prompts, strict=True)
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
