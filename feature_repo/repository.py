"""The folder of a Feast store: its `feature_store.yaml`, and what is registered in it.

`<home>/feature_store.yaml` is the packaged profile with its paths filled in, `<home>/repo.py` makes `feast apply` in
that folder register what Sagelift registers (without it, `feast apply` would delete every view: it finds no code).
`<home>/online_store.yaml`, where someone has put one there, names another online store than SQLite.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from feature_repo.errors import StoreStateError

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
    """Held while definitions are applied: Feast itself locks nothing. Freed by the system if the owner dies."""
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


def is_applied(feast_store: Any, project: str, fingerprint: str) -> bool:
    """Whether the registry was last applied with these very definitions."""
    from feast.errors import ProjectObjectNotFoundException

    try:
        tags = feast_store.registry.get_project(project, allow_cache=False).tags
    except ProjectObjectNotFoundException:
        return False
    return bool(tags.get("definitions") == fingerprint)


def _write_if_changed(path: Path, text: str) -> None:
    if path.exists() and path.read_text() == text:
        return
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text)
    aside.replace(path)
