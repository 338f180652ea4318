"""All settings, typed, in one place: from environment variables, else from a file, else the defaults below.

An environment variable is `SAGELIFT_` and the setting's path joined by `__`: `SAGELIFT_KAFKA__BOOTSTRAP_SERVERS`.
The file is `sagelift.toml` in the working directory, or what `SAGELIFT_FILE` names. `sagelift settings` prints the
table that `docs/settings.md` holds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from sagelift.errors import SettingsError


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KafkaSettings(_Section):
    bootstrap_servers: str = Field("", description="host:port,... of a Kafka cluster; empty: the local stack's broker")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(0, description="port of the local broker; 0: any free one")
    replication: PositiveInt = Field(1, description="replication factor of topics that Sagelift creates")


class TritonSettings(_Section):
    url: str = Field("", description="host:port of a Triton server's gRPC; empty: the local stack's server")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(0, description="gRPC port of the local Triton; 0: any free one")
    model_repository: Path | None = Field(
        None, description="model repository shared with Triton; empty: `models` in the state folder"
    )
    deadline_s: PositiveFloat = Field(10.0, description="seconds that one inference request may take")


class ExperimentSettings(_Section):
    database_url: SecretStr = Field(
        SecretStr(""), description="SQLAlchemy URL of the experiment database; empty: SQLite in the state folder"
    )


class ImageSettings(_Section):
    timeout_s: PositiveFloat = Field(10.0, description="seconds that fetching one image may take, redirects included")
    max_bytes: PositiveInt = Field(10_000_000, description="largest image file")
    max_pixels: PositiveInt = Field(40_000_000, description="largest width times height")
    allow_private: bool = Field(False, description="whether images may come from private and loopback addresses")
    folders: Annotated[list[Path], NoDecode] = Field(
        [],
        description="image files are read only below these folders (a list; in the variable with `:` between) and the "
        "state folder; empty: below the state folder, or anywhere when the broker is the local stack's, which only "
        "this machine reaches",
    )

    @field_validator("folders", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value


class Settings(BaseSettings):
    """The settings; see the module's docstring for where they come from."""

    model_config = SettingsConfigDict(
        env_prefix="SAGELIFT_", env_nested_delimiter="__", extra="forbid", frozen=True, hide_input_in_errors=True
    )

    state_dir: Path = Field(Path(".sagelift"), description="folder of everything that a local installation keeps")
    cache_dir: Path = Field(
        Path("~/.cache/sagelift"), description="folder of downloaded components (Apache Kafka, Triton), shared by all"
    )
    kafka: KafkaSettings = KafkaSettings()
    triton: TritonSettings = TritonSettings()
    experiments: ExperimentSettings = ExperimentSettings()
    images: ImageSettings = ImageSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, settings_file())

    @property
    def state(self) -> Path:
        """The state folder, absolute."""
        return self.state_dir.expanduser().resolve()

    @property
    def cache(self) -> Path:
        """The cache folder, absolute."""
        return self.cache_dir.expanduser().resolve()

    @property
    def model_repository(self) -> Path:
        """The model repository, absolute."""
        configured = self.triton.model_repository
        return configured.expanduser().resolve() if configured else self.state / "models"

    @property
    def image_folders(self) -> list[Path]:
        """The folders below which image files may be read, absolute.

        Whoever can write to `catalog.updates` names the files that the consumer opens: on a broker that others reach
        these must be folders of images.
        """
        named = [folder.expanduser().resolve() for folder in self.images.folders]
        anywhere = not named and not self.kafka.bootstrap_servers
        return [Path("/")] if anywhere else [*named, self.state]

    @property
    def database_url(self) -> str:
        """The experiment database's SQLAlchemy URL."""
        return self.experiments.database_url.get_secret_value() or f"sqlite:///{self.state / 'experiments.db'}"


def settings_file() -> Path:
    """The settings file in effect; it need not exist unless `SAGELIFT_FILE` names it."""
    return Path(os.environ.get("SAGELIFT_FILE") or "sagelift.toml")


def load_settings(**overrides: Any) -> Settings:
    """Read the settings.

    Raises:
        SettingsError: names each wrong setting, its rule and where settings come from.
    """
    named = os.environ.get("SAGELIFT_FILE")
    if named and not Path(named).is_file():
        raise SettingsError(f"SAGELIFT_FILE names {named}, which is not there; create it or unset the variable")
    try:
        return Settings(**overrides)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
        raise SettingsError(
            f"wrong settings: {wrong} (from environment variables SAGELIFT_... or {settings_file()}; "
            "`sagelift settings` lists all)"
        ) from None
    except ValueError as error:
        raise SettingsError(f"{settings_file()} is not valid TOML: {error}") from None


class SettingRow(BaseModel):
    """One row of the table of settings."""

    name: str
    variable: str
    default: str
    description: str


def rows(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[SettingRow]:
    """All settings in order, sections flattened."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from rows(kind, f"{prefix}{name}.")
            continue
        default = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
        path = prefix + name
        yield SettingRow(
            name=path,
            variable="SAGELIFT_" + path.upper().replace(".", "__"),
            default="" if default in (None, []) else str(default),
            description=field.description or "",
        )


def table() -> str:
    """`docs/settings.md`: all settings as a Markdown page."""
    lines = [
        "# Settings",
        "",
        "From environment variables, else from `sagelift.toml` in the working directory (or the file that",
        "`SAGELIFT_FILE` names), else these defaults. In the file, the part before the dot is a table:",
        "",
        "```toml",
        'state_dir = "/var/lib/sagelift"',
        "",
        "[kafka]",
        'bootstrap_servers = "broker-1:9092,broker-2:9092"',
        "```",
        "",
        "This page is printed by `sagelift settings --markdown`.",
        "",
        "| setting | environment variable | default | meaning |",
        "|---|---|---|---|",
    ]
    for row in rows():
        default = f"`{row.default}`" if row.default else "empty"
        lines.append(f"| `{row.name}` | `{row.variable}` | {default} | {row.description} |")
    return "\n".join(lines) + "\n"
