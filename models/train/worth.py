"""What answers are worth: a weighted sum of rewards, whoever gives them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from models.core.errors import SluiceError, StageError
from models.core.ranks import ALONE, Ranks

Asked = Sequence[Mapping[str, Any]]
"""Records of the kind prompts: {prompt}, and what else a reward needs to judge an answer."""
Judge = Callable[[Asked, Sequence[str]], Sequence[float] | np.ndarray]
"""From records and the answer to each, what each answer is worth [answers]."""


@dataclass(frozen=True)
class Rewards:
    """Rewards by name, each with its weight in the sum. Of several ranks the leader asks for them: a clock is among what may judge."""

    sources: Mapping[str, tuple[float, Judge]]
    ranks: Ranks = field(default=ALONE, kw_only=True)

    def parts(self, asked: Asked, answers: Sequence[str]) -> dict[str, np.ndarray]:
        """What each of them says of each answer [answers], before its weight."""
        return self.ranks.once(lambda: {name: self.of(name, asked, answers) for name in self.sources})

    def total(self, parts: Mapping[str, np.ndarray]) -> np.ndarray:
        """What each answer is worth [answers]."""
        total: np.ndarray = np.sum([weight * parts[name] for name, (weight, _) in self.sources.items()], axis=0)
        return total

    def of(self, name: str, asked: Asked, answers: Sequence[str]) -> np.ndarray:
        """What one of them says, before its weight. Raises StageError where it does not say a number for each answer."""
        try:
            said = np.asarray(self.sources[name][1](asked, answers), dtype=np.float64)
        except SluiceError:
            raise
        except Exception as error:  # whatever a team's own function does
            raise StageError(
                f"rewards.{name} failed ({type(error).__name__}: {error}): must give a number for each answer; mend it"
            ) from error
        if said.shape != (len(answers),) or not np.isfinite(said).all():
            wrong = f"{said.size} values" if said.shape != (len(answers),) else f"{said[~np.isfinite(said)][0]} among its values"
            raise StageError(f"rewards.{name} gives {wrong} for {len(answers)} answers, must give a number for each: mend it")
        return said
