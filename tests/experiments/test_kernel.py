"""The kernel's own claims beyond the vector file."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import kernel
from experiments.assignment import Reason


def test_the_delimiter_keeps_salt_and_unit_apart() -> None:
    """Concatenated without a delimiter, these two would be the same bytes (K2)."""
    assert kernel.prefix("exp1") + b"0" != kernel.prefix("exp") + b"10"
    assert kernel.buckets("exp1", "0") != kernel.buckets("exp", "10")


@given(st.binary(min_size=32, max_size=32))
def test_gate_and_split_are_the_hex_digits_of_the_specification(digest: bytes) -> None:
    assert kernel.gate_bucket(digest) == int(digest.hex()[:15], 16) % 10_000
    assert kernel.split_bucket(digest) == int(digest.hex()[15:30], 16) % 10_000


@pytest.mark.parametrize("unit", [1, 1.5, True, b"u", ["u"], object(), np.int64(3), np.array(["", "u"]), float("nan")])
def test_a_unit_must_be_text(unit: object) -> None:
    assert kernel.unit_bytes(unit) is Reason.UNIT_NOT_TEXT
    assert kernel.bucket_column("s", [unit]).gate.tolist() == [-1]


@given(st.lists(st.one_of(st.none(), st.integers(), st.text(), st.sampled_from(["\ud800", "a\0", "x" * 1025]))))
def test_a_column_agrees_with_the_scalar_kernel_for_any_ids(units: list[object]) -> None:
    column = kernel.bucket_column("salt-1", units)
    for unit, gate, split in zip(units, column.gate.tolist(), column.split.tolist(), strict=True):
        encoded = kernel.unit_bytes(unit)
        expected = (-1, -1) if isinstance(encoded, Reason) else kernel.buckets("salt-1", encoded.decode())
        assert (gate, split) == expected


def test_a_column_longer_than_a_chunk_keeps_its_order() -> None:
    units: list[object] = [str(i) for i in range(70_000)]
    units[66_000] = None
    column = kernel.bucket_column("s", units)
    assert column.gate[66_000] == -1
    for i in (0, 65_535, 65_536, 69_999):
        assert (column.gate[i], column.split[i]) == kernel.buckets("s", str(i))


def test_arrow_and_numpy_columns_are_taken_as_they_are() -> None:
    pyarrow = pytest.importorskip("pyarrow")
    units = ["a", "é", "user-3"]
    expected = kernel.bucket_column("s", units)
    for column in (pyarrow.array(units), np.array(units), np.array(units, dtype=object)):
        assert kernel.bucket_column("s", column).gate.tolist() == expected.gate.tolist()


def test_the_hash_is_injected() -> None:
    seen: list[bytes] = []

    def spy(data: bytes) -> kernel.Hash:
        seen.append(data)
        return hashlib.sha256(data)

    kernel.bucket_column("s", ["u"], hash_function=spy)
    assert seen == [b"s\x1fu"]


@given(st.binary(min_size=16, max_size=32))
def test_the_prepared_draw_is_the_one_of_the_specification(digest: bytes) -> None:
    class Stated:
        def digest(self) -> bytes:
            return digest

    assert kernel.sha256_draw(lambda data: Stated())(b"") == (kernel.gate_bucket(digest), kernel.split_bucket(digest))


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text("abc-0189", min_size=1, max_size=20))
def test_gb2_is_the_hash_of_growthbook_for_any_text(unit: str, salt: str) -> None:
    core = pytest.importorskip("growthbook.core")
    expected = round(core.gbhash(salt, unit, 2) * 10_000)
    assert kernel.buckets(salt, unit, "gb2") == (expected, expected)


@given(st.lists(st.one_of(st.none(), st.text(), st.text("a\U0001f600", max_size=40)), max_size=30))
def test_a_column_of_gb2_agrees_with_the_scalar_kernel_for_any_ids(units: list[object]) -> None:
    column = kernel.bucket_column("salt-1", units, "gb2")
    for unit, gate in zip(units, column.gate.tolist(), strict=True):
        encoded = kernel.unit_bytes(unit)
        expected = -1 if isinstance(encoded, Reason) else kernel.buckets("salt-1", encoded.decode(), "gb2").gate
        assert gate == expected
