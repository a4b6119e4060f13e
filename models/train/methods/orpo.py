"""Odds-ratio preference optimisation: sft on the chosen answers and the odds of the two in one loss, without reference (Hong et al. 2024).

On TRL's trainer of dpo, whose tokens, batches and logs it shares. TRL's own for it is experimental: it codes conversations in another way
than sft does, counts the prompt's tokens in the likelihood, and keeps all logits of a batch.
"""

from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import DPOConfig

from models.core.work import Work
from models.train import policy
from models.train.methods import dpo
from models.train.pairs import likelihoods as measured
from models.train.settings import Orpo, Preference
from models.train.training import arguments, fitted

__all__ = ["fit", "losses", "measured"]


class Trainer(dpo.Trainer):
    def __init__(self, odds_weight: float, **named: Any) -> None:
        super().__init__(**named)
        self.odds_weight = odds_weight

    def _precompute_ref_logps(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset  # there is no reference

    def _compute_loss(self, model: Any, inputs: dict[str, Any], _return_outputs: bool) -> Tensor:
        said = inputs["completion_mask"]
        labels = inputs["input_ids"].masked_fill(said == 0, -100)
        seen = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        routers = {"output_router_logits": True} if self.aux_loss_enabled else {}
        outputs = model(**seen, labels=labels, use_cache=False, fused_lm_head=True, **routers)
        means = outputs.log_probs.sum(1) / said[:, 1:].sum(1)
        chosen, rejected = means.chunk(2)  # the batch holds all chosen answers, then all rejected ones
        noted = self._metrics["train"]
        noted["rewards/accuracies"].append((chosen > rejected).float().mean().item())
        loss: Tensor = (-chosen - self.odds_weight * logsigmoid(_log_odds(chosen) - _log_odds(rejected))).mean()
        return loss if not self.aux_loss_enabled else loss + self.router_aux_loss_coef * outputs.aux_loss


def _log_odds(likelihood: Tensor) -> Tensor:
    """log p / (1 - p) of a probability, from its logarithm, which is below 0."""
    return likelihood - (-likelihood.expm1()).clamp(min=1e-12).log()


def fit(
    model: Any,
    _reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Dataset,
    plan: Preference,
    seed: int,
    work: Work,
) -> tuple[Any, float]:
    """The trained policy (adapters merged), and the mean loss over training, in nats a pair."""
    method = plan.method
    assert isinstance(method, Orpo)
    how = arguments(plan, pairs, work, seed) | {"train_sampling_strategy": "random", "precompute_ref_log_probs": True}
    return fitted(
        partial(Trainer, method.odds_weight),
        model,
        pairs,
        plan,
        work,
        args=DPOConfig(**how),
        processing_class=tokenizer,
        peft_config=policy.adapter(plan.weights, model),
    )


def losses(_before: np.ndarray, after: np.ndarray, tokens: np.ndarray, plan: Preference) -> np.ndarray:
    """What `fit` lowers, of each pair [pairs], by `measured` of the policy and the answers' lengths [pairs, 2]. Hong et al., eq. 6."""
    method = plan.method
    assert isinstance(method, Orpo)
    means = after / tokens
    odds = means - np.log(np.maximum(-np.expm1(means), 1e-12))
    return np.asarray(-means[:, 0] + method.odds_weight * np.logaddexp(0, odds[:, 1] - odds[:, 0]))
