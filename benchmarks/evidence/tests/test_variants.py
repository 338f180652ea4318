"""Wrong configurations are refused, and every variant has a name on the card."""

import pytest

from benchmarks.evidence.directions import DIRECTIONS
from benchmarks.evidence.variants import CEILING, NAMES, SUM, VARIANTS, EvidenceConfig
from inference.errors import InputError


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"variants": ("half",)}, "there is no variant 'half'"),
        ({"steps": 0}, r"steps \(0\) must be at least 1"),
        ({"seeds": (1,)}, r"seeds \(1\) must be at least two"),
    ],
)
def test_a_wrong_configuration_is_named(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EvidenceConfig(**wrong)  # type: ignore[arg-type]


def test_every_variant_has_a_name() -> None:
    assert set(NAMES) == {CEILING, SUM, *VARIANTS}
    assert {d.better for d in DIRECTIONS} | {d.worse for d in DIRECTIONS} | {CEILING} == set(NAMES)
