"""A step's batch goes through the device in parts that fit: the gradients add up to those of the whole.

Where memory runs out the step begins anew with parts of half the size, and all later ones have that size too. What it ends with is what it
would have been, but for rounding: sums are made in another order.
"""

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.core.errors import StageError
from models.core.ranks import ALONE, Ranks
from models.train.shards import Shards
from models.train.spikes import Spikes

SCHEDULE = "scheduler.pt"
KEPT = ("record", "position_ids")  # columns of records that no trainer would hand on


class Parts:
    """How many records go through the device at once; `size` None is all of a batch. The gradients of `weights` are all ranks'."""

    def __init__(self, size: int | None, ranks: Ranks = ALONE, weights: Iterable[Tensor] = ()) -> None:
        self.size, self.ranks, self.shards = size, ranks, Shards(ranks, weights)

    def of(self, rows: int) -> Iterator[slice]:
        """The parts of a batch that are this rank's: as many as any rank has, the last of them empty perhaps."""
        mine, most = self.ranks.share(rows), -(-rows // self.ranks.count)
        size = self.size or most
        return (slice(min(mine.start + at, mine.stop), min(mine.start + at + size, mine.stop)) for at in range(0, most, size))

    def each(self, rows: int, work: Callable[[slice], None], clear: Callable[[], None], gradients: bool = False) -> None:
        """Call `work` for each part of a batch; after `clear`, which removes what came of it, again where memory ran out.

        Raises StageError where there is no memory for one record.
        """
        while not self._fits(rows, work, gradients):
            self._halve(rows)
            clear()
            self.shards.forget()
            gc.collect()
            torch.cuda.empty_cache()

    def step(self, rows: int, work: Callable[[slice], None], clear: Callable[[], None]) -> None:
        """The same with a `work` that adds gradients: at the end each weight's owner has the sum of all. All draw the same random numbers
        from then on."""
        self.each(rows, work, clear, gradients=True)
        self.shards.gradients()
        if self.ranks.count > 1:
            torch.set_rng_state(self.ranks.told(torch.get_rng_state()))

    def _fits(self, rows: int, work: Callable[[slice], None], gradients: bool) -> bool:
        """Whether the parts of a batch went through, everywhere: who has no memory tells the others, who wait for its gradients."""
        for part in self.of(rows):
            fits = True
            try:
                if part.start < part.stop:
                    work(part)
            except RuntimeError as error:
                if not _lacks_memory(error):
                    raise
                fits = False
            if gradients:
                self.shards.flush()
            if not all(self.ranks.gather(fits)):
                return False
        return True

    def sum(self, values: Sequence[Tensor], device: torch.device | str) -> Tensor:
        """The sum of what the parts found, a number each, of all ranks; float32."""
        total = torch.stack([value.float() for value in values]).sum() if values else torch.zeros((), device=device)
        self.ranks.total([total])
        return total

    def _halve(self, rows: int) -> None:
        most = -(-rows // self.ranks.count)
        size = min(self.size or most, most)
        if size == 1:
            raise StageError(
                "there is no memory for one record on the device: set gradient_checkpointing to true, weights to lora, or lower max_tokens"
            )
        self.size = -(-size // 2)
        print(f"no memory for {size} records at once: {self.size} at once from here on, and the same steps", flush=True)


def _lacks_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)  # a GPU's, and what the CPU's allocator says


def cut(inputs: Mapping[str, Any], part: slice, rows: int, sides: int) -> dict[str, Any]:
    """The part of a batch of `rows` records; where each has two sides, all first ones stand before all second ones."""

    def of(value: Any) -> Any:
        if isinstance(value, Tensor) and value.ndim and len(value) == sides * rows:
            return torch.cat([value[side * rows :][part] for side in range(sides)]) if sides > 1 else value[part]
        return value[part] if isinstance(value, list) and len(value) == rows else value

    return {name: of(value) for name, value in inputs.items()}


class InParts:
    """Mixed into a Hugging Face trainer, before it: the batch of each step in parts, and its loss seen.

    sides: how many rows the trainer's collator makes of a record. adds_up: whether the losses of parts add up to that of the batch, as
    those do that are divided by the batch's tokens; else each is a mean, and counts by its records.
    """

    sides = 1
    adds_up = False
    parts: Parts
    spikes: Spikes

    def _set_signature_columns_if_needed(self) -> None:
        trainer: Any = super()
        trainer._set_signature_columns_if_needed()
        self._signature_columns: list[str] = [*dict.fromkeys([*self._signature_columns, *KEPT])]

    def compute_loss(self, model: Any, inputs: dict[str, Any], *_: Any, num_items_in_batch: Any = None, **__: Any) -> Tensor:
        """The gradients are there when it returns; what it returns has none that anybody needs."""
        trainer: Any = self
        records = inputs.pop("record", ())
        rows = max(len(value) for value in inputs.values() if isinstance(value, Tensor) and value.ndim) // self.sides
        logged = {name: len(values) for name, values in _metrics(trainer).items()}
        losses: list[Tensor] = []
        auxiliary = getattr(trainer, "router_aux_loss_coef", None)

        def one(part: slice) -> None:
            share = (part.stop - part.start) / rows
            if self.adds_up and auxiliary is not None:
                trainer.router_aux_loss_coef = auxiliary * share  # a mean over a part, in a loss that is none
            loss = super(InParts, self).compute_loss(  # type: ignore[misc]
                model, cut(inputs, part, rows, self.sides), num_items_in_batch=num_items_in_batch
            )
            loss = loss if self.adds_up else loss * share
            with torch.autocast(loss.device.type, enabled=False):
                trainer.accelerator.backward(loss)
            losses.append(loss.detach())

        def clear() -> None:
            losses.clear()
            model.zero_grad(set_to_none=True)
            for name, values in _metrics(trainer).items():
                del values[logged.get(name, 0) :]

        self.parts.step(rows, one, clear)
        self._tell_all(logged)
        if auxiliary is not None:
            trainer.router_aux_loss_coef = auxiliary
        loss = self.parts.sum(losses, trainer.args.device)
        self.spikes.see(loss.item(), trainer.state.global_step + 1, records)
        return loss.requires_grad_()

    def _clip_grad_norm(self, model: Any) -> Tensor:
        trainer: Any = self
        return self.parts.shards.clip(model.parameters(), trainer.args.max_grad_norm)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """The schedule alone: what the optimiser remembers is all ranks', each of which writes its own."""
        trainer: Any = self
        torch.save(trainer.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        trainer: Any = self
        if checkpoint is not None:
            trainer.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULE, weights_only=True))

    def _tell_all(self, logged: Mapping[str, int]) -> None:
        """Have the log be a mean over what all ranks noted of their rows."""
        ranks, noted = self.parts.ranks, _metrics(self)
        if ranks.count == 1:
            return
        every = ranks.gather({name: values[logged.get(name, 0) :] for name, values in noted.items()})
        for name in dict.fromkeys(name for one in every for name in one):
            values = noted[name]
            values[logged.get(name, 0) :] = [value for one in every for value in one.get(name, ())]


class Named:
    """A collator whose batches tell which records are in them."""

    def __init__(self, collator: Any) -> None:
        self.collator = collator

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = self.collator(examples)
        return batch | {"record": [example["record"] for example in examples]} if "record" in examples[0] else batch


def _metrics(trainer: Any) -> dict[str, list[Any]]:
    """What TRL has noted since its last log."""
    found: dict[str, list[Any]] = getattr(trainer, "_metrics", {"train": {}})["train"]
    return found
