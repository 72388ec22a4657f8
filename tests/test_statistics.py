"""Intervals, corrected p-values and promised power hold in simulations with a known truth."""

import numpy as np
import pytest

from bert_jax.statistics import examples as over_examples
from bert_jax.statistics.examples import (
    example_error,
    for_other_examples,
    interval_over_examples,
    multi_bootstrap,
    paired_outcomes,
)
from bert_jax.statistics.seeds import estimate, holm, power, seeds_to_tell

SWEEPS = 2000


def simulate(points, seeds, *, effects=0.0, sweeps=SWEEPS):
    """Returns losses [sweeps, points, seeds] whose seeds share most of their variance.

    The deviation of the difference of two points is sqrt(2) * 0.02.
    """
    rng = np.random.default_rng(seeds)
    of_seed = rng.normal(5, 0.1, (sweeps, 1, seeds))
    return of_seed + rng.normal(0, 0.02, (sweeps, points, seeds)) + np.reshape(effects, (-1, 1))


@pytest.mark.parametrize("seeds", [3, 5, 10, 20])
def test_intervals_contain_the_truth_in_95_percent_of_simulated_sweeps(seeds):
    """The deviation of the fraction is sqrt(0.95 * 0.05 / 2000) = 0.005."""
    losses = simulate(2, seeds, effects=[0.0, 0.03])
    mean = estimate(losses[:, 1])
    difference = estimate(losses[:, 1] - losses[:, 0])
    for found, truth in ((mean, 5.03), (difference, 0.03)):
        covered = np.mean((found.low <= truth) & (truth <= found.high))
        assert 0.93 <= covered <= 0.97
    assert np.mean(difference.high - difference.low) < 0.5 * np.mean(mean.high - mean.low)
    none = estimate(losses[:, 0] - losses[:, 0] + simulate(2, seeds)[:, 0] - 5)
    assert 0.03 <= np.mean(none.p_value < 0.05) <= 0.07
    np.testing.assert_array_equal(none.p_value < 0.05, (none.low > 0) | (none.high < 0))


def test_an_estimate_of_a_hand_computed_example():
    """The values are 1, 2 and 3: deviation 1, error 1 / sqrt(3), and t(2) is 4.3027 at 97.5 %."""
    found = estimate(np.array([1.0, 2.0, 3.0]))
    assert (found.mean, found.deviation) == (2, 1)
    assert found.low == pytest.approx(2 - 4.302653 / 3**0.5)
    # With 2 degrees of freedom, P(T > t) is 1/2 - t / (2 * sqrt(2 + t^2)); here t^2 is 12.
    assert found.p_value == pytest.approx(1 - (12 / 14) ** 0.5)
    same, shifted = estimate(np.zeros(3)), estimate(np.array([0.3 - 0.2, 0.5 - 0.4, 0.6 - 0.5]))
    assert (same.p_value, shifted.p_value, shifted.deviation) == (1, 0.25, 0)  # 2 / 2^3
    assert estimate(np.array([1.0])).mean == 1 and np.isnan(estimate(np.array([1.0])).low)


def test_holm_of_a_hand_computed_example():
    """In order 0.01, 0.02, 0.03 and 0.04, the factors are 4, 3, 2 and 1; no value decreases."""
    np.testing.assert_allclose(holm([0.04, 0.01, 0.03, 0.02]), [0.06, 0.04, 0.06, 0.06])
    np.testing.assert_allclose(holm([0.5, 0.001, 0.6]), [1, 0.003, 1])
    np.testing.assert_allclose(holm([[0.2], [0.01]]), [[0.2], [0.01]])
    assert holm([]).size == 0


@pytest.mark.parametrize("seeds", [3, 10])
def test_holm_keeps_the_error_rate_of_a_whole_sweep(seeds):
    """Differences to the same base point are not independent."""
    losses = simulate(6, seeds)
    p_values = estimate(losses[:, 1:] - losses[:, :1]).p_value
    assert np.mean((p_values < 0.05).any(1)) > 0.12
    assert np.mean((holm(p_values) < 0.05).any(1)) <= 0.065


def test_holm_keeps_the_error_rate_with_accuracies_of_few_examples():
    """Differences of 40 examples are often the same for both seeds.

    If these had the p-value 0, 43 % of the sweeps would find a difference that is not there.
    """
    right = np.random.default_rng(2).binomial(40, 0.7, (SWEEPS, 11, 2)) / 40
    p_values = estimate(right[:, 1:] - right[:, :1]).p_value
    assert np.mean((holm(p_values) < 0.05).any(1)) <= 0.065


@pytest.mark.parametrize(("effect", "points"), [(0.03, 2), (0.03, 5), (0.012, 2), (0.1, 3)])
def test_a_planted_effect_is_found_with_the_promised_power(effect, points):
    deviation = 2**0.5 * 0.02
    seeds = seeds_to_tell(effect, deviation, tests=points - 1)
    assert seeds is not None and 2 <= seeds < 100
    promised = power(effect, deviation, seeds=seeds, tests=points - 1)
    assert promised >= 0.8
    if seeds > 2:
        assert power(effect, deviation, seeds=seeds - 1, tests=points - 1) < 0.8
    losses = simulate(points, seeds, effects=[0.0] * (points - 1) + [effect])
    p_values = estimate(losses[:, 1:] - losses[:, :1]).p_value
    # The deviation of a fraction is at most sqrt(0.8 * 0.2 / 2000) = 0.009.
    assert np.mean(p_values[:, -1] < 0.05 / (points - 1)) == pytest.approx(promised, abs=0.03)
    assert np.mean(holm(p_values)[:, -1] < 0.05) >= promised - 0.03


def test_the_number_of_seeds_that_tell():
    """A normal approximation asks for (1.96 + 0.84)^2 = 7.85 seeds for a unit effect."""
    assert seeds_to_tell(1.0, 1.0) == seeds_to_tell(-2.0, 2.0) == 10
    assert seeds_to_tell(1.0, 0.0) == 6  # the sign test: 2 / 2^6 is below 0.05
    assert seeds_to_tell(0.0, 1.0) is seeds_to_tell(0.0, 0.0) is None
    assert seeds_to_tell(1e-4, 1.0) is None
    assert seeds_to_tell(1e6, 1.0) == 2


def test_seeds_do_not_replace_examples():
    """With an error of 0.3 over examples, no number of seeds finds a difference of 0.8."""
    assert seeds_to_tell(1.0, 1.0, other_error=0.3) > seeds_to_tell(1.0, 1.0)
    assert seeds_to_tell(0.8, 1.0, other_error=0.3) is None


def mean_of_rows(rows):
    return float(rows.mean())


def two_way(rng, seeds, examples, *, mean):
    """Returns [seeds, examples] with deviations 0.05 of seeds and 0.3 of examples."""
    of_seeds, of_examples = rng.normal(0, 0.05, (seeds, 1)), rng.normal(0, 0.3, (1, examples))
    return of_seeds + of_examples + rng.normal(0, 0.2, (seeds, examples)) + mean


@pytest.mark.parametrize(("seeds", "cases"), [(3, 300), (50, 100)])
def test_intervals_over_seeds_and_examples_contain_the_mean(seeds, cases, monkeypatch):
    """A percentile bootstrap of three seeds contained it in 78 % of similar cases."""
    monkeypatch.setattr(over_examples, "RESAMPLES", 80)
    rng, covered = np.random.default_rng(1), []
    for _ in range(cases):
        low, high = interval_over_examples(two_way(rng, seeds, 50, mean=0.1), mean_of_rows)
        covered.append(low <= 0.1 <= high)
    # The deviation of the fraction is sqrt(0.95 * 0.05 / 300) = 0.013, or 0.022. A percentile
    # interval of 80 resamples is a little too narrow.
    assert 0.89 <= np.mean(covered) <= 0.99


def test_the_interval_of_20_seeds_is_as_wide_as_students():
    """The examples say next to nothing. A percentile bootstrap would be 9 % narrower."""
    rng = np.random.default_rng(3)
    outcomes = rng.normal(0, 1, (20, 1)) + rng.normal(0, 0.01, (20, 5))
    low, high = interval_over_examples(outcomes, mean_of_rows)
    student = estimate(outcomes.mean(axis=1))
    assert high - low == pytest.approx(student.high - student.low, rel=0.01)


def test_the_deviation_of_multi_bootstrap_is_the_deviation_in_a_simulation(monkeypatch):
    """The examples are those of all seeds, and their variance does not fall with more seeds."""
    monkeypatch.setattr(over_examples, "RESAMPLES", 200)
    rng, seeds, examples = np.random.default_rng(0), 25, 60
    truth = np.std([two_way(rng, seeds, examples, mean=0).mean() for _ in range(4000)])
    assert truth == pytest.approx((0.05**2 / 25 + 0.3**2 / 60 + 0.2**2 / 1500) ** 0.5, rel=0.04)
    found = []
    for _ in range(12):
        outcomes = two_way(rng, seeds, examples, mean=0)
        found.append(np.std([*multi_bootstrap(outcomes, mean_of_rows, rng)]))
    assert np.mean(found) == pytest.approx(truth, rel=0.07)


@pytest.mark.parametrize("mean", [0.06, 0.4])
def test_a_p_value_for_other_examples_agrees_with_the_interval(mean):
    """Seeds that agree have a small p-value, but 50 examples leave more doubt."""
    outcomes = two_way(np.random.default_rng(2), 8, 50, mean=mean)
    over_seeds = estimate(outcomes.mean(axis=1))
    found = for_other_examples(over_seeds, outcomes, mean_of_rows)
    assert (found.low, found.high) == interval_over_examples(outcomes, mean_of_rows)
    assert (found.p_value < 0.05) == (found.low > 0) == (mean == 0.4)
    assert over_seeds.p_value < found.p_value
    assert found[:3] == over_seeds[:3]
    # The variance of an example's mean over 8 seeds, divided by 50 examples, is that of resamples.
    resampled = outcomes.mean(axis=0).std() / 50**0.5
    assert example_error(found) == pytest.approx(resampled, rel=0.1)
    assert example_error(over_seeds) == pytest.approx(0, abs=1e-6)


def test_outcomes_that_are_all_equal_leave_no_doubt_about_examples():
    always = [np.ones(50)] * 3
    assert for_other_examples(estimate(np.ones(3)), always, mean_of_rows).p_value == 0.25
    assert np.isnan(for_other_examples(estimate(np.ones(1)), always[:1], mean_of_rows).p_value)


@pytest.mark.parametrize("seeds", [3, 50])
def test_pairing_by_seed_and_example_narrows_the_interval_of_a_difference(seeds, monkeypatch):
    monkeypatch.setattr(over_examples, "RESAMPLES", 100)
    rng = np.random.default_rng(0)
    second = two_way(rng, seeds, 50, mean=0.5)
    first = second + 0.02 + rng.normal(0, 0.01, second.shape)
    low, high = interval_over_examples(*paired_outcomes(first, second, mean_of_rows))
    assert 0.01 < low < 0.02 < high < 0.03
    alone = interval_over_examples(first, mean_of_rows)
    assert high - low < 0.2 * (alone[1] - alone[0])
    assert interval_over_examples(*paired_outcomes(first, first, mean_of_rows)) == (0, 0)
