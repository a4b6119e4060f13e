"""What every training stage shares: equal runs, the trainer's options, progress, and the rate over time."""

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sized
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from models.core.checkpoints import Checkpoints
from models.core.lines import read_rows
from models.core.work import Work
from models.train import policy
from models.train.parts import Named, Parts
from models.train.resuming import Resuming, require_number
from models.train.settings import Finetuning, Reinforcement, Room
from models.train.spikes import Spikes

DECAY = 0.2  # of the steps of schedule wsd: its last part, in which the rate falls
LOGITS = 1 << 24  # read at once at most while measuring: 64 MiB in float32


def make_repeatable(seed: int) -> None:
    """From here on, equal work gives equal bytes, and numbers below 1e-38 count as zero.

    On a CPU such numbers (the gradient of an unlikely token) cost a hundred times the others; training slowed down tenfold.
    """
    set_seed(seed)
    torch.use_deterministic_algorithms(True)
    # Nothing here reads memory that it has not written; filling it costs 7% of a step. PyTorch's stub does not know the switch.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_flush_denormal(True)


def precision(name: str, device: str) -> Any:
    """The context in which forward passes run: bfloat16 where asked, else float32."""
    return torch.autocast(device, torch.bfloat16, enabled=name == "bfloat16")


def logits_in_pieces(model: PreTrainedModel, ids: torch.Tensor, attention: torch.Tensor | None = None) -> Iterator[torch.Tensor]:
    """Yield the logits of all tokens of `ids` [rows, tokens] in order, [tokens of a piece, vocabulary] each, on the model's device.

    Whole rows are computed at once while they have no more than LOGITS, and pieces of that size are handed on: a vocabulary of 150,000
    makes 300 MB of a conversation of 512 tokens, and every copy of it as much again.
    """
    vocabulary = model.get_output_embeddings().weight.shape[0]
    rows = max(1, LOGITS // (ids.shape[1] * vocabulary))
    for start in range(0, len(ids), rows):
        part = slice(start, start + rows)
        seen = {} if attention is None else {"attention_mask": attention[part].to(model.device)}
        logits = model(input_ids=ids[part].to(model.device), use_cache=False, **seen).logits
        yield from logits.flatten(0, 1).split(max(1, LOGITS // vocabulary))


def pieces_of_next(model: PreTrainedModel, ids: torch.Tensor, attention: torch.Tensor | None = None) -> Iterator[tuple[Any, torch.Tensor]]:
    """The same logits, each piece with the tokens that come next [tokens of a piece]; the last of a row has the row's first."""
    targets, at = ids.roll(-1, 1).flatten().to(model.device), 0
    for logits in logits_in_pieces(model, ids, attention):
        yield logits, targets[at : at + len(logits)]
        at += len(logits)


@torch.no_grad()
def log_likelihoods(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """Log-likelihood of every token of `ids` [rows, tokens] but the first of a row: [rows, tokens - 1], in nats, on the CPU."""
    model.eval()
    found = [-cross_entropy(logits.float(), targets, reduction="none") for logits, targets in pieces_of_next(model, ids)]
    return torch.cat(found).view(ids.shape)[:, :-1].cpu()


def rate(step: int, steps: int, warmup_share: float, schedule: str) -> float:
    """The share of the peak rate at a step counted from 0: up linearly over the warm-up, then to nearly 0 as the schedule says."""
    warmup = max(1, round(steps * warmup_share))
    if step < warmup:
        return (step + 1) / warmup
    left = (steps - step) / max(1, steps - warmup + 1)
    if schedule == "cosine":
        return (1 - math.cos(math.pi * left)) / 2
    return min(1.0, (steps - step) / (1 + DECAY * steps)) if schedule == "wsd" else left


def schedule_options(schedule: str, steps: int) -> dict[str, Any]:
    """The same for Hugging Face's trainers, whose rate is 0 at the first step and after the last."""
    if schedule == "wsd":
        level = {"num_decay_steps": math.ceil(DECAY * steps), "decay_type": "linear"}
        return {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": level}
    return {"lr_scheduler_type": schedule}


def options(plan: Finetuning | Reinforcement, work: Work, seed: int, logging_steps: int = 5) -> dict[str, Any]:
    """Arguments of every Hugging Face trainer: nothing saved, nothing reported, and only the precision that was asked for."""
    return {
        "output_dir": str(work.folder / "trainer"),
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": logging_steps,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # it would put the mean of the other steps in the place of a loss that is no number
        "seed": seed,
        "data_seed": seed,
        "use_cpu": work.device == "cpu",
        "bf16": plan.precision == "bfloat16",
        "gradient_checkpointing": plan.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "dataloader_pin_memory": False,
        "optim": "adamw_torch_fused",
    }


def arguments(plan: Finetuning, records: Sized, work: Work, seed: int) -> dict[str, Any]:
    """What trainings on records have in common."""
    steps = math.ceil(math.ceil(len(records) / plan.batch_size) * plan.epochs)
    return (
        options(plan, work, seed)
        | schedule_options(plan.schedule, steps)
        | {
            "num_train_epochs": plan.epochs,
            "per_device_train_batch_size": plan.batch_size,
            "per_device_eval_batch_size": plan.batch_size,
            "learning_rate": plan.learning_rate,
            "warmup_steps": plan.warmup_share,
            "weight_decay": plan.weight_decay,
            "max_length": plan.max_tokens,
            # Padding a short question to the length of a function would double the work.
            "train_sampling_strategy": "group_by_length",
        }
    )


SEVERAL = "rewards_of/"  # before the name of a reward, where a sum of several is learned from
KNOWN = {  # what Hugging Face's trainers and TRL's log, by the names that our curves have
    "loss": "loss",
    "learning_rate": "learning_rate",
    "grad_norm": "gradient_norm",
    "reward": "mean_reward",
    "kl": "kl_per_token",
    "entropy": "entropy_per_token",
    "completions/mean_length": "answer_tokens",
    "completions/clipped_ratio": "answers_cut",
    "accuracy": "accuracy",
    "rewards/accuracies": "accuracy",
}


class Progress(TrainerCallback):
    """Tells `work` how far a Hugging Face trainer is."""

    def __init__(self, work: Work, known: Mapping[str, str] = KNOWN) -> None:
        self.work, self.known = work, known

    def on_log(
        self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        values = {self.known[name]: float(value) for name, value in (logs or {}).items() if name in self.known}
        values |= {name.replace(SEVERAL, "reward_"): float(value) for name, value in (logs or {}).items() if name.startswith(SEVERAL)}
        if values or (logs and "train_loss" in logs):  # the last call, which tells the mean of all steps
            self.work.progress(state.global_step, state.max_steps, values)
        require_number(values, state.global_step)


def run(trainer: Any, plan: Room, work: Work) -> Any:
    """Have a trainer train in parts, from the last checkpoint where there is one, and print nothing: progress is `work`'s to show."""
    trainer.remove_callback(PrinterCallback)
    checkpoints = work.checkpoints or Checkpoints()
    trainer.parts = Parts(plan.micro_batch, work.ranks, policy.trained(trainer.model).values())
    trainer.spikes = Spikes(getattr(plan, "max_rise", None))
    trainer.data_collator = Named(trainer.data_collator)
    resuming = Resuming(trainer, checkpoints)
    trainer.add_callback(resuming)
    with checkpoints.training():
        return trainer.train(resume_from_checkpoint=resuming.latest())


def fitted(make: Callable[..., Any], model: Any, records: Any, plan: Finetuning, work: Work, **more: Any) -> tuple[Any, float]:
    """The model that a trainer of TRL's, made with `more`, ends with (adapters merged), and the mean loss over its training."""
    known = more.pop("known", KNOWN)
    policy.freeze(model, plan.weights)
    with quiet():
        trainer = make(model=model, train_dataset=records, callbacks=[Progress(work, known)], **more)
        trained = run(trainer, plan, work)
    return policy.merged(trainer.model, plan.precision), float(trained.training_loss)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' bars and their hints about what we decided knowingly."""
    import datasets
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def texts(path: Path) -> tuple[list[str], list[str]]:
    """The `text` of every record of a JSON Lines file, and what each is called."""
    rows = [(record["text"], record.get("id", f"record {number}")) for number, record in enumerate(read_rows(path), 1)]
    return [text for text, _ in rows], [name for _, name in rows]
