"""Kahneman-Tversky optimisation with TRL: an answer is good or bad by itself (Ethayarajh et al. 2024).

A pair gives two examples, one of each kind. How far the policy has moved at all, z0 of the paper, is measured on the prompts of a batch
with each other's answers. TRL measures it on neighbours in the file, which it therefore never shuffles; here it is the batch that is
trained on, whatever parts of it go through the device at once.
"""

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import KTOConfig, KTOTrainer
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

from models.core.work import Work
from models.train import policy
from models.train.pairs import SIDES, likelihoods
from models.train.parts import InParts, cut
from models.train.settings import Kto, Preference
from models.train.training import KNOWN, arguments, fitted


class Collator(DataCollatorForUnpairedPreference):
    """Each prompt of a batch with its own answer, and with that of the one before it."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        others = [examples[place - 1]["completion_ids"] for place in range(len(examples))]
        batch: dict[str, Any] = super().torch_call(
            [{**own, "KL_completion_ids": other} for own, other in zip(examples, others, strict=True)]
        )
        return batch


class Trainer(InParts, KTOTrainer):
    """TRL's, but for the tokens, as in dpo, and for z0, which is the whole batch's."""

    moved: Tensor

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        self.args.train_sampling_strategy = "random"  # which TRL refuses, for it pairs the answers beforehand

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset

    def compute_loss(self, model: Any, inputs: dict[str, Any], *more: Any, **named: Any) -> Tensor:
        rows, sums = len(inputs["label"]), list[Tensor]()

        @torch.no_grad()
        def measure(part: slice) -> None:
            some = cut(inputs, part, rows, sides=1)
            now = super(Trainer, self)._compute_kl_logps(model, some)
            with model.disable_adapter() if self.ref_model is None else nullcontext():
                then = super(Trainer, self)._compute_kl_logps(self.ref_model or model, some)
            sums.append((now - then).sum())

        self.parts.each(rows, measure, sums.clear)
        self.moved = self.parts.sum(sums, inputs["label"].device) / rows
        return super().compute_loss(model, inputs, *more, **named)

    def _compute_kl_logps(self, *_: Any) -> Tensor:
        """What TRL takes the difference of: it asks for the policy's, and then, without gradients, for the reference's."""
        return self.moved if torch.is_grad_enabled() else torch.zeros_like(self.moved)


def fit(
    model: Any,
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Dataset,
    plan: Preference,
    seed: int,
    work: Work,
) -> tuple[Any, float]:
    """The trained policy (adapters merged), and the mean loss over training. `reference` is the policy as it came."""
    method = plan.method
    assert isinstance(method, Kto)
    adapter, answers = policy.adapter(plan.weights, model), _answers(pairs)
    how = arguments(plan, answers, work, seed) | {"beta": method.beta, "train_sampling_strategy": "sequential"}
    return fitted(
        Trainer,
        model,
        answers,
        plan,
        work,
        known=KNOWN | {"kl": "kl_of_others"},
        ref_model=None if adapter else reference,
        args=KTOConfig(**how, desirable_weight=method.chosen_weight, undesirable_weight=method.rejected_weight),
        data_collator=Collator(pad_token_id=tokenizer.pad_token_id),
        processing_class=tokenizer,
        peft_config=adapter,
    )


def _answers(pairs: Dataset) -> Dataset:
    """Each answer of each pair by itself."""
    rows = [
        {
            "prompt_ids": pair["prompt_ids"],
            "completion_ids": pair[f"{side}_ids"],
            "label": side == "chosen",
            "record": pair["record"],
        }
        for pair in pairs
        for side in SIDES
    ]
    return Dataset.from_list(rows)


def measured(model: PreTrainedModel, pairs: Dataset, batch_size: int) -> np.ndarray:
    """Log-likelihoods, nats an answer [pairs, 4]: of the chosen and the rejected one, and of both of the pair before, after this prompt."""
    columns = {f"{side}_ids": [pairs[place - 1][f"{side}_ids"] for place in range(len(pairs))] for side in SIDES}
    others = Dataset.from_dict({"prompt_ids": pairs["prompt_ids"], **columns})
    return np.concatenate([likelihoods(model, some, batch_size) for some in (pairs, others)], axis=1)


def losses(before: np.ndarray, after: np.ndarray, _tokens: np.ndarray, plan: Preference) -> np.ndarray:
    """What `fit` lowers, of each pair [pairs], by `measured` of the reference and of the policy. Ethayarajh et al., eq. 8."""
    method = plan.method
    assert isinstance(method, Kto)
    ratios = after - before
    moved = max(0.0, float(ratios[:, 2:].mean()))
    chosen, rejected = (1 / (1 + np.exp(-method.beta * sign * (ratios[:, side] - moved))) for side, sign in enumerate((1, -1)))
    return np.asarray((method.chosen_weight * (1 - chosen) + method.rejected_weight * (1 - rejected)) / 2)
