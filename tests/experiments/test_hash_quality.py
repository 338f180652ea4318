"""The draws are as good as random where bad hashes fail: sequential ids, adjacent salts.

Random salts and UUIDs hide the faults that these inputs show. Every check is also run on hashes that are known to be
bad, and must refuse them: a check that accepts everything proves nothing. Of 60 p-values a sound hash has 4 below
0.001, 7 below 0.01 or 13 below 0.05 with a probability below 1e-5.
"""

import csv
import gzip
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special, stats

from experiments import kernel

Column = NDArray[np.int64]
IDS = [str(i) for i in range(100_000)]
SALTS = [f"exp-{i:03d}" for i in range(1, 61)]


class Draws(NamedTuple):
    """Gate and split of every id, one row for each salt."""

    gate: Column
    split: Column


def of_kernel(hash_version: kernel.HashVersion, ids: list[str]) -> Draws:
    columns = [kernel.bucket_column(salt, ids, hash_version) for salt in SALTS]
    gate = np.array([column.gate for column in columns], dtype=np.int64)
    return Draws(gate, np.array([column.split for column in columns], dtype=np.int64))


def of_one_number(hash_column: Callable[[str], Column]) -> Draws:
    """A weak hash has one 32-bit number for both draws: its low and its high end, or the same modulo twice."""
    numbers = np.array([hash_column(salt) for salt in SALTS])
    return Draws(numbers % 10_000, numbers // 10_000 % 10_000)


def crc32(salt: str) -> Column:
    return np.array([zlib.crc32(f"{salt}\x1f{unit}".encode()) for unit in IDS], dtype=np.int64)


def fnv1a(text_of: Callable[[str, str], str]) -> Callable[[str], Column]:
    def column(salt: str) -> Column:
        texts = np.array([text_of(salt, unit) for unit in IDS], dtype="S")
        letters = texts.view(np.uint8).reshape(len(IDS), -1).astype(np.uint64)
        number = np.full(len(IDS), 2_166_136_261, dtype=np.uint64)
        for letter in letters.T:  # zero pads the shorter texts and changes nothing
            hashed = ((number ^ letter) * np.uint64(16_777_619)) & np.uint64(0xFFFF_FFFF)
            number = np.where(letter > 0, hashed, number)
        return number.astype(np.int64)

    return column


def modulo(salt: str) -> Column:
    return np.array([int(unit) for unit in IDS], dtype=np.int64)


MUTANTS: dict[str, Callable[[str], Column]] = {
    "crc32": crc32,
    "fnv1a": fnv1a(lambda salt, unit: f"{salt}\x1f{unit}"),
    "growthbook_v1": fnv1a(lambda salt, unit: unit + salt),
    "id % n": modulo,
}


def assert_uniform_p_values(p_values: list[float]) -> None:
    """Check 60 p-values of true null hypotheses: neither too many small ones nor too few."""
    p = np.array(p_values)
    for bound, allowed in ((0.001, 3), (0.01, 6), (0.05, 12)):
        assert np.sum(p < bound) <= allowed, f"{np.sum(p < bound)} of {len(p)} p-values below {bound}"
    assert stats.kstest(p, "uniform").pvalue > 1e-5, "the p-values are not uniform"


def assert_uniform(draws: Column, buckets: int) -> None:
    counts = [np.bincount(row * buckets // 10_000, minlength=buckets) for row in draws]
    assert_uniform_p_values([float(stats.chisquare(count).pvalue) for count in counts])


def assert_independent(first: Column, second: Column, cells: int) -> None:
    """Chi-square in a table of cells x cells for each pair of rows, and |phi| of their halves below 4/sqrt(n)."""
    p_values = []
    for a, b in zip(first, second, strict=True):
        table = np.bincount((a * cells // 10_000) * cells + b * cells // 10_000, minlength=cells * cells)
        p_values.append(float(stats.chi2_contingency(table.reshape(cells, cells), correction=False).pvalue))
        phi = np.corrcoef(a < 5_000, b < 5_000)[0, 1]
        assert abs(phi) < 4 / np.sqrt(len(a)), f"phi {phi:.4f}"
    assert_uniform_p_values(p_values)


def assert_arms_even_within_the_enrolled(draws: Draws, coverage: int) -> None:
    p_values = []
    for gate, split in zip(draws.gate, draws.split, strict=True):
        arms = np.bincount(split[gate < coverage] * 10 // 10_000, minlength=10)
        p_values.append(float(stats.chisquare(arms).pvalue))
    assert_uniform_p_values(p_values)


def assert_arms_of_one_draw_even(draw: Column, coverage: int) -> None:
    """Ten arms by rule A4: the first `coverage` of each arm's range is enrolled."""
    p_values = []
    for row in draw:
        enrolled = row[row % 1_000 < coverage // 10]
        p_values.append(float(stats.chisquare(np.bincount(enrolled // 1_000, minlength=10)).pvalue))
    assert_uniform_p_values(p_values)


ONE_DRAW_CHECKS: dict[str, Callable[[Draws], None]] = {
    "uniform over 100": lambda draws: assert_uniform(draws.split, 100),
    "uniform over 10,000": lambda draws: assert_uniform(draws.split, 10_000),
    "adjacent experiments independent, 2x2": lambda draws: assert_independent(draws.split[:-1], draws.split[1:], 2),
    "adjacent experiments independent, 10x10": lambda draws: assert_independent(draws.split[:-1], draws.split[1:], 10),
    "arms even at 1 % coverage": lambda draws: assert_arms_of_one_draw_even(draws.split, 100),
    "arms even at 5 % coverage": lambda draws: assert_arms_of_one_draw_even(draws.split, 500),
    "arms even at 10 % coverage": lambda draws: assert_arms_of_one_draw_even(draws.split, 1_000),
    "arms even at 50 % coverage": lambda draws: assert_arms_of_one_draw_even(draws.split, 5_000),
}
"""What a kernel with one draw (`gb2`) has to pass."""

CHECKS: dict[str, Callable[[Draws], None]] = {
    "gate uniform over 100": lambda draws: assert_uniform(draws.gate, 100),
    "gate uniform over 10,000": lambda draws: assert_uniform(draws.gate, 10_000),
    "split uniform over 100": lambda draws: assert_uniform(draws.split, 100),
    "split uniform over 10,000": lambda draws: assert_uniform(draws.split, 10_000),
    "gate independent of split, 10x10": lambda draws: assert_independent(draws.gate, draws.split, 10),
    "adjacent experiments independent, 2x2": lambda draws: assert_independent(draws.split[:-1], draws.split[1:], 2),
    "adjacent experiments independent, 10x10": lambda draws: assert_independent(draws.split[:-1], draws.split[1:], 10),
    "gates of adjacent experiments independent": lambda draws: assert_independent(draws.gate[:-1], draws.gate[1:], 10),
    "arms even at 1 % coverage": lambda draws: assert_arms_even_within_the_enrolled(draws, 100),
    "arms even at 5 % coverage": lambda draws: assert_arms_even_within_the_enrolled(draws, 500),
    "arms even at 10 % coverage": lambda draws: assert_arms_even_within_the_enrolled(draws, 1_000),
    "arms even at 50 % coverage": lambda draws: assert_arms_even_within_the_enrolled(draws, 5_000),
}


@pytest.fixture(scope="module")
def kernel_draws() -> Draws:
    return of_kernel("sha256", IDS)


@pytest.fixture(scope="module")
def gb2_draws() -> Draws:
    return of_kernel("gb2", IDS[:50_000])  # letter by letter, FNV is slow


@pytest.mark.parametrize("check", CHECKS)
def test_the_kernel_passes(check: str, kernel_draws: Draws) -> None:
    CHECKS[check](kernel_draws)


@pytest.mark.parametrize("check", ONE_DRAW_CHECKS)
def test_the_kernel_of_growthbook_passes_with_its_one_draw(check: str, gb2_draws: Draws) -> None:
    ONE_DRAW_CHECKS[check](gb2_draws)


def failed_checks(draws: Draws, enough: int, checks: dict[str, Callable[[Draws], None]] = CHECKS) -> list[str]:
    failed: list[str] = []
    for name, check in checks.items():
        if len(failed) == enough:
            break
        try:
            check(draws)
        except (AssertionError, ValueError):  # a table with an empty column cannot be tested at all
            failed.append(name)
    return failed


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_known_bad_hash_is_refused(mutant: str) -> None:
    """Each bad hash fails several checks."""
    draws = of_one_number(MUTANTS[mutant])
    for checks in (CHECKS, ONE_DRAW_CHECKS):
        failed = failed_checks(draws, 2, checks)
        assert len(failed) >= 2, f"{mutant} fails only {failed}"


def test_one_draw_for_both_gate_and_split_is_refused(kernel_draws: Draws) -> None:
    """With the sound hash but a single draw, everyone in a 50 % ramp would be in the first arm."""
    failed = failed_checks(Draws(kernel_draws.gate, kernel_draws.gate), enough=len(CHECKS))
    assert {"gate independent of split, 10x10", "arms even at 50 % coverage"} <= set(failed)


@cache
def spent_by_customer() -> tuple[list[str], NDArray[np.float64]]:
    """Real revenue per customer and year if the data is available, else an equally skewed sample."""
    path = Path(__file__).parents[3] / "shared" / "data" / "online_retail.csv.gz"
    if not path.exists():
        spent = np.random.default_rng(1).lognormal(6.5, 1.3, 4_000)
        return [str(12_346 + i) for i in range(len(spent))], spent
    by_customer: dict[str, float] = {}
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if customer := row["CustomerID"].removesuffix(".0"):
                value = int(row["Quantity"]) * float(row["UnitPrice"])
                by_customer[customer] = by_customer.get(customer, 0.0) + value
    customers = sorted(by_customer)
    return customers, np.array([by_customer[customer] for customer in customers])


def p_values_of_resplits(split: Callable[[str], Column], spent: NDArray[np.float64]) -> NDArray[np.float64]:
    """Welch's test of spending between the halves of each of 1,000 experiments without an effect."""
    p_values = []
    for i in range(1_000):
        treated = split(f"aa-{i:04d}") < 5_000
        a, b = spent[treated], spent[~treated]
        # Of thousands of customers: Student's distribution is the normal one.
        z = (a.mean() - b.mean()) / np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))
        p_values.append(2 * special.ndtr(-abs(z)))
    return np.array(p_values)


@pytest.mark.parametrize("hash_version", ["sha256", "gb2"])
def test_a_thousand_experiments_without_an_effect_find_none(hash_version: kernel.HashVersion) -> None:
    """Winsorised at the 99th percentile, as a report caps it: the handful of wholesalers would decide each test."""
    customers, spent = (each[:2_000] for each in spent_by_customer())
    spent = np.minimum(spent, np.quantile(spent, 0.99))
    p_values = p_values_of_resplits(lambda salt: kernel.bucket_column(salt, customers, hash_version).split, spent)
    assert stats.kstest(p_values, "uniform").pvalue > 1e-4
    assert np.mean(p_values < 0.05) < 0.08


def test_a_split_that_ignores_the_salt_is_refused_by_the_resplits() -> None:
    customers, spent = spent_by_customer()
    halves = np.array([int(customer) % 2 * 5_000 for customer in customers])
    assert stats.kstest(p_values_of_resplits(lambda salt: halves, spent), "uniform").pvalue < 1e-4
