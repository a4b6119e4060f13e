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
from models.train.training import Progress, arguments, quiet, run


class Trainer(InParts, RewardTrainer):
    sides = 2


def fit(model: Any, tokenizer: PreTrainedTokenizerBase, records: Dataset, plan: Finetuning, seed: int, work: Work) -> tuple[Any, float]:
    """The trained reward model (adapters merged), and the mean loss over training, in nats a pair."""
    policy.freeze(model, plan.weights)
    with quiet():
        trainer = Trainer(
            model=model,
            args=RewardConfig(**arguments(plan, records, work, seed) | {"train_sampling_strategy": "random"}),
            train_dataset=records,
            processing_class=tokenizer,
            peft_config=policy.adapter(plan.weights, model, TaskType.SEQ_CLS),
            callbacks=[Progress(work)],
        )
        trained = run(trainer, plan, work)
    return policy.merged(trainer.model, plan.precision), float(trained.training_loss)
