"""A loss that is no number, or far above those before it, ends a training at its step, and the records of its batch are named."""

import math
import statistics
from collections.abc import Sequence

from models.core.errors import StageError

WINDOW = 20  # steps whose median a loss is held against
LEAST = 5  # of them there must be
NAMED = 8  # records at most


class Spikes:
    """The losses of the last steps. `most`: nats that one may be above their median; None: any number of them."""

    def __init__(self, most: float | None) -> None:
        self.most = most
        self.recent: list[float] = []

    def see(self, loss: float, step: int, records: Sequence[str] = ()) -> None:
        """Raise StageError for a loss that is none, or too far above the others."""
        usual = statistics.median(self.recent) if len(self.recent) >= LEAST else math.inf
        if not math.isfinite(loss):
            raise StageError(f"the training's loss is {loss} at step {step}, must be a number: {_advice(records)}")
        if self.most is not None and loss - usual > self.most:
            raise StageError(
                f"the training's loss is {loss:.3g} at step {step}, {loss - usual:.3g} above the median of the {len(self.recent)} steps "
                f"before it, must be at most max_rise = {self.most:g}: {_advice(records)}"
            )
        self.recent = [*self.recent, loss][-WINDOW:]


def _advice(records: Sequence[str]) -> str:
    few = list(dict.fromkeys(records))
    more = f" and {len(few) - NAMED} more" if len(few) > NAMED else ""
    look = f"look at the step's records, {', '.join(few[:NAMED])}{more}, or lower" if few else "lower"
    return f"{look} the learning_rate; the last checkpoint is kept until params, data or code change"
