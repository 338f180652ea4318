"""The file of conformance vectors is read, is complete, and never loses a vector."""

import hashlib
from pathlib import Path

import msgspec
import pytest

from experiments import assignment_vectors
from experiments.assignment import Reason
from experiments.errors import ConfigError

VECTORS = assignment_vectors.load()


def test_the_vectors_cover_every_reason_that_an_experiment_can_give() -> None:
    given = {expected.reason for case in VECTORS.cases for expected in case.assignments}
    assert given == {reason.value for reason in Reason} - {"unknown_experiment"}


def test_a_file_that_is_no_vector_file_is_a_config_error(tmp_path: Path) -> None:
    path = tmp_path / "conformance.json"
    for text, message in (
        ("[]", "Expected `object`"),
        ("{", "cannot be read"),
        ('{"format": 9, "draws": [], "no_draws": [], "cases": []}', "format 9"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            assignment_vectors.load(path)


def test_published_vectors_never_change() -> None:
    """Vectors may be added but never changed. The first 87 draws are those of the first edition."""
    first = msgspec.json.encode([(d.salt, d.unit, d.gate, d.split) for d in VECTORS.draws[:87]])
    assert len(VECTORS.draws) >= 121
    assert all(draw.hash_version == "sha256" for draw in VECTORS.draws[:87])
    assert hashlib.sha256(first).hexdigest()[:16] == "17510c641ada4f50"
