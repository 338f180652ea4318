"""The folder of a Feast store: its `feature_store.yaml`, and what is registered in it.

`<home>/feature_store.yaml` is the packaged profile with its paths filled in, `<home>/repo.py` makes `feast apply` in
that folder register what Sagelift registers (without it, `feast apply` would delete every view: it finds no code).
`<home>/online_store.yaml`, where someone has put one there, names another online store than SQLite.
"""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from feature_repo.errors import StoreStateError
from feature_repo.files import write_atomically

ENVIRONMENT_VARIABLE: Final = "SAGELIFT_FEAST"
ONLINE_STORE_FILE: Final = "online_store.yaml"

_REPO = '''"""What `feast apply` registers from this folder. Written by Sagelift."""

from pathlib import Path

from feature_repo.definitions import feast_objects, model_versions_in_history

_home = Path(__file__).resolve().parent
globals().update({f"object_{i}": o for i, o in enumerate(feast_objects(_home, model_versions_in_history(_home)))})
'''
# In a path these would be read as something else by Feast, SQLAlchemy, YAML or DuckDB's file patterns.
_UNUSABLE: Final = set("$?*[]{}%#\"'\\\n")


def write_repository(state_dir: Path) -> Path:
    """Make `<state_dir>/feast` a folder that `feast -c` can work in; the folder's absolute path.

    Raises:
        StoreStateError: the path cannot be used, or the folder cannot be written.
    """
    home = state_dir.absolute() / "feast"
    if bad := _UNUSABLE.intersection(str(home)):
        raise StoreStateError(
            f"The state folder {str(state_dir)!r} has {''.join(sorted(bad))!r} in its path, which Feast would "
            "take for a variable or a pattern: choose another folder."
        )
    profile = (Path(__file__).parent / "feature_store.yaml").read_text()
    _, settings = profile.split("\nproject:", 1)  # the comment above is about the variable
    filled = "project:" + settings.replace("${" + ENVIRONMENT_VARIABLE + "}", str(home))
    try:
        filled = _with_online_store(filled, home / ONLINE_STORE_FILE)
        home.mkdir(parents=True, exist_ok=True)
        _write_if_changed(home / "feature_store.yaml", "# Written by Sagelift.\n" + filled)
        _write_if_changed(home / "repo.py", _REPO)
    except OSError as error:
        raise StoreStateError(f"Cannot write the feature store's folder {home}: {error}.") from error
    return home


def _with_online_store(profile: str, path: Path) -> str:
    """The profile with the online store of the file at `path`, if there is one; `${...}` in it is Feast's to fill in.

    Raises:
        StoreStateError: the file is no mapping with a `type`.
    """
    if not path.exists():
        return profile
    import yaml

    try:
        online = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StoreStateError(f"{path} is no YAML: {error}.") from error
    if not isinstance(online, dict) or "type" not in online:
        raise StoreStateError(
            f"{path} must hold the settings of an online store, 'type' first: such as "
            "'type: feature_repo.stores.postgres.GuardedPostgresOnlineStore' and its 'conninfo'."
        )
    settings = yaml.safe_load(profile)
    settings["online_store"] = online
    return str(yaml.safe_dump(settings, sort_keys=False))


@contextmanager
def apply_lock(home: Path) -> Iterator[None]:
    """Held while the registry is made or applied to: Feast locks nothing. Freed by the system if the owner dies."""
    with _lock(home / "apply.lock"):
        yield


@contextmanager
def compaction_lock(home: Path) -> Iterator[None]:
    """Held while the history is compacted: two at once would merge the same parts twice."""
    with _lock(home / "compact.lock"):
        yield


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def must_apply(feast_store: Any, home: Path, ours: Mapping[str, str], needed: Sequence[Any]) -> bool:
    """Whether this program is to apply its definitions: unless the registry holds these very ones, or newer ones.

    Newer ones are never replaced: programs of two versions may run side by side while a fleet is rolled.

    Args:
        ours: `definitions.project_tags` of this program.
        needed: the views without which it cannot work.

    Raises:
        StoreStateError: the registry cannot be read, or its newer definitions lack something of `needed`.
    """
    from feast.errors import FeatureViewNotFoundException, ProjectObjectNotFoundException

    with readable_registry(home):
        registry = feast_store.registry
        try:
            theirs = registry.get_project(feast_store.project, allow_cache=False).tags
        except ProjectObjectNotFoundException:
            return True
        if theirs.get("definitions") == ours["definitions"]:
            return False
        if _order(theirs) <= _order(ours):
            return True
        for view in needed:
            try:
                there = registry.get_feature_view(view.name, feast_store.project, allow_cache=False)
            except FeatureViewNotFoundException:
                there = None
            types = {field.name: str(field.dtype) for field in there.features} if there else {}
            if lacking := [field.name for field in view.features if types.get(field.name) != str(field.dtype)]:
                raise StoreStateError(
                    f"The feature registry in {home} holds definitions of version {_told(theirs)}, in which "
                    f"{view.name} has no {', '.join(lacking)} as this program of version {_told(ours)} needs it: "
                    "update this program."
                )
    return False


@contextmanager
def readable_registry(home: Path) -> Iterator[None]:
    """Errors of a registry that Feast cannot read as ours."""
    import feast
    from feast.errors import FeastError
    from google.protobuf.message import DecodeError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, FeastError, DecodeError) as error:
        reason = str(error).partition("\n")[0]
        raise StoreStateError(
            f"Feast {feast.__version__} cannot read the registry {home / 'registry.db'} ({reason}): another version "
            "wrote it, or it is damaged. Use that version, or move the file away: it is made anew from the "
            "definitions; features and history are not in it."
        ) from error


def _order(tags: Mapping[str, str]) -> tuple[int, tuple[int, ...]]:
    """Definitions first, then Feast: what is applied by the greater is not replaced by the smaller."""
    version = tags.get("definitions_version", "")
    feast = tuple(int(number) for number in re.findall(r"\d+", tags.get("feast_version", ""))[:3])
    return int(version) if version.isdecimal() else 1, feast


def _told(tags: Mapping[str, str]) -> str:
    return f"{tags.get('definitions_version', '1')} (Feast {tags.get('feast_version', 'unknown')})"


def _write_if_changed(path: Path, text: str) -> None:
    if path.exists() and path.read_text() == text:
        return
    write_atomically(path, text)
