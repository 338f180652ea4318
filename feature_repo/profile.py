"""The folder of a Feast store: `feature_store.yaml`, `repo.py` and, where a user put one, `online_store.yaml`.

`<home>/feature_store.yaml` is the packaged profile with its paths filled in. `<home>/repo.py` makes `feast apply` in
that folder register what Sagelift registers; without it, `feast apply` would find no code and delete every view.
`<home>/online_store.yaml` names another online store than SQLite.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

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
# Feast, SQLAlchemy, YAML or DuckDB's file patterns give these characters of a path another meaning.
_UNUSABLE: Final = set("$?*[]{}%#\"'\\\n")


def write_repository(state_dir: Path) -> Path:
    """Make `<state_dir>/feast` a folder that `feast -c` can work in, and return its absolute path.

    Raises:
        StoreStateError: The path cannot be used, or the folder cannot be written.
    """
    home = state_dir.absolute() / "feast"
    if bad := _UNUSABLE.intersection(str(home)):
        raise StoreStateError(
            f"The state folder {str(state_dir)!r} has {''.join(sorted(bad))!r} in its path, which Feast would "
            "take for a variable or a pattern: choose another folder."
        )
    profile = (Path(__file__).parent / "feature_store.yaml").read_text()
    _, settings = profile.split("\nproject:", 1)  # the comment above explains the variable
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
    """Return the profile with the online store of the file at `path`, if it exists; Feast fills in `${...}` of it.

    Raises:
        StoreStateError: The file is not a mapping with a `type`.
    """
    if not path.exists():
        return profile
    import yaml

    try:
        online = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StoreStateError(f"{path} is not YAML: {error}.") from error
    if not isinstance(online, dict) or "type" not in online:
        raise StoreStateError(
            f"{path} must hold the settings of an online store with its 'type', such as "
            "'type: feature_repo.stores.postgres.GuardedPostgresOnlineStore' and its 'conninfo'."
        )
    settings = yaml.safe_load(profile)
    settings["online_store"] = online
    return str(yaml.safe_dump(settings, sort_keys=False))


def _write_if_changed(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        write_atomically(path, text)
