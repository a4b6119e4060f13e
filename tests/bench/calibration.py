"""How often the gate promotes: thousands of simulated gates at a known true difference.

`python -m tests.bench.calibration [FILE.svg [SEED]]` prints the error rates and draws the power curves. A simulated gate is the real one:
two sets of per-item results go into `tasks.gate.verdicts.judge`, its decision comes out. Suites are drawn four ways: independent items;
items of unequal difficulty; clusters (subjects) that each gain or lose differently around the mean; and few against many items, as in
HumanEval (164), GPQA diamond (198) and MMLU (14,042).
"""

import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.gate.verdicts import Evidence, Policy, SuitePolicy, judge
from tests.limits import ANY

ALPHA, ACCURACY = 0.05, 0.6  # of each test; of the champion
Curve = list[tuple[float, float]]
Line = dict[str, Any]


@dataclass(frozen=True)
class Suite:
    """A suite of n items, on which the two models differ on a share `discordance` of the items; `draw` says how the items are."""

    name: str
    n: int
    margin: float
    discordance: float = 0.1
    draw: str = "independent"


SUITES = (
    Suite("HumanEval's size", 164, 0.0625),
    Suite("GPQA diamond's size", 198, 0.06),
    Suite("GPQA diamond's size, much disagreement", 198, 0.1, 0.3),
    Suite("MMLU's size", 14042, 0.01),
    Suite("HumanEval's size, unequal difficulty", 164, 0.0625, 0.1, "unequal"),
    Suite("MMLU's size, 57 subjects that gain and lose", 14042, 0.01, 0.1, "clusters"),
)


def tables(suite: Suite, difference: float, gates: int, seed: int) -> NDArray[Any]:
    """(gained, lost) of each gate, [gates, 2], at a true mean difference of candidate - champion."""
    generator = np.random.default_rng(seed)
    gain, loss = _shares(suite, difference, generator)
    counts = np.empty((gates, 2), dtype=int)
    for gate in range(gates):
        draw = generator.random(suite.n)
        counts[gate] = (draw < gain).sum(), ((draw >= gain) & (draw < gain + loss)).sum()
    return counts


def _shares(suite: Suite, difference: float, generator: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
    """Each item's chance that only the candidate gets it right, and that only the champion does; the means differ by `difference`."""
    gain, loss = (np.full(suite.n, (suite.discordance + sign * difference) / 2) for sign in (1, -1))
    if suite.draw == "unequal":  # most items are settled, some are toss-ups
        weight = generator.beta(0.3, 0.3 * (0.45 / suite.discordance - 1), suite.n)
        weight /= weight.mean()
        return gain * weight, loss * weight
    if suite.draw == "clusters":
        subjects = generator.integers(0, 57, suite.n)
        shift = generator.normal(0, 0.4 * suite.discordance, 57).clip(-0.4 * suite.discordance, 0.4 * suite.discordance)[subjects]
        shift -= shift.mean()
        return gain + shift / 2, loss - shift / 2
    return gain, loss


@cache
def promoted(n: int, gained: int, lost: int, margin: float, require: str) -> bool:
    """What the gate decides on these counts; the champion gets ACCURACY of the items right."""
    both = round(ACCURACY * n) - lost
    ours = np.concatenate([np.ones(gained + both), np.zeros(n - gained - both)])
    theirs = np.concatenate([np.zeros(gained), np.ones(both + lost), np.zeros(n - gained - both - lost)])
    names = [f"i{place}" for place in range(n)]
    candidate, champion = (
        Evidence(scores=dict(zip(names, scores.tolist(), strict=True)), chance=0.25, identity={}) for scores in (ours, theirs)
    )
    rules = SuitePolicy.model_validate({"margin": margin, "floor": None, "require": require})
    policy = Policy(alpha=ALPHA, without_sandbox="refuse", better_on_one_of=[], contaminated=0.0, health=ANY, suites={"suite": rules})
    return judge(policy, {"suite": candidate}, {"suite": champion}).decision == "promote"


def rate(suite: Suite, difference: float, require: str, gates: int, seed: int) -> float:
    """The share of simulated gates that promote."""
    counts = tables(suite, difference, gates, seed)
    return float(np.mean([promoted(suite.n, int(gained), int(lost), suite.margin, require) for gained, lost in counts]))


def false_promotions(suite: Suite, require: str, gates: int, seed: int) -> float:
    """The share that promotes where the policy's own null hypothesis holds, at its edge."""
    return rate(suite, -suite.margin if require == "non-inferior" else 0.0, require, gates, seed)


def curve(suite: Suite, require: str, gates: int, seed: int) -> Iterator[tuple[float, float]]:
    """(true difference, share promoted), from twice the margin lost to twice the margin gained."""
    for step in (-2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2):
        yield step * suite.margin, rate(suite, step * suite.margin, require, gates, seed)


def measure(suite: Suite, gates: int, seed: int) -> list[tuple[str, Curve, Line]]:
    """(policy, power curve, what is reported) for both policies; they share the intervals, which cost the most."""
    found = []
    for require in ("non-inferior", "better"):
        points = list(curve(suite, require, gates, seed))
        edge = false_promotions(suite, require, gates, seed + 1)
        line = {
            "name": f"gate, false promotions: {suite.name}, n {suite.n}, margin {suite.margin:g}, {require}",
            "ours": round(edge, 4),
            "theirs": ALPHA,
            "unit": "share of gates",
            "ratio": round(ALPHA / edge, 2) if edge else None,
            "at_equality": round(dict(points)[0.0], 4),
        }
        found.append((require, points, line))
    return found


def main(seed: int = 1, gates: int = 2000, show: Callable[[str], object] = print) -> dict[str, Curve]:
    """Print one JSON line a suite and policy, in their order; return the curves. Suites are simulated side by side."""
    curves = {}
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for suite, found in zip(SUITES, pool.map(partial(measure, gates=gates, seed=seed), SUITES), strict=True):
            for require, points, line in found:
                curves[f"{suite.name}, {require}"] = points
                show(json.dumps(line))
    return curves


def draw(curves: dict[str, Curve], path: Path) -> None:
    """Write the power curves as one picture: a panel a policy, a line a suite."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "sluice"
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(11, 5), sharey=True)
    for panel, require in zip(panels, ("non-inferior", "better"), strict=True):
        for suite in SUITES:
            points = curves[f"{suite.name}, {require}"]
            label = f"{suite.name} (n {suite.n}, margin {suite.margin:g})"
            style = "-" if suite.draw == "independent" else "--"
            panel.plot([x / suite.margin for x, _ in points], [y for _, y in points], style, marker="o", markersize=3, label=label)
        panel.axhline(ALPHA, color="grey", linestyle=":", linewidth=1)
        panel.axvline(-1 if require == "non-inferior" else 0, color="grey", linestyle=":", linewidth=1)
        panel.set(title=f"policy: {require}", xlabel="true difference, in margins", ylim=(0, 1))
    panels[0].set_ylabel("share of gates that promote")
    figure.legend(*panels[0].get_legend_handles_labels(), fontsize=8, loc="lower center", ncols=2)
    figure.tight_layout(rect=(0, 0.14, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    found = main(seed=int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    if len(sys.argv) > 1:
        draw(found, Path(sys.argv[1]))
