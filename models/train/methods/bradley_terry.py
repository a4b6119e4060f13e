"""A reward model learned with TRL from pairs of answers: the gap of the two rewards is the log-odds of the preference.

Bradley & Terry (1952); Ouyang et al. (2022), eq. 1.
"""

from typing import Any

from datasets import Dataset
from peft import TaskType
from transformers import PreTrainedTokenizerBase
from trl import RewardConfig, RewardTrainer

from models.core.work import Work
from models.train import policy
from models.train.parts import InParts
from models.train.settings import Finetuning
from models.train.training import arguments, fitted


class Trainer(InParts, RewardTrainer):
    sides = 2


def fit(model: Any, tokenizer: PreTrainedTokenizerBase, records: Dataset, plan: Finetuning, seed: int, work: Work) -> tuple[Any, float]:
    """The trained reward model (adapters merged), and the mean loss over training, in nats a pair."""
    how = RewardConfig(**arguments(plan, records, work, seed) | {"train_sampling_strategy": "random"})
    adapter = policy.adapter(plan.weights, model, TaskType.SEQ_CLS)
    return fitted(Trainer, model, records, plan, work, args=how, processing_class=tokenizer, peft_config=adapter)
