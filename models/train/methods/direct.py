"""Direct preference optimisation with TRL: the policy learns from pairs of answers without a reward model (Rafailov et al. 2023)."""

from itertools import takewhile
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import DPOConfig, DPOTrainer

from models.core.work import Work
from models.train import chat, policy
from models.train.parts import InParts
from models.train.settings import DirectPreference, Ipo, Sigmoid
from models.train.training import Progress, arguments, log_likelihoods, quiet, run

SIDES = ("chosen", "rejected")


def coded(pairs: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Each pair as `prompt_ids`, what both conversations begin with, and the rest of each up to the token that ends the last reply."""
    as_tokens, rows = chat.coder(tokenizer), []
    for pair in pairs:
        both = []
        for side in SIDES:
            ids, said = as_tokens(pair["prompt"] + pair[side])
            both.append(ids[: len(said) - said[::-1].index(1)])
        asked = tokenizer(chat.rendered(tokenizer, pair["prompt"], prompt=True), add_special_tokens=False)["input_ids"]
        # Where tokens merge across the end of the prompt, the answers begin at the merged one.
        begin = sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, zip(asked, *both, strict=False)))
        rows.append({"prompt_ids": both[0][:begin], "chosen_ids": both[0][begin:], "rejected_ids": both[1][begin:]})
    return Dataset.from_list(rows)


class Trainer(InParts, DPOTrainer):
    """TRL's, but for the tokens: conversations come as sft codes them, which is not how TRL would."""

    sides = 2

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset


def fit(
    model: Any,
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Dataset,
    plan: DirectPreference,
    seed: int,
    work: Work,
) -> tuple[Any, float]:
    """The trained policy (adapters merged), and the mean loss over training. `reference` is the policy as it came."""
    policy.freeze(model, plan.weights)
    adapter = policy.adapter(plan.weights, model)
    how = arguments(plan, pairs, work, seed) | {"train_sampling_strategy": "random"}
    smoothing = {"label_smoothing": plan.loss.label_smoothing} if isinstance(plan.loss, Sigmoid) else {}
    how |= {"loss_type": plan.loss.form, "beta": plan.beta, **smoothing}
    with quiet():
        trainer = Trainer(
            model=model,
            ref_model=None if adapter else reference,  # with an adapter the model itself is the reference, without it
            args=DPOConfig(**how),
            train_dataset=pairs,
            processing_class=tokenizer,
            peft_config=adapter,
            callbacks=[Progress(work)],
        )
        trained = run(trainer, plan, work)
    return policy.merged(trainer.model), float(trained.training_loss)


def likelihoods(model: PreTrainedModel, pairs: Dataset, batch_size: int) -> np.ndarray:
    """Log-likelihood of both answers of each pair, in nats an answer: [pairs, 2], chosen and rejected."""
    return np.stack([_likelihoods(model, pairs, f"{side}_ids", batch_size) for side in SIDES], axis=1)


def _likelihoods(model: PreTrainedModel, pairs: Dataset, side: str, batch_size: int) -> np.ndarray:
    values = []
    for start in range(0, len(pairs), batch_size):
        rows = pairs[start : start + batch_size]
        both = list(zip(rows["prompt_ids"], rows[side], strict=True))
        ids = pad_sequence([torch.tensor(asked + answer) for asked, answer in both], True)  # on the right: any token does
        said = pad_sequence([torch.tensor([0] * len(asked) + [1] * len(answer)) for asked, answer in both], True)
        values.append((log_likelihoods(model, ids) * said[:, 1:]).sum(-1).double().numpy())
    return np.concatenate(values)


def lengths(pairs: Dataset) -> np.ndarray:
    """The tokens of both answers of each pair, the one that ends them included [pairs, 2]."""
    return np.array([[len(pair[f"{side}_ids"]) for side in SIDES] for pair in pairs])


def losses(ratios: np.ndarray, tokens: np.ndarray, plan: DirectPreference) -> np.ndarray:
    """The loss of each pair [pairs], from the log-ratios of policy to reference [pairs, 2] and the answers' lengths: what `fit` lowers."""
    if isinstance(plan.loss, Ipo):
        each = ratios / tokens  # a token, as the paper's own results are, which does not say so
        return np.asarray((each[:, 0] - each[:, 1] - 1 / (2 * plan.beta)) ** 2)
    gap = plan.beta * (ratios[:, 0] - ratios[:, 1])
    kept, swapped = np.logaddexp(0, -gap), np.logaddexp(0, gap)  # -log sigmoid(gap), -log sigmoid(-gap)
    found: np.ndarray = (1 - plan.loss.label_smoothing) * kept + plan.loss.label_smoothing * swapped
    return found
