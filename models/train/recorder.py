"""A flight recorder for reinforcement learning: what goes wrong, in words, from the numbers of the steps so far.

A reward is a stand-in for what is wanted, and a policy finds where the two part (Gao et al. 2023, "Scaling Laws for Reward Model
Overoptimization"; Singhal et al. 2023, "A Long Way to Go", of length). Each diagnosis is a rule on the rows of the curve, and holds of the
last LAST of them beside the first ones: one odd batch is none.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from models.core.errors import StageError
from models.core.work import Work
from models.train import policy, resuming
from models.train.settings import Reinforcement, Restore, Stop
from models.train.worth import Asked, Rewards

LEAST, LAST = 6, 4  # rows before anything is said, and those that speak
LONGER, PAYS = 1.3, 0.85  # times the length at first, and the correlation of reward and length within a prompt's answers
COLLAPSED = 0.2  # of the entropy in the beginning
CUT = 0.5  # share of the answers
ALIKE = 0.9  # share of the prompts to which all answers are worth the same
EXPLODED = 5.0  # times the value model's least error so far
SURE = 3.0  # standard errors of a slope over all rows
BEST = "best.pt"
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>flight recorder</title>
<style>body {{ font: 15px system-ui, sans-serif; margin: 2em }} td, th {{ padding: .3em .6em; text-align: left; vertical-align: top;
border-bottom: 1px solid #ccc }} td {{ white-space: pre-wrap }}</style>
<h1>Flight recorder</h1><h2>Found</h2><ul>{found}</ul>
<h2>Answers to held-out prompts</h2>
<table><tr><th>prompt</th><th>before</th><th>reward</th><th>after</th><th>reward</th></tr>{pairs}</table>
<h2>Steps</h2><table><tr>{names}</tr>{rows}</table></html>
"""


class Diagnosis(NamedTuple):
    name: str
    said: str


class Shown(NamedTuple):
    """An answer for people to read, with the mean reward of the answers to its prompt."""

    prompt: str
    answer: str
    reward: float


@dataclass
class Recorder:
    """Hears what is told of each step, and sees the answers that it was learned from.

    tokens: how many each of some answers has. measure: the mean reward of a model on held-out prompts. folder: for the best weights so far.
    """

    plan: Reinforcement
    tokens: Callable[[Sequence[str]], list[int]]
    measure: Callable[[Any], float]
    folder: Path
    rows: list[dict[str, float]] = field(default_factory=list)
    found: dict[str, str] = field(default_factory=dict)
    seen: list[dict[str, float]] = field(default_factory=list)  # of the batches since the last row
    best: tuple[int, float] | None = None  # step, reward
    handed_on: int | None = None  # the step whose weights were restored
    judges: list[str] = field(default_factory=list)  # rewards of weight 0

    def watched(self, rewards: Rewards) -> "Watched":
        self.judges = [name for name, (weight, _) in rewards.sources.items() if weight == 0]
        return Watched(rewards.sources, self, ranks=rewards.ranks)

    def watching(self, work: Work) -> Work:
        """The same, but that rows gain what was seen, and are looked at, and that checkpoints hold what this one knows."""

        def progress(step: int, total: int, values: Mapping[str, float]) -> None:
            row = dict(values)
            if row and self.seen:
                row |= {name: float(np.mean([one[name] for one in self.seen])) for name in self.seen[0]}
                self.seen.clear()
            work.progress(step, total, row)
            if "mean_reward" in row:
                self.rows.append(row)
                self._look(step)

        if kept := work.checkpoints:
            notes, recall = kept.notes, kept.recall
            kept.notes = lambda: [notes(), self.rows, self.found, self.seen, self.best]

            def remember(step: int, known: Any) -> None:
                recall(step, known[0])
                rows, found, seen, best = known[1:]
                self.rows[:], self.found, self.seen[:], self.best = rows, dict(found), seen, tuple(best) if best else None

            kept.recall = remember
        return replace(work, progress=progress)

    def stepped(self, step: int, model: Any) -> None:
        """After each step: keep the weights where they are the best so far, as far as the params want that."""
        act = self.plan.recorder
        if not isinstance(act, Restore) or (step % act.every and step != self.plan.steps):
            return
        states = resuming.random_states()
        reward = self.measure(model)
        resuming.set_random_states(states)  # the training goes on as if nobody had looked
        if self.best is None or reward > self.best[1]:
            self.best = (step, reward)
            self.folder.mkdir(parents=True, exist_ok=True)
            draft = self.folder / f".{BEST}"
            resuming.save(policy.trained(model), draft)
            draft.replace(self.folder / BEST)

    @torch.no_grad()
    def restored(self, model: Any) -> None:
        """Give the model the best weights, where something was found and the params want that."""
        if not self.found or self.best is None:
            return
        kept = resuming.load(self.folder / BEST, model.device)
        for name, weight in policy.trained(model).items():
            weight.copy_(kept[name])
        print(f"rlhf: the weights of step {self.best[0]} are handed on, held-out reward {self.best[1]:.3g}", flush=True)
        self.handed_on = self.best[0]

    def saw(self, answers: Sequence[str], rewards: np.ndarray) -> None:
        """Note how a batch's rewards [answers] lie: answers to one prompt stand beside each other."""
        size = self.plan.answers_per_prompt
        groups, lengths = rewards.reshape(-1, size), np.array(self.tokens(answers), dtype=float).reshape(-1, size)
        alike = float(np.mean(np.ptp(groups, axis=1) <= 1e-6 * max(1.0, float(np.abs(groups).max())))) if size > 1 else 0.0
        within = (values - values.mean(1, keepdims=True) if size > 1 else values - values.mean() for values in (groups, lengths))
        self.seen.append({"length_correlation": _correlation(*(values.ravel() for values in within)), "groups_alike": alike})

    def page(self, before: Sequence[Shown], after: Sequence[Shown]) -> str:
        """What was found, answers to the same prompts before and after, and the rows: HTML that stands alone."""
        found = [f"<li>{escape(said)}</li>" for said in self.found.values()] or ["<li>nothing</li>"]
        pairs = [
            f"<tr><td>{escape(old.prompt)}</td><td>{escape(old.answer)}</td><td>{old.reward:.3g}</td>"
            f"<td>{escape(new.answer)}</td><td>{new.reward:.3g}</td></tr>"
            for old, new in zip(before, after, strict=True)
        ]
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        rows = ["".join(f"<td>{row[name]:.4g}</td>" if name in row else "<td></td>" for name in names) for row in self.rows]
        return PAGE.format(
            found="".join(found),
            pairs="".join(pairs),
            names="".join(f"<th>{escape(name)}</th>" for name in names),
            rows="".join(f"<tr>{row}</tr>" for row in rows),
        )

    def _look(self, step: int) -> None:
        for name, said in diagnoses(self.rows, self.plan.max_kl, self.judges):
            if name not in self.found:
                self.found[name] = f"at step {step}: {said}"
                print(f"rlhf, at step {step}: {said}", flush=True)
                if isinstance(self.plan.recorder, Stop):
                    raise StageError(f"rlhf was stopped at step {step}: {said}; set rlhf.recorder to warn to go on all the same")


@dataclass(frozen=True)
class Watched(Rewards):
    """Rewards of which a recorder sees all."""

    recorder: Recorder

    def parts(self, asked: Asked, answers: Sequence[str]) -> dict[str, np.ndarray]:
        found = super().parts(asked, answers)
        self.recorder.saw(answers, self.total(found))
        return found


def diagnoses(rows: Sequence[Mapping[str, float]], max_kl: float, judges: Collection[str] = ()) -> Iterator[Diagnosis]:
    """What the rows of a curve say, the last of which is the present. judges: the rewards that are measured and not learned from."""
    if len(rows) < LEAST:
        return
    now, first = Side(rows[-LAST:]), Side(rows[: max(2, len(rows) // 5)])
    tokens, pays = now("answer_tokens"), now("length_correlation")
    if tokens > LONGER * first("answer_tokens") and pays > PAYS:
        grown = f"answers have {tokens:.0f} tokens, {first('answer_tokens'):.0f} at first, and among answers to one prompt the reward"
        yield Diagnosis("length", f"{grown} goes with length (correlation {pays:+.2f}): add a reward that does not pay for it")
    entropy, begun = now("entropy_per_token"), first("entropy_per_token")
    if entropy < COLLAPSED * begun:
        said = f"entropy is {entropy:.2f} nats a token, {begun:.2f} in the beginning: it says the same again and again"
        yield Diagnosis("entropy", f"{said}; lower the rate, or raise beta or temperature")
    if (kl := now("kl_per_token") * tokens) > max_kl:
        said = f"KL to sft is {kl:.1f} nats an answer and runs away, must be at most max_kl = {max_kl:g}"
        yield Diagnosis("kl", f"{said}: raise beta or lower the rate")
    if (cut := now("answers_cut")) > CUT:
        yield Diagnosis("cut", f"{cut:.0%} of the answers are cut, and no reward sees how they end: raise max_new_tokens")
    if (alike := now("groups_alike")) > ALIKE:
        yield Diagnosis("alike", f"to {alike:.0%} of the prompts all answers are worth the same, so that there is nothing to learn from")
    yield from _values(rows, now)
    yield from _judges(rows, judges)


def _values(rows: Sequence[Mapping[str, float]], now: "Side") -> Iterator[Diagnosis]:
    errors = [row["value_error"] for row in rows if "value_error" in row]
    if len(errors) < 2 * LAST:
        return
    least = float(np.lib.stride_tricks.sliding_window_view(errors, LAST)[:-1].mean(1).min())
    if now("value_error") > EXPLODED * least > 0 and now("value_explained") < 0:
        said = f"the value model's squared error is {now('value_error'):.3g}, it was {least:.3g}, and more than the spread of what comes"
        yield Diagnosis("values", f"{said}: what it foresees is worth nothing; lower the rate or value_weight, or raise minibatches")


def _judges(rows: Sequence[Mapping[str, float]], judges: Collection[str]) -> Iterator[Diagnosis]:
    """A judge whose reward falls while what is learned from rises."""
    if _slope([row["mean_reward"] for row in rows]) < SURE:
        return
    for name in judges:
        values = [row[f"reward_{name}"] for row in rows if f"reward_{name}" in row]
        if _slope(values) < -SURE:
            said = f"what is learned from rises, and {name}, which is only measured, falls from {values[0]:.3g} to {values[-1]:.3g}"
            yield Diagnosis(
                f"judge {name}", f"{said}: the one is bought with the other; give {name} a weight, or mend what is learned from"
            )


class Side(NamedTuple):
    """Some rows, by the mean of what they say."""

    rows: Sequence[Mapping[str, float]]

    def __call__(self, name: str) -> float:
        values = [row[name] for row in self.rows if name in row]
        return float(np.mean(values)) if values else float("nan")  # compares with nothing


def _slope(values: Sequence[float]) -> float:
    """Of a line through the values, in standard errors; 0 where it is none."""
    if len(values) < LEAST:
        return 0.0
    steps = np.arange(len(values)) - (len(values) - 1) / 2
    slope = float((steps * values).sum() / (steps**2).sum())
    rest = np.asarray(values) - np.mean(values) - slope * steps
    error = float(np.sqrt((rest**2).sum() / (len(values) - 2) / (steps**2).sum()))
    return slope / error if error > 0 else 0.0 if slope == 0 else float(np.sign(slope) * np.inf)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's; 0 where one of them is the same throughout."""
    spread: Any = np.sqrt((one**2).mean() * (other**2).mean())
    return float((one * other).mean() / spread) if spread > 1e-12 else 0.0
