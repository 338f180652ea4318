"""The file of results: one line of JSON for each finished training, so that an interrupted run can resume."""

from __future__ import annotations

from pathlib import Path

import msgspec

from feature_repo.files import write_atomically
from inference.errors import ArtifactError
from inference.training.evaluation import Evaluation


class Trained(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the file: the evaluation of one variant on one seed's log.

    Attributes:
        catalogue: Name of the catalogue.
        digest: Hash of everything that decides the result.
        variant: Name of the variant.
        seed: Seed of the log and the training.
        products: Number of products.
        pairs: Number of distinct pairs (query, product) in the log.
        queries: Number of distinct queries.
        seconds: Duration.
        known_products: Evaluation on held-out pairs of products that were trained on.
        new_products: Evaluation on pairs of products that were in no training, ranked among each other.
    """

    catalogue: str
    digest: str
    variant: str
    seed: int
    products: int
    pairs: int
    queries: int
    seconds: float
    known_products: Evaluation
    new_products: Evaluation


def read_results(path: Path) -> list[Trained]:
    """Read the results of earlier runs; a last line that a crash cut off is ignored.

    Raises:
        ArtifactError: The file cannot be read, or holds something else.
    """
    out: list[Trained] = []
    try:
        lines = path.read_bytes().split(b"\n") if path.exists() else []
        for number, line in enumerate(lines):
            try:
                if line:
                    out.append(msgspec.json.decode(line, type=Trained))
            except msgspec.MsgspecError as error:
                if number < len(lines) - 1:
                    raise ArtifactError(f"{path}, line {number + 1} is no result ({error}); delete the file") from None
    except OSError as error:
        raise ArtifactError(f"the results {path} cannot be read: {error.strerror}") from None
    return out


def append_result(path: Path, trained: Trained) -> None:
    """Append one result; a last line that a crash cut off is removed first.

    Raises:
        ArtifactError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.read_bytes() if path.exists() else b""
        if whole and not whole.endswith(b"\n"):  # a crash cut off the last line
            whole = whole[: whole.rfind(b"\n") + 1]
            write_atomically(path, whole)
        with path.open("ab") as file:
            file.write(msgspec.json.encode(trained) + b"\n")
    except OSError as error:
        raise ArtifactError(f"the results {path} cannot be written: {error.strerror}") from None
