"""Direct preference optimisation with TRL: the policy learns from pairs of answers without a reward model (Rafailov et al. 2023)."""

from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import DPOConfig, DPOTrainer

from models.core.work import Work
from models.train import policy
from models.train.pairs import likelihoods as measured
from models.train.parts import InParts
from models.train.settings import Dpo, Ipo, Preference, Sigmoid
from models.train.training import arguments, fitted

__all__ = ["Trainer", "fit", "losses", "measured"]


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
    plan: Preference,
    seed: int,
    work: Work,
) -> tuple[Any, float]:
    """The trained policy (adapters merged), and the mean loss over training. `reference` is the policy as it came."""
    method = plan.method
    assert isinstance(method, Dpo)
    adapter = policy.adapter(plan.weights, model)
    how = arguments(plan, pairs, work, seed) | {"train_sampling_strategy": "random"}
    smoothing = {"label_smoothing": method.loss.label_smoothing} if isinstance(method.loss, Sigmoid) else {}
    return fitted(
        Trainer,
        model,
        pairs,
        plan,
        work,
        ref_model=None if adapter else reference,  # with an adapter the model itself is the reference, without it
        args=DPOConfig(**how, loss_type=method.loss.form, beta=method.beta, **smoothing),
        processing_class=tokenizer,
        peft_config=adapter,
    )


def losses(before: np.ndarray, after: np.ndarray, tokens: np.ndarray, plan: Preference) -> np.ndarray:
    """What `fit` lowers, of each pair [pairs], by `measured` of the reference and of the policy, and the answers' lengths [pairs, 2]."""
    method = plan.method
    assert isinstance(method, Dpo)
    ratios = after - before
    if isinstance(method.loss, Ipo):
        each = ratios / tokens  # a token, as the paper's own results are, which does not say so
        return np.asarray((each[:, 0] - each[:, 1] - 1 / (2 * method.beta)) ** 2)
    gap = method.beta * (ratios[:, 0] - ratios[:, 1])
    kept, swapped = np.logaddexp(0, -gap), np.logaddexp(0, gap)  # -log sigmoid(gap), -log sigmoid(-gap)
    found: np.ndarray = (1 - method.loss.label_smoothing) * kept + method.loss.label_smoothing * swapped
    return found
