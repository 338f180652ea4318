"""When a program applies its definitions to Feast's registry, and the errors of a registry that it cannot use.

Programs of two versions can run side by side during a rollout: a program applies its definitions over older ones, and
never over newer ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import feast
from feast import FeatureStore, FeatureView
from feast.errors import FeastError, FeatureViewNotFoundException, ProjectObjectNotFoundException
from google.protobuf.message import DecodeError
from sqlalchemy.exc import SQLAlchemyError

from feature_repo.errors import StoreStateError

DefinitionsOrder = tuple[int, tuple[int, ...]]


def must_apply(store: FeatureStore, home: Path, tags: Mapping[str, str], needed: Sequence[FeatureView]) -> bool:
    """Whether this program must apply its definitions: unless the registry holds the same or newer ones.

    Args:
        store: Feast's store.
        home: The store's folder.
        tags: `definitions.project_tags` of this program.
        needed: The views without which this program cannot work.

    Raises:
        StoreStateError: The registry cannot be read, or its newer definitions lack something of `needed`.
    """
    with readable_registry(home):
        try:
            applied = store.registry.get_project(store.project, allow_cache=False).tags
        except ProjectObjectNotFoundException:
            return True
        if applied.get("definitions") == tags["definitions"]:
            return False
        if definitions_order(applied) <= definitions_order(tags):
            return True
        for view in needed:
            if missing := _missing_features(store, view):
                raise StoreStateError(
                    f"The feature registry in {home} holds definitions of version {_version_text(applied)}, in which "
                    f"{view.name} has no {', '.join(missing)} as this program of version {_version_text(tags)} needs "
                    "it: update this program."
                )
    return False


def definitions_order(tags: Mapping[str, str]) -> DefinitionsOrder:
    """Return the order of applied definitions: by their own version, then by Feast's. The greater is never replaced."""
    version = tags.get("definitions_version", "")
    numbers = tuple(int(number) for number in re.findall(r"\d+", tags.get("feast_version", ""))[:3])
    return int(version) if version.isdecimal() else 0, numbers


@contextmanager
def readable_registry(home: Path) -> Iterator[None]:
    """Raise this package's error for a registry that Feast cannot read.

    Raises:
        StoreStateError: The registry is damaged, or another version of Feast wrote it.
    """
    try:
        yield
    except (SQLAlchemyError, FeastError, DecodeError) as error:
        reason = str(error).partition("\n")[0]
        raise StoreStateError(
            f"Feast {feast.__version__} cannot read the registry {home / 'registry.db'} ({reason}): another version "
            "wrote it, or it is damaged. Use that version, or move the file away: Sagelift makes it again from the "
            "definitions. Features and history are not in it."
        ) from error


def _missing_features(store: FeatureStore, view: FeatureView) -> list[str]:
    """Return the features of a view that the registry does not have, or has with another type."""
    try:
        registered = store.registry.get_feature_view(view.name, store.project, allow_cache=False)
    except FeatureViewNotFoundException:
        return [field.name for field in view.features]
    types = {field.name: str(field.dtype) for field in registered.features}
    return [field.name for field in view.features if types.get(field.name) != str(field.dtype)]


def _version_text(tags: Mapping[str, str]) -> str:
    return f"{tags.get('definitions_version', 'unknown')} (Feast {tags.get('feast_version', 'unknown')})"
