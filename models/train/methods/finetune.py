"""Supervised fine-tuning on conversations, with TRL: the loss counts what the assistant says, and the token that ends it."""

import math
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from models.core.errors import StageError
from models.core.lines import read_rows
from models.core.work import Work
from models.train import chat, policy, tools
from models.train.packs import IGNORED, Collator, best_fit, positions, require_apart
from models.train.parts import InParts
from models.train.settings import Supervised
from models.train.training import LOGITS, arguments, fitted, log_likelihoods


class LeftOut(NamedTuple):
    """How many conversations were left out, and why."""

    too_long: int
    tools_not_shown: int


def conversations(path: Path, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> tuple[Dataset, LeftOut]:
    """The conversations of a file as `input_ids` with an `assistant_masks`, and how many were left out: longer than `max_tokens`, or with
    tool calls that the chat template cannot show.

    Raises StageError where none is left, or the chat template cannot take one without tools.
    """
    coded = chat.coder(tokenizer)
    rows, too_long, not_shown = [], 0, Counter[str]()
    for number, record in enumerate(read_rows(path), 1):
        with_tools = tools.has_tools(record)
        try:
            ids, said = tools.coded(tokenizer, record["messages"], record.get("tools")) if with_tools else coded(record["messages"])
        except StageError as error:
            if not with_tools:
                raise StageError(f"{path}, {record.get('id', f'record {number}')}: {error}: mend or remove the record") from error
            not_shown[str(error)] += 1
            continue
        if len(ids) > max_tokens:
            too_long += 1
        else:
            rows.append({"input_ids": ids, "assistant_masks": said, "record": record.get("id", f"record {number}")})
    for reason, count in not_shown.most_common(3):
        print(f"{path}: {count:,} conversations with tools are left out: {reason}", flush=True)
    if not rows:
        raise StageError(
            f"{path}: none of {too_long + not_shown.total()} conversations has at most {max_tokens} tokens"
            + (f" and a template for its tools ({not_shown.most_common(1)[0][0]})" if not_shown else "")
            + ": raise the key max_tokens"
        )
    return Dataset.from_list(rows), LeftOut(too_long, not_shown.total())


class Plain(SFTTrainer):
    """TRL's, which spares memory: it computes logits piece by piece, twice, and entropies beside them. Few are cheaper at once."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], *more: Any, num_items_in_batch: Any = None, **named: Any) -> Any:
        labels = inputs["labels"][:, 1:]
        rows = self.model.get_output_embeddings().weight.shape[0]
        if self.aux_loss_enabled or labels.numel() * rows > LOGITS or num_items_in_batch is None:
            return super().compute_loss(model, inputs, *more, num_items_in_batch=num_items_in_batch, **named)
        seen = {name: value for name, value in inputs.items() if name != "labels"}
        logits, counted = model(**seen, use_cache=False).logits[:, :-1], labels != IGNORED
        return cross_entropy(logits[counted].float(), labels[counted], reduction="sum") / num_items_in_batch


class Trainer(InParts, Plain):
    """A loss is divided by the tokens of the whole batch."""

    adds_up = True


def packed(records: Dataset, max_tokens: int) -> Dataset:
    """The same conversations in rows of at most `max_tokens`, each with positions of its own; a row is called by all its records."""
    rows = []
    for places in best_fit([*map(len, records["input_ids"])], max_tokens):
        some = records.select(places)
        counted = [[0, *said[1:]] for said in some["assistant_masks"]]  # the first token would follow from the text before it
        ids, said = ([*chain.from_iterable(column)] for column in (some["input_ids"], counted))
        labels = [token if own else IGNORED for token, own in zip(ids, said, strict=True)]
        places_of = positions([*map(len, some["input_ids"])])
        rows.append({"input_ids": ids, "labels": labels, "position_ids": places_of, "record": ", ".join(some["record"])})
    return Dataset.from_list(rows)


def fit(model: Any, tokenizer: PreTrainedTokenizerBase, records: Dataset, plan: Supervised, seed: int, work: Work) -> tuple[Any, float]:
    """The trained model (adapters merged), and the mean loss over training, in nats a token."""
    if plan.packing:
        require_apart(model, "sft.packing")
        records = packed(records, plan.max_tokens)
    # The masks in the records say what counts; assistant_only_loss would ask for untokenised conversations.
    how = {"packing": False, "assistant_only_loss": False, "neftune_noise_alpha": plan.neftune or None}
    return fitted(
        Trainer,
        model,
        records,
        plan,
        work,
        args=SFTConfig(**arguments(plan, records, work, seed), **how),
        data_collator=Collator(tokenizer.pad_token_id) if plan.packing else None,
        processing_class=tokenizer,
        peft_config=policy.adapter(plan.weights, model),
    )


def loss(model: PreTrainedModel, records: Dataset, batch_size: int) -> float:
    """Mean loss over what the assistant says in `records`, in nats a token."""
    total, count = 0.0, 0
    for start in range(0, len(records), batch_size):
        rows = records[start : start + batch_size]
        # Padding is on the right, where nothing that counts can see it: any token does.
        ids, said = (pad_sequence([torch.tensor(row) for row in rows[name]], True) for name in ("input_ids", "assistant_masks"))
        picked = log_likelihoods(model, ids) * said[:, 1:]
        total, count = total - float(picked.sum()), count + int(said[:, 1:].sum())
    return total / count if count else math.nan
