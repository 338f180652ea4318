"""The conformance vectors of docs/reference/assignment-spec.md: the format of their file, and its reader.

`assignment_vectors.json` has draws (salt and unit -> gate and split, or why the unit is invalid) and assignments
(experiments, a time, and units with attributes -> arm and reason). Other code than this generated it once. An
implementation that disagrees with it is wrong, or needs another `hash_version`.
"""

import json
from pathlib import Path
from typing import Any, Final

import msgspec

from experiments.config import PublishedExperiment
from experiments.errors import ConfigError
from experiments.kernel import HashVersion

FILE: Final = Path(__file__).parent / "assignment_vectors.json"
"""The file that is part of this package."""

_FORMAT: Final = 2


class DrawVector(msgspec.Struct, frozen=True):
    """The draws of a salt and a unit.

    Attributes:
        salt: The salt.
        unit: The unit id.
        reason: Why the unit is not enrolled although it has draws; None when it can be enrolled.
        gate: The gate bucket.
        split: The split bucket.
        hash_version: The kernel.
    """

    salt: str
    unit: str
    reason: str | None
    gate: int
    split: int
    hash_version: HashVersion = "sha256"


class NoDraw(msgspec.Struct, frozen=True):
    """A unit that has no draws, since it has no bytes."""

    unit: str | None
    reason: str


class ExpectedAssignment(msgspec.Struct, frozen=True):
    """The arm and the reason that one unit must get."""

    experiment: str
    unit: Any
    arm: str | None
    reason: str
    attributes: dict[str, Any] | None = None


class Case(msgspec.Struct, frozen=True):
    """Experiments that are served together, and the assignments of units at a time.

    Attributes:
        name: Name of the case.
        at: The time in microseconds UTC.
        published: The experiments.
        assignments: What each unit must get; `decisions` in the file.
    """

    name: str
    at: int
    published: tuple[PublishedExperiment, ...]
    assignments: tuple[ExpectedAssignment, ...] = msgspec.field(name="decisions")


class Vectors(msgspec.Struct, frozen=True):
    """The content of the file."""

    format: int
    draws: tuple[DrawVector, ...]
    no_draws: tuple[NoDraw, ...]
    cases: tuple[Case, ...]


def load(path: Path = FILE) -> Vectors:
    """Read the vectors.

    Raises:
        ConfigError: The file cannot be read, or has another format.
    """
    try:
        # Not msgspec's decoder: some units are escaped lone surrogates, which it refuses.
        vectors = msgspec.convert(json.loads(path.read_text("ascii")), Vectors)
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: cannot be read as assignment vectors: {error}.") from error
    if vectors.format != _FORMAT:
        raise ConfigError(f"{path} has format {vectors.format}, this program reads {_FORMAT}: use the file beside it.")
    return vectors
