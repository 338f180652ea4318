"""The draws are as good as random where bad hashes fail: sequential ids, adjacent salts.

Random salts and UUIDs hide the faults that these inputs show. Every check is also run on hashes that are known to be
bad, and must refuse them: a check that accepts everything proves nothing. Of 60 p-values a sound hash has 4 below
0.001, 7 below 0.01 or 13 below 0.05 with a probability below 1e-5.
"""

import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from experiments import kernel

Column = NDArray[np.int64]
IDS = [str(i) for i in range(50_000)]
SALTS = [f"exp-{i:03d}" for i in range(1, 61)]


class Draws(NamedTuple):
    """Gate and split of every id, one row for each salt."""

    gate: Column
    split: Column


def of_kernel() -> Draws:
    columns = [kernel.bucket_column(salt, IDS) for salt in SALTS]
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
    """60 p-values of true null hypotheses: not too many small ones, and not too good to be true either."""
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
    "arms even at 50 % coverage": lambda draws: assert_arms_even_within_the_enrolled(draws, 5_000),
}


@pytest.fixture(scope="module")
def kernel_draws() -> Draws:
    return of_kernel()


@pytest.mark.parametrize("check", CHECKS)
def test_the_kernel_passes(check: str, kernel_draws: Draws) -> None:
    CHECKS[check](kernel_draws)


def failed_checks(draws: Draws, enough: int) -> list[str]:
    failed: list[str] = []
    for name, check in CHECKS.items():
        if len(failed) == enough:
            break
        try:
            check(draws)
        except (AssertionError, ValueError):  # a table with an empty column cannot be tested at all
            failed.append(name)
    return failed


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_known_bad_hash_is_refused(mutant: str) -> None:
    """The suite turns red for each, and not by one lucky check."""
    failed = failed_checks(of_one_number(MUTANTS[mutant]), enough=2)
    assert len(failed) >= 2, f"{mutant} fails only {failed}"


def test_one_draw_for_both_gate_and_split_is_refused(kernel_draws: Draws) -> None:
    """With the sound hash but a single draw, everyone in a 50 % ramp would be in the first arm."""
    failed = failed_checks(Draws(kernel_draws.gate, kernel_draws.gate), enough=len(CHECKS))
    assert {"gate independent of split, 10x10", "arms even at 50 % coverage"} <= set(failed)
