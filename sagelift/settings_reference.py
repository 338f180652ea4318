"""The reference of all settings, read from the settings' own definitions."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, SecretStr

from sagelift.settings import ENVIRONMENT_PREFIX, Settings

_INTRODUCTION = """\
# Settings

A setting comes from its environment variable, otherwise from `sagelift.toml` in the working directory (or from the
file that `SAGELIFT_FILE` names), otherwise from the default below. In the file, the part before the dot is a table:

```toml
state_dir = "/var/lib/sagelift"

[kafka]
bootstrap_servers = "broker-1:9092,broker-2:9092"
```

This page is printed by `sagelift settings --markdown`.

| setting | environment variable | default | meaning |
|---|---|---|---|
"""


class SettingRow(BaseModel):
    """One setting.

    Attributes:
        name: Path of the setting, such as kafka.port.
        variable: Its environment variable.
        default: Its default; empty for none.
        description: Its meaning.
    """

    name: str
    variable: str
    default: str
    description: str


def rows(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[SettingRow]:
    """Yield all settings in their order, sections included.

    Args:
        model: Settings or one of their sections.
        prefix: Path of the section with a dot at its end; empty for the settings themselves.
    """
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from rows(kind, f"{prefix}{name}.")
            continue
        default = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
        path = prefix + name
        yield SettingRow(
            name=path,
            variable=ENVIRONMENT_PREFIX + path.upper().replace(".", "__"),
            default="" if default in (None, []) else str(default),
            description=field.description or "",
        )


def to_markdown() -> str:
    """The settings reference as a Markdown page."""
    return _INTRODUCTION + "".join(map(_markdown_row, rows()))


def _markdown_row(row: SettingRow) -> str:
    default = f"`{row.default}`" if row.default else "empty"
    return f"| `{row.name}` | `{row.variable}` | {default} | {row.description} |\n"
