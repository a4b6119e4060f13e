"""The anchor of a suite: the version below which no chain of promotions may fall by more than the suite's margin. Pure: no file, no clock.

A candidate that is compared with today's champion only may lose a little each night. So each is compared with the anchor as well: the first
champion, until a version is promoted that is shown to be better than the anchor on the suite, or a person pins one. The claim is tested
again every night, and must hold of all nights together: look k gets the share `level(1, k)` of alpha, and the shares of all looks add up
to 1. The probability that any candidate which is truly below the anchor by the margin is let through is then at most alpha, whatever the
candidates are and however many come (Bonferroni's inequality). See docs/gate.md for what that takes for granted.
"""

from collections.abc import Mapping, Sequence

from pydantic import Field

from tasks.stage import Record

HORIZON = 365  # looks for which half of alpha is meant: a year of nights


class Standing(Record):
    """A suite's anchor and what is known of it."""

    version: str
    looks: int = Field(ge=0, description="decisions of the gate since it became the anchor: the next is look looks + 1")
    drift: tuple[float, float, float] | None = Field(
        default=None, description="the champion's difference from the anchor, with its lower and upper bound; null where not measured"
    )


class Against(Record):
    """One candidate against the anchor."""

    version: str
    look: int
    level: float = Field(description="what this look may spend of alpha")
    p: float = Field(description='p-value of "it is below the anchor by the margin or more"')
    difference: float
    lower: float = Field(description="of candidate - anchor, one-sided at alpha")
    upper: float
    better: bool = Field(description="shown to be better than the anchor at `level`: promoted, it is the next anchor")


Standings = Mapping[str, Standing]  # by suite


def level(alpha: float, look: int) -> float:
    """What look 1, 2, ... may spend of alpha.

    h / ((k + h - 1) (k + h)) adds up to 1 over all looks k, half of it within the first h. Half of alpha is spent so with h = 1, for a
    first look that can decide, half with h = HORIZON, for looks that can a year later: .25, .085, .0003 at look 1, 2, 365.
    """
    return alpha * sum(h / ((look + h - 1) * (look + h)) for h in (1, HORIZON)) / 2


def after_gate(standings: Standings, suites: Sequence[str], looked: Mapping[str, Against], promoted: str | None) -> dict[str, Standing]:
    """The standings once the gate has decided: each suite in `looked` has had its look; `promoted` is the version that became champion.

    A suite that had no anchor, gets the new champion.
    """
    found = dict(standings)
    for suite, against in looked.items():
        found[suite] = Standing(version=against.version, looks=against.look, drift=standings[suite].drift if suite in standings else None)
        if promoted and against.better:
            found[suite] = Standing(version=promoted, looks=0, drift=(0.0, 0.0, 0.0))
        elif promoted:
            found[suite] = found[suite].model_copy(update={"drift": (against.difference, against.lower, against.upper)})
    return found | {
        suite: Standing(version=promoted, looks=0, drift=(0.0, 0.0, 0.0)) for suite in suites if promoted and suite not in found
    }


def after_person(standings: Standings, suites: Sequence[str], champion: str) -> dict[str, Standing]:
    """The standings once a person has made `champion` champion: anchors stay, the drift from them is not known any more."""
    moved = {suite: standing.model_copy(update={"drift": None}) for suite, standing in standings.items() if standing.version != champion}
    return {**standings, **moved, **{suite: Standing(version=champion, looks=0) for suite in suites if suite not in standings}}


def pinned(standings: Standings, suites: Sequence[str], version: str) -> dict[str, Standing]:
    """The standings once a person has made `version` the anchor of `suites`."""
    return {**standings, **{suite: Standing(version=version, looks=0) for suite in suites}}
