"""GRPO and RLOO, by TRL: several answers to one prompt are held against each other.

grpo: Shao et al. (2024), section 4.1, departing from it as TRL does by default: the loss is a mean over all tokens of the batch (Yu et al.,
2025, "DAPO"). rloo: Ahmadian et al. (2024), eq. 6; the KL of a whole answer is taken off its reward. The KL is to the policy as it came:
TRL keeps a copy, or takes the adapter off.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from models.core.errors import UserError
from models.core.work import Work
from models.train import chat, decoding, generation, policy
from models.train.chat import Messages
from models.train.parts import InParts
from models.train.recorder import Recorder
from models.train.settings import Group, Reinforcement
from models.train.training import LOGITS, SEVERAL, Progress, options, precision, quiet, run, schedule_options
from models.train.worth import Asked, Rewards

VLLM = (
    "rlhf.method.vllm_memory is set, and the package vllm is not installed: 'pip install vllm' on a machine with a GPU, or set it to null"
)
Draw = Callable[[Any, Sequence[Sequence[int]]], list[list[int]]]  # a model and prompts' tokens, to an answer's to each


class Plain:
    """Mixed into TRL's trainers of groups: where logits are few, those of the answers alone, at once.

    TRL spares memory: it computes the prompts' too, piece by piece, and again in the backward pass.
    """

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **more: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Log-probabilities of the last tokens [answers, logits_to_keep], and entropies where they are asked for."""
        trainer: Any = self
        size = len(input_ids) * logits_to_keep * model.get_output_embeddings().weight.shape[0]
        if compute_aux_loss or size > LOGITS or any(value is not None for value in more.values()):
            common: Any = super()
            found: tuple[Tensor, Tensor | None, Tensor | None] = common._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, compute_aux_loss, **more
            )
            return found
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False, "logits_to_keep": logits_to_keep + 1}
        with trainer.accelerator.autocast():
            logits = decoding.forward(model, **given).logits[:, -logits_to_keep - 1 : -1]
        logs = (logits.float() / trainer.temperature).log_softmax(-1)
        counted = attention_mask[:, -logits_to_keep:]
        chosen = logs.gather(-1, input_ids[:, -logits_to_keep:, None])[..., 0] * counted
        return chosen, -(logs.exp() * logs).sum(-1).detach() * counted if compute_entropy else None, None


class Grpo(InParts, Plain, GRPOTrainer):
    """A loss is divided by the tokens of the whole batch."""

    adds_up = True
    draw: Draw | None = None

    def _generate_single_turn(self, prompt_ids: list[list[int]], *more: Any, **named: Any) -> Any:
        return (self.draw(self.model, prompt_ids), None) if self.draw else super()._generate_single_turn(prompt_ids, *more, **named)


class Rloo(InParts, Plain, RLOOTrainer):
    """A loss is a mean over answers."""

    draw: Draw | None = None

    def _generate_single_turn(self, prompt_ids: list[list[int]], *more: Any, **named: Any) -> Any:
        return self.draw(self.model, prompt_ids) if self.draw else super()._generate_single_turn(prompt_ids, *more, **named)


TRAINERS: dict[str, tuple[Any, Any]] = {"grpo": (Grpo, GRPOConfig), "rloo": (Rloo, RLOOConfig)}


def fit(
    model: Any,
    rewards: Rewards,
    tokenizer: PreTrainedTokenizerBase,
    asked: Asked,
    plan: Reinforcement,
    seed: int,
    work: Work,
    recorder: Recorder,
) -> PreTrainedModel:
    """The trained policy, adapters merged."""
    assert isinstance(plan.method, Group)
    memory = plan.method.vllm_memory
    if memory and find_spec("vllm") is None:
        raise UserError(VLLM)
    policy.freeze(model, plan.weights)
    asked = list(asked) * -(-plan.prompts_per_step // len(asked))  # TRL leaves a step out that it cannot fill: with few, all of them

    rewards, work = recorder.watched(rewards), recorder.watching(work)

    def worth(completions: list[Messages], place: Sequence[int], **_: Any) -> list[float]:
        parts = rewards.parts([asked[at] for at in place], [completion[-1]["content"] for completion in completions])
        for name, values in parts.items() if len(parts) > 1 else ():
            trainer._metrics["train"][f"{SEVERAL}{name}"].append(float(values.mean()))
        return [float(value) for value in rewards.total(parts)]

    arguments = (
        options(plan, work, seed, logging_steps=2)
        | schedule_options(plan.schedule, plan.steps)
        | {
            "max_steps": plan.steps,
            "per_device_train_batch_size": plan.prompts_per_step * plan.answers_per_prompt,
            "num_generations": plan.answers_per_prompt,
            "max_completion_length": plan.max_new_tokens,
            "temperature": plan.temperature,
            "learning_rate": plan.learning_rate,
            "warmup_steps": plan.warmup_share,
            "beta": plan.beta,
            "disable_dropout": True,
        }
        | ({"use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": memory} if memory else {})
    )
    kind, config = TRAINERS[plan.method.algorithm]
    with quiet():
        trainer = kind(
            model=model,
            reward_funcs=worth,
            args=config(**arguments),
            train_dataset=Dataset.from_list([{"prompt": record["prompt"], "place": at} for at, record in enumerate(asked)]),
            processing_class=tokenizer,
            peft_config=policy.adapter(plan.weights, model),
            callbacks=[Progress(work), Stepped(recorder)],
        )
        trainer.draw = None if memory else _draw(tokenizer, plan, work)
        run(trainer, plan, work)
    recorder.restored(trainer.model)
    return policy.merged(trainer.model, plan.precision)


def _draw(tokenizer: PreTrainedTokenizerBase, plan: Reinforcement, work: Work) -> Draw:
    """TRL's own way goes on with answers that have ended until the last one has."""
    ends = chat.ends(tokenizer)

    def draw(model: Any, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        with precision(plan.precision, model.device.type):
            found = generation.answers(model, prompts, ends, plan.max_new_tokens, plan.temperature, work.ranks)
        model.train()
        return found

    return draw


class Stepped(TrainerCallback):
    """Has the recorder look after each step."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def on_step_end(self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, model: Any = None, **_: Any) -> None:
        self.recorder.stepped(state.global_step, model)
