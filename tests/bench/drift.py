"""A year of gates: what becomes of quality when a candidate comes every night.

`python -m tests.bench.drift [FILE.svg [SEED]]` prints how often some champion was truly below its anchor by more than the margin, and draws
what the gate promotes between equals over a year. A night is the gate's own tests on two tables of counts, candidate against champion and
against anchor (`tests/tasks/test_anchor.py` holds them against `tasks.gate.verdicts.judge` itself). Every model answers the same n items. A
fresh candidate's answers differ from the anchor's at random; an inherited one's from the champion's, whose luck on the items it keeps:
there the guarantee does not hold on the same items for ever, and does with new items every week.
"""

import json
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.gate import paired
from tasks.gate.anchor import level
from tests.bench.calibration import ALPHA, Suite

ACCURACY, NIGHTS = 0.87, 365  # of the first champion


MINI, MMLU = Suite("mini", 215, 0.1, 0.05), Suite("MMLU's size", 14042, 0.01, 0.05)
HUMANEVAL = Suite("HumanEval's size", 164, 0.12, 0.05)
SUITES = (
    MINI,
    Suite("mini, much disagreement", 215, 0.1, 0.1),
    HUMANEVAL,
    Suite("HumanEval's size, narrow margin", 164, 0.0625, 0.05),
    MMLU,
)
Slide = Callable[[int, float, float], float]  # (night, champion's true difference from the anchor, margin): the candidate's


def slow(_night: int, champion: float, margin: float) -> float:
    """Each candidate a twentieth of the margin below the champion."""
    return champion - margin / 20


def steady(_night: int, champion: float, margin: float) -> float:
    """Each candidate a fifth of the margin below the champion."""
    return champion - margin / 5


def edge(_night: int, _champion: float, margin: float) -> float:
    """Each candidate just beyond the margin below the anchor: the most that may be let through by chance."""
    return -1.001 * margin


def sawtooth(night: int, champion: float, margin: float) -> float:
    """Down by half a margin for six nights, then up by a whole one."""
    return champion + margin if night % 7 == 0 else champion - margin / 2


def patient(night: int, champion: float, margin: float) -> float:
    """As good as the champion, and each tenth night just beyond the margin below the anchor."""
    return -1.001 * margin if night % 10 == 0 else min(champion, 0.0)


def honest(_night: int, champion: float, _margin: float) -> float:
    """Each candidate as good as the champion."""
    return champion


SLIDES = (slow, steady, edge, sawtooth, patient)


@cache
def no_loss_p(gained: int, lost: int, n: int, margin: float) -> float:
    return paired.non_inferiority_p(gained, lost, n, margin)


@cache
def better_p(gained: int, lost: int) -> float:
    return paired.mcnemar_p(gained, lost)


def passes(counts: tuple[int, int], suite: Suite, alpha: float) -> bool:
    """Whether (gained, lost) show no loss of the margin at alpha."""
    return better_p(*counts) <= alpha or no_loss_p(*counts, suite.n, suite.margin) <= alpha


@dataclass
class Year:
    """What a year came to: by night whether the candidate was promoted; whether a champion was ever beyond the margin; its true
    difference from the first champion at the end."""

    promoted: NDArray[Any]
    violated: bool
    end: float


def year(suite: Suite, slide: Slide, seed: int, anchored: bool = True, inherited: bool = False, fresh_every: int = NIGHTS + 1) -> Year:
    """Simulate one. `cells` counts the items by (whether the anchor, whether the champion) is right, [2, 2]; `shares` is the same for all
    items that might have been drawn, from which new ones come every `fresh_every` nights."""
    generator, look, base, champion = np.random.default_rng(seed), 0, 0.0, 0.0  # base: the anchor's own difference from the first champion
    shares = np.diag([1 - ACCURACY, ACCURACY])
    cells = _drawn(shares, suite, generator)
    promoted, violated = np.zeros(NIGHTS, dtype=bool), False
    for night in range(1, NIGHTS + 1):
        if night % fresh_every == 0:
            cells = _drawn(shares, suite, generator)
        true, source = slide(night, champion - base, suite.margin) + base, champion if inherited else base
        gain, loss = _rates(suite, true - source, ACCURACY + source)
        right = generator.binomial(cells, np.array([[gain, 1 - loss]] * 2 if inherited else [[gain] * 2, [1 - loss] * 2]))
        moved = np.stack([cells - right, right], axis=2)  # [anchor, champion, candidate]
        look += 1
        against_champion = int(moved[:, 0, 1].sum()), int(moved[:, 1, 0].sum())
        against_anchor = int(moved[0, :, 1].sum()), int(moved[1, :, 0].sum())
        spent = level(ALPHA, look)
        if not passes(against_champion, suite, ALPHA) or (anchored and no_loss_p(*against_anchor, suite.n, suite.margin) > spent):
            continue
        promoted[night - 1], champion, cells = True, true, moved.sum(axis=1)
        shares = (shares if inherited else np.diag(shares.sum(axis=1))) @ np.array([[1 - gain, gain], [loss, 1 - loss]])
        violated = violated or true - base < -suite.margin
        if anchored and better_p(*against_anchor) <= spent:
            cells, shares, base, look = np.diag(cells.sum(axis=0)), np.diag(shares.sum(axis=0)), true, 0
    return Year(promoted, violated, champion)


def _drawn(shares: NDArray[Any], suite: Suite, generator: np.random.Generator) -> NDArray[Any]:
    return generator.multinomial(suite.n, shares.ravel()).reshape(2, 2)


def _rates(suite: Suite, difference: float, accuracy: float) -> tuple[float, float]:
    """How often a candidate gets right what its source gets wrong, and the other way: they differ by `difference` in truth."""
    accuracy, apart = min(max(accuracy, 0.02), 0.98), max(suite.discordance, abs(difference))
    return min((apart + difference) / 2 / (1 - accuracy), 1.0), min((apart - difference) / 2 / accuracy, 1.0)


def share_violated(suite: Suite, slide: Slide, years: int, seed: int, **how: Any) -> float:
    """The share of years in which some champion was truly below its anchor by more than the margin."""
    return float(np.mean([year(suite, slide, 1000 * seed + number, **how).violated for number in range(years)]))


def honest_curve(suite: Suite, years: int, seed: int) -> NDArray[Any]:
    """By night, the share of years in which an honest candidate was promoted."""
    return np.mean([year(suite, honest, 1000 * seed + number).promoted for number in range(years)], axis=0)


def measure(suite: Suite, years: int, seed: int) -> tuple[list[dict[str, Any]], NDArray[Any]]:
    lines = []
    for slide in SLIDES:
        found = share_violated(suite, slide, years, seed)
        name = f"a year of gates, {slide.__name__} slide: {suite.name}, n {suite.n}, margin {suite.margin:g}"
        before = [year(suite, slide, 1000 * seed + number, anchored=False) for number in range(20)]
        lines.append(
            {
                "name": name,
                "ours": found,
                "theirs": ALPHA,
                "unit": "share of years with a champion below its anchor by more than the margin",
                "ratio": round(ALPHA / found, 2) if found else None,
                "without_anchor": float(np.mean([one.violated for one in before])),
                "inherited": share_violated(suite, slide, min(years, 200), seed, inherited=True),
                "inherited_weekly_items": share_violated(suite, slide, min(years, 200), seed, inherited=True, fresh_every=7),
            }
        )
    return lines, honest_curve(suite, years, seed + 1)


def around(curve: NDArray[Any], night: int) -> float:
    """The curve at a night, over the week that ends with it."""
    return round(float(curve[max(0, night - 7) : night].mean()), 3)


def main(seed: int = 1, years: int = 400, show: Callable[[str], object] = print) -> dict[str, NDArray[Any]]:
    """Print one JSON line a suite and slide, and one a suite for honest candidates; return the curves of those."""
    curves = {}
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for suite, (lines, curve) in zip(SUITES, pool.map(measure, SUITES, [years] * len(SUITES), [seed] * len(SUITES)), strict=True):
            for line in lines:
                show(json.dumps(line))
            nights = {str(night): around(curve, night) for night in (1, 7, 30, 90, 365)}
            name = f"a year of gates, honest candidates: {suite.name}, n {suite.n}, margin {suite.margin:g}"
            show(
                json.dumps(
                    {
                        "name": name,
                        "ours": nights["365"],
                        "theirs": nights["1"],
                        "unit": "share promoted",
                        "ratio": None,
                        "by_night": nights,
                    }
                )
            )
            curves[f"n {suite.n}, margin {suite.margin:g}, {suite.discordance:.0%}"] = curve
    return curves


def draw(curves: dict[str, NDArray[Any]], path: Path) -> None:
    """Write the share of honest candidates that is promoted, by night, as one picture."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "sluice"
    from matplotlib import pyplot

    figure, panel = pyplot.subplots(figsize=(9, 4.5))
    for label, curve in curves.items():
        panel.plot(range(1, NIGHTS + 1), np.convolve(np.pad(curve, (6, 0), mode="edge"), np.full(7, 1 / 7), "valid"), label=label)
    panel.set(xlabel="night since the anchor", ylabel="honest candidates promoted, share in 7 nights", ylim=(0, 1.02), xlim=(1, NIGHTS))
    panel.legend(title="items, margin, answers that differ", loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    found = main(seed=int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    if len(sys.argv) > 1:
        draw(found, Path(sys.argv[1]))
