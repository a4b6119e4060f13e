"""Trainings that go on from a checkpoint, and end with the very bytes that they would have ended with uninterrupted.

A Hugging Face trainer restores weights, optimiser, schedule and random states. What it leaves out is restored here: the sums from which
its logs and its mean loss are made, the state of each generator from which the order of the records comes, and the random states in which
the epoch began (without them an epoch that was interrupted would be shuffled anew, and the batches to skip would be others).
"""

import math
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from models.core.checkpoints import Checkpoints
from models.core.errors import StageError

FILE = "states.pt"


def save(value: Any, path: Path) -> None:
    """Write tensors in lists and dicts."""
    torch.save(value, path)


def load(path: Path, device: str | torch.device = "cpu") -> Any:
    """What `save` wrote. Nothing in the file is ever run."""
    return torch.load(path, map_location=device, weights_only=True)


def random_states() -> dict[str, Any]:
    """The states of every generator that trainings draw from, as tensors and plain values."""
    version, words, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state()
    return {
        "python": (version, torch.tensor(words), gauss),
        "numpy": (str(kind), torch.tensor(np.asarray(keys).astype(np.int64)), [float(value) for value in rest]),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states(states: Mapping[str, Any]) -> None:
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    kind, keys, (place, has_gauss, cached) = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), int(place), int(has_gauss), cached))
    torch.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])


def require_number(values: Mapping[str, float], step: int) -> None:
    """Raise StageError where a loss, a gradient or a reward is none: what is trained from there on is nothing."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise StageError(
                f"the training's {name} is {value} at step {step}, must be a number: lower its learning_rate, or look for records that are "
                "not like the others; the last checkpoint is kept until params, data or code change"
            )


class Resuming(TrainerCallback):
    """Writes the checkpoints of a Hugging Face trainer, and restores what the trainer itself does not."""

    def __init__(self, trainer: Any, checkpoints: Checkpoints) -> None:
        self.trainer, self.checkpoints = trainer, checkpoints
        self.epoch: dict[str, Any] = {}  # as it stood when the present epoch began
        self.found: Path | None = None
        self.resumed: dict[str, Any] = {}

    def latest(self) -> str | None:
        """The trainer's folder of the last whole checkpoint."""
        self.found = self.checkpoints.latest()
        if self.found is None:
            return None
        folder = next(self.found.glob("checkpoint-*"))
        self.resumed = load(self.found / FILE)
        return str(folder)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        if self.found is not None:
            self.trainer.parts.shards.load([self.trainer.optimizer], self.found)
        self.trainer.parts.size = self.resumed.get("parts", self.trainer.parts.size)
        self.trainer.spikes.recent = self.resumed.get("recent", [])
        for name, value in self.resumed.get("sums", {}).items():
            setattr(self.trainer, name, value)
        for name, values in self.resumed.get("means", {}).items():
            self.trainer._metrics["train"][name] = values

    def on_epoch_begin(
        self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, train_dataloader: Any = None, **__: Any
    ) -> None:
        if self.resumed:
            begun = self.resumed["epoch" if state.epoch and state.epoch % 1 else "now"]
            set_random_states(begun["random"])
            for place, generator in _generators(train_dataloader):
                generator.set_state(begun["generators"][place])
            self.resumed = {}
        self.epoch = _order(train_dataloader)

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        self.trainer.parts.shards.spread()

    def on_step_end(self, _args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        control.should_save = self.checkpoints.due()
        if control.should_save and not self.checkpoints.ranks.leads:
            control.should_save = False
            self.checkpoints.save(state.global_step, self._save_own)

    def _save_own(self, folder: Path) -> None:
        self.trainer.parts.shards.save([self.trainer.optimizer], folder)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, _control: TrainerControl, train_dataloader: Any = None, **_: Any
    ) -> None:
        made = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        require_number({"loss": float(self.trainer._tr_loss)}, state.global_step)  # the sum since the last log
        sums = {name: getattr(self.trainer, name) for name in ("_tr_loss", "_total_loss_scalar", "_globalstep_last_logged")}
        means = dict(getattr(self.trainer, "_metrics", {"train": {}})["train"])  # TRL's: its logs are the means of these

        def write(folder: Path) -> None:
            made.rename(folder / made.name)
            self._save_own(folder)
            order = {"epoch": self.epoch, "now": _order(train_dataloader)}
            save(
                {"sums": sums, "means": means, "parts": self.trainer.parts.size, "recent": self.trainer.spikes.recent, **order},
                folder / FILE,
            )

        self.checkpoints.save(state.global_step, write)


def _order(loader: DataLoader[Any]) -> dict[str, Any]:
    """All from which the order of the records to come is drawn."""
    return {"random": random_states(), "generators": {place: generator.get_state() for place, generator in _generators(loader)}}


def _generators(loader: DataLoader[Any]) -> Iterator[tuple[str, torch.Generator]]:
    """The generators of a loader and of its samplers, as far as they have one by now, with their places."""
    inner = getattr(loader, "batch_sampler", None)
    owners = {"loader": loader, "sampler": getattr(loader, "sampler", None), "batches": inner, "inner": getattr(inner, "sampler", None)}
    for place, owner in owners.items():
        generator = getattr(owner, "generator", None)
        if isinstance(generator, torch.Generator):
            yield place, generator
