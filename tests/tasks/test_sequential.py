"""The betting test: worked capital, order, and the error that it must hold however often one looks."""

from functools import cache

import numpy as np
import pytest

from tasks.gate.sequential import STAKES, first_crossing, judge, log_capital, whole_log_capital


def test_capital_is_the_mean_over_stakes_of_the_products():
    stakes = [(place + 0.5) / STAKES / 0.9 for place in range(STAKES)]
    product = np.mean([(1 + stake * 1.1) * (1 + stake * 0.1) * (1 - stake * 0.9) for stake in stakes])
    assert log_capital(np.array([1, 0, -1]), 0.1)[-1] == pytest.approx(np.log(product))


def test_capital_after_all_items_does_not_depend_on_their_order():
    values = np.random.default_rng(1).integers(-1, 2, 50)
    assert log_capital(values, 0.05)[-1] == pytest.approx(log_capital(values[::-1], 0.05)[-1])


def test_all_items_at_once_are_worth_what_they_are_one_by_one():
    values = np.random.default_rng(4).uniform(-1, 1, 60).round(1)
    assert whole_log_capital(values, 0.07) == pytest.approx(log_capital(values, 0.07)[-1])


def test_many_sequences_are_computed_as_each_alone():
    values = np.random.default_rng(2).integers(-1, 2, (3, 40))
    together = log_capital(values, 0.1)
    for row, alone in zip(together, values, strict=True):
        assert row == pytest.approx(log_capital(alone, 0.1))


def sequences(gates, items, difference, discordance, seed):
    draw = np.random.default_rng(seed).random((gates, items))
    gain, lose = (discordance + difference) / 2, (discordance - difference) / 2
    return np.where(draw < gain, 1, np.where(draw < gain + lose, -1, 0))


@cache
def verdicts(gates, items, difference, require, margin, discordance):
    return [judge(row, 0.05, margin, require)[0] for row in sequences(gates, items, difference, discordance, 7)]


def share(gates, items, difference, verdict, require="non-inferior", margin=0.05, discordance=0.1):
    return verdicts(gates, items, difference, require, margin, discordance).count(verdict) / gates


@pytest.mark.long
@pytest.mark.parametrize(
    ("difference", "verdict", "require"),
    [
        (-0.05, "non-inferior", "non-inferior"),
        pytest.param(-0.05, "worse", "non-inferior", marks=pytest.mark.slow),
        pytest.param(0.0, "better", "better", marks=pytest.mark.slow),
        pytest.param(0.0, "worse", "better", marks=pytest.mark.slow),
    ],
)
def test_a_wrong_verdict_at_the_edge_is_as_rare_as_alpha_after_looking_a_thousand_times(difference, verdict, require):
    gates = 400
    assert share(gates, 1000, difference, verdict, require) <= 0.05 + 2 * (0.05 * 0.95 / gates) ** 0.5


@pytest.mark.long
def test_equals_are_found_non_inferior_and_losers_worse():
    assert share(100, 1500, 0.0, "non-inferior") > 0.9
    assert share(100, 1500, -0.1, "worse", discordance=0.15) > 0.9


@pytest.mark.slow
@pytest.mark.long
def test_mmlu_needs_an_eighth_of_its_items_where_the_models_are_equal():
    used = [first_crossing(row, 0.02, 0.05) or 14042 for row in sequences(60, 14042, 0.0, 0.1, 3)]
    assert 1200 < np.median(used) < 2400


def test_humanevals_164_items_promise_nothing():
    used = [first_crossing(row, 0.05, 0.05) for row in sequences(200, 164, 0.0, 0.1, 5)]
    assert sum(found is None for found in used) > 60
