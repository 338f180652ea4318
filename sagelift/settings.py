"""All settings, typed, in one place: from environment variables, else from a file, else the defaults below.

An environment variable is `SAGELIFT_` and the setting's path joined by `__`: `SAGELIFT_KAFKA__BOOTSTRAP_SERVERS`.
The file is `sagelift.toml` in the working directory, or what `SAGELIFT_FILE` names. `sagelift settings` prints the
table that `docs/settings.md` holds.
"""

from __future__ import annotations

import os
import ssl
import string
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from sagelift.errors import SettingsError

# An empty variable is no path, and not the working directory either.
_OptionalPath = Annotated[
    Path | None,
    BeforeValidator(lambda value: None if value == "" else value),
    AfterValidator(lambda path: path and path.expanduser()),
]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def _given(self, *names: str) -> list[str]:
        """Those of the settings that are not empty."""
        values = {name: getattr(self, name) for name in names if name}
        return [n for n, v in values.items() if (v.get_secret_value() if isinstance(v, SecretStr) else v)]

    def _check_files(self, ca: str, cert: str = "", key: str = "", password: str = "") -> None:
        """That the files are what a TLS connection needs: found now, not in the log of a worker that tries for ever."""
        if self._given(key) and not self._given(cert):
            raise ValueError(f"{key} is set without {cert}: a key proves nothing alone; name both, or neither")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for name in self._given(ca, cert, key):
            path = getattr(self, name)
            try:
                path.read_bytes()
                if name == ca:
                    context.load_verify_locations(path)
            except ssl.SSLError:
                raise ValueError(
                    f"{name} is {path}, which holds no certificate in PEM; name a file that does"
                ) from None
            except OSError as error:
                raise ValueError(f"{name} is {path}, which cannot be read ({error.strerror}); mend the path") from None
        if self._given(cert):
            self._check_pair(context, cert, key, password)

    def _check_pair(self, context: ssl.SSLContext, cert: str, key: str, password: str) -> None:
        # A function, because without a password OpenSSL would ask for one at the terminal.
        secret = getattr(self, password).get_secret_value() if password else ""
        cert_path = getattr(self, cert)
        key_path = getattr(self, key) or cert_path
        try:
            context.load_cert_chain(cert_path, key_path, lambda: secret)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise ValueError(
                    f"{key} is {key_path}, which is not the key of {cert}, {cert_path}; name a pair"
                ) from None
            opens = f"{password} does not open it" if password else "it has a password, which gRPC cannot open"
            raise ValueError(
                f"{cert} is {cert_path} and its key {key_path}: one of them is not in PEM, or the key is encrypted and "
                f"{opens}"
            ) from None


class KafkaSettings(_Section):
    bootstrap_servers: str = Field("", description="host:port,... of a Kafka cluster; empty: the local stack's broker")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="of the cluster's listener: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"
    )
    sasl_mechanism: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "", description="with SASL: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"
    )
    username: str = Field("", description="with SASL: the user, or the key of an API")
    password: SecretStr = Field(SecretStr(""), description="with SASL: its password, or the secret of an API")
    ssl_ca_file: _OptionalPath = Field(
        None, description="with SSL: PEM file of the authorities that may sign the brokers; empty: the system's"
    )
    ssl_cert_file: _OptionalPath = Field(
        None, description="with SSL: PEM file of our own certificate and its chain, for brokers that ask for one"
    )
    ssl_key_file: _OptionalPath = Field(
        None, description="with SSL: PEM file of its key; empty: the key is in the certificate's file"
    )
    ssl_key_password: SecretStr = Field(SecretStr(""), description="with SSL: the password of that key")
    ssl_check_hostname: bool = Field(
        True, description="with SSL: whether a broker's certificate must name the host that was called"
    )
    port: Annotated[int, Field(ge=0, le=65535)] = Field(0, description="port of the local broker; 0: any free one")
    replication: PositiveInt = Field(1, description="replication factor of topics that Sagelift creates")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        protocol = self.security_protocol
        if protocol != "PLAINTEXT" and not self.bootstrap_servers:
            raise ValueError(
                f"security_protocol is {protocol}, but bootstrap_servers is empty: the local stack's broker serves "
                "this machine only and speaks PLAINTEXT; name your brokers"
            )
        sasl = ("sasl_mechanism", "username", "password")
        if not protocol.startswith("SASL"):
            self._refuse(self._given(*sasl), "SASL_SSL")
        elif missing := [name for name in sasl if not self._given(name)]:
            raise ValueError(f"security_protocol is {protocol}, which needs {' and '.join(missing)}: set them")
        if not protocol.endswith("SSL"):
            files = self._given("ssl_ca_file", "ssl_cert_file", "ssl_key_file", "ssl_key_password")
            self._refuse(files, "SASL_SSL" if protocol.startswith("SASL") else "SSL")
        self._check_files("ssl_ca_file", "ssl_cert_file", "ssl_key_file", "ssl_key_password")
        if self._given("ssl_key_password") and not self._given("ssl_cert_file"):
            raise ValueError("ssl_key_password is set without ssl_cert_file: name the certificate, or leave it out")
        return self

    def _refuse(self, given: list[str], protocol: str) -> None:
        if given:
            raise ValueError(
                f"{' and '.join(given)} would not be used: security_protocol is {self.security_protocol}; set it to "
                f"{protocol}, or leave the rest out"
            )

    @property
    def client(self) -> dict[str, Any]:
        """The security settings as kafka-python calls them. Secrets in clear: never print it."""
        if self.security_protocol == "PLAINTEXT":
            return {}
        settings = {
            "security_protocol": self.security_protocol,
            "sasl_mechanism": self.sasl_mechanism or None,
            "sasl_plain_username": self.username or None,
            "sasl_plain_password": self.password.get_secret_value() or None,
            "ssl_cafile": _text(self.ssl_ca_file) or None,
            "ssl_certfile": _text(self.ssl_cert_file) or None,
            "ssl_keyfile": _text(self.ssl_key_file) or None,
            "ssl_password": self.ssl_key_password.get_secret_value() or None,
            "ssl_check_hostname": self.ssl_check_hostname if self.security_protocol.endswith("SSL") else None,
        }
        return {name: value for name, value in settings.items() if value is not None}


class SchemaRegistrySettings(_Section):
    url: str = Field(
        "", description="http(s) address of a schema registry, or several with commas between; empty: messages are JSON"
    )
    username: str = Field("", description="for HTTP basic authentication: the user, or the key of an API")
    password: SecretStr = Field(SecretStr(""), description="its password, or the secret of an API")
    ca_file: _OptionalPath = Field(
        None, description="PEM file of the authorities that may sign the registry; empty: the system's"
    )
    format: Literal["json_schema", "avro", "plain"] = Field(
        "json_schema",
        description="how messages are written: json_schema or avro, in Confluent's wire format, or plain: JSON as "
        "without a registry. All three are read",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = self._given("username", "password", "ca_file")
        if given and not self.url:
            raise ValueError(f"{' and '.join(given)} would not be used: url is empty; name the registry")
        for url in self.url.split(",") if self.url else ():
            if (
                not url.strip().startswith(("http://", "https://")) or "@" in url
            ):  # not repeated: it may hold a password
                raise ValueError(
                    "url must begin with http:// or https://, and bear no user: that is username and password"
                )
        if self._given("password") and not self._given("username"):
            raise ValueError("password is set without username: name both, or neither")
        self._check_files("ca_file")
        return self


class TritonSettings(_Section):
    url: str = Field("", description="host:port of a Triton server's gRPC; empty: the local stack's server")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(0, description="gRPC port of the local Triton; 0: any free one")
    model_repository: _OptionalPath = Field(
        None, description="model repository shared with Triton; empty: `models` in the state folder"
    )
    deadline_s: PositiveFloat = Field(10.0, description="seconds that one inference request may take")
    tls: bool = Field(False, description="whether that server's gRPC speaks TLS")
    tls_ca_file: _OptionalPath = Field(
        None, description="with TLS: PEM file of the authorities that may sign the server; empty: gRPC's own list"
    )
    tls_cert_file: _OptionalPath = Field(
        None, description="with TLS: PEM file of our own certificate, for a server that asks for one"
    )
    tls_key_file: _OptionalPath = Field(None, description="with TLS: PEM file of its key, without a password")
    tls_server_name: str = Field(
        "", description="with TLS: the name that the server's certificate bears; empty: the host of `triton.url`"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = self._given("tls_ca_file", "tls_cert_file", "tls_key_file", "tls_server_name")
        if given and not self.tls:
            raise ValueError(
                f"{' and '.join(given)} would not be used: tls is false; set it to true, or leave them out"
            )
        if self.tls and not self.url:
            raise ValueError(
                "tls is true, but url is empty: the local stack's server serves this machine only and speaks no TLS; "
                "name your server"
            )
        self._check_files("tls_ca_file", "tls_cert_file", "tls_key_file")
        if self._given("tls_cert_file") and not self._given("tls_key_file"):
            raise ValueError(f"tls_cert_file is {self.tls_cert_file}, but tls_key_file is empty: name both, or neither")
        return self


class ExperimentSettings(_Section):
    database_url: SecretStr = Field(
        SecretStr(""), description="SQLAlchemy URL of the experiment database; empty: SQLite in the state folder"
    )
    token_key: SecretStr = Field(
        SecretStr(""),
        description="secret from which unit tokens are made, the same in every service: 64 hexadecimal digits or more; "
        "empty: no tokens",
    )

    @field_validator("token_key")
    @classmethod
    def _hexadecimal(cls, key: SecretStr) -> SecretStr:
        text = key.get_secret_value()
        if text and (len(text) < 64 or len(text) % 2 or not set(text) <= set(string.hexdigits)):
            raise ValueError(
                "it must be 64 hexadecimal digits or more, an even number; `openssl rand -hex 32` makes some"
            )
        return key


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


class PoisonSettings(_Section):
    share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="share of refused messages above which a consumer stops; 1: it never does"
    )
    least: PositiveInt = Field(200, description="of at least so many messages")
    window_s: PositiveFloat = Field(60.0, description="read within so many seconds")


class MetricsSettings(_Section):
    host: Annotated[str, Field(min_length=1)] = Field(
        "127.0.0.1", description="address on which a consumer serves /metrics, /healthz and /readyz"
    )
    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        0, description="its port; 0: any free one. The local stack's second consumer takes the next"
    )


_PREFIX = "SAGELIFT_"


class Settings(BaseSettings):
    """The settings; see the module's docstring for where they come from."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, hide_input_in_errors=True
    )

    state_dir: Path = Field(Path(".sagelift"), description="folder of everything that a local installation keeps")
    cache_dir: Path = Field(
        Path("~/.cache/sagelift"), description="folder of downloaded components (Apache Kafka, Triton), shared by all"
    )
    kafka: KafkaSettings = KafkaSettings()
    schema_registry: SchemaRegistrySettings = SchemaRegistrySettings()
    triton: TritonSettings = TritonSettings()
    experiments: ExperimentSettings = ExperimentSettings()
    images: ImageSettings = ImageSettings()
    poison: PoisonSettings = PoisonSettings()
    metrics: MetricsSettings = MetricsSettings()
    log_format: Literal["auto", "text", "json"] = Field(
        "auto", description="logs of the consumers: text, json, or auto: text on a terminal, JSON elsewhere"
    )

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

    def environment(self) -> dict[str, str]:
        """Every setting, as environment variables for a child process; paths absolute.

        Those that were not made too: the child must not find them in what it inherits, or in a file. Secrets in clear:
        never print it.
        """
        return dict(_variables(self, _PREFIX))

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
        wrong = "; ".join(_told(e) for e in error.errors())
        raise SettingsError(
            f"wrong settings: {wrong} (from environment variables SAGELIFT_... or {settings_file()}; "
            "`sagelift settings` lists all)"
        ) from None
    except ValueError as error:
        raise SettingsError(f"{settings_file()} is not valid TOML: {error}") from None


def _told(error: Mapping[str, Any]) -> str:
    """What is wrong with which setting; its value too where that is no secret."""
    field: Any = Settings
    for part in error["loc"]:
        known = field.model_fields if isinstance(field, type) and issubclass(field, BaseModel) else {}
        field = known[part].annotation if part in known else None
    plain = field in (bool, int, float) or get_origin(field) is Literal  # numbers and choices are no secrets
    value = f" (is {error['input']!r})" if plain else ""
    return f"{'.'.join(map(str, error['loc']))}: {error['msg'].removeprefix('Value error, ')}{value}"


def _variables(section: BaseModel, prefix: str) -> Iterator[tuple[str, str]]:
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _variables(value, f"{prefix}{name.upper()}__")
        else:
            yield prefix + name.upper(), _text(value)


def _text(value: Any) -> str:
    """A setting's value as it stands in an environment variable."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Path):
        return str(value.expanduser().absolute())
    if isinstance(value, list):
        return os.pathsep.join(map(_text, value))
    return "" if value is None else str(value)


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
            variable=_PREFIX + path.upper().replace(".", "__"),
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
