"""All settings, typed, in one place: from environment variables, otherwise from a file, otherwise the defaults below.

An environment variable is `SAGELIFT_` and the setting's path joined by `__`: `SAGELIFT_KAFKA__BOOTSTRAP_SERVERS`.
The file is `sagelift.toml` in the working directory, or the file that `SAGELIFT_FILE` names.
`sagelift.settings_reference` prints the reference of all settings.
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

# An empty variable means no path. Without the validator it would mean the working directory.
_OptionalPath = Annotated[
    Path | None,
    BeforeValidator(lambda value: None if value == "" else value),
    AfterValidator(lambda path: path and path.expanduser()),
]


class _Section(BaseModel):
    """A group of settings. Unknown settings are refused, and values cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def _given(self, *names: str) -> list[str]:
        """Names of the settings among `names` that are not empty."""
        values = {name: getattr(self, name) for name in names if name}
        return [n for n, v in values.items() if (v.get_secret_value() if isinstance(v, SecretStr) else v)]

    def _check_files(self, ca: str, cert: str = "", key: str = "", password: str = "") -> None:
        """Check the files of a TLS connection now, because a worker would only log the error and try for ever.

        Args:
            ca: Name of the setting with the file of the certificate authorities.
            cert: Name of the setting with our own certificate.
            key: Name of the setting with its key.
            password: Name of the setting with the key's password.
        """
        if self._given(key) and not self._given(cert):
            raise ValueError(f"{key} is set without {cert}, but a key needs its certificate; set both, or neither")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for name in self._given(ca, cert, key):
            path = getattr(self, name)
            try:
                path.read_bytes()
                if name == ca:
                    context.load_verify_locations(path)
            except ssl.SSLError:
                raise ValueError(f"{name} is {path}, which contains no PEM certificate; name a file with one") from None
            except OSError as error:
                raise ValueError(
                    f"{name} is {path}, which cannot be read ({error.strerror}); correct the path"
                ) from None
        if self._given(cert):
            self._check_pair(context, cert, key, password)

    def _check_pair(self, context: ssl.SSLContext, cert: str, key: str, password: str) -> None:
        # The password is a function, because without one OpenSSL would ask at the terminal.
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
            encrypted = f"{password} does not open it" if password else "gRPC cannot open an encrypted key"
            raise ValueError(
                f"{cert} is {cert_path} and its key {key_path}: one of them is not PEM, or the key is encrypted and "
                f"{encrypted}"
            ) from None


class KafkaSettings(_Section):
    """The Kafka cluster."""

    bootstrap_servers: str = Field(
        "", description="Brokers of a Kafka cluster, as host:port,... Empty: the local stack's broker."
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="Protocol of the cluster's listener: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."
    )
    sasl_mechanism: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "", description="With SASL: mechanism, one of PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512."
    )
    username: str = Field("", description="With SASL: user, or API key.")
    password: SecretStr = Field(SecretStr(""), description="With SASL: password, or secret of the API key.")
    ssl_ca_file: _OptionalPath = Field(
        None, description="With SSL: PEM file of the authorities that may sign the brokers. Empty: the system's."
    )
    ssl_cert_file: _OptionalPath = Field(
        None, description="With SSL: PEM file of our own certificate and its chain, for brokers that require one."
    )
    ssl_key_file: _OptionalPath = Field(
        None, description="With SSL: PEM file of the certificate's key. Empty: the key is in the certificate's file."
    )
    ssl_key_password: SecretStr = Field(SecretStr(""), description="With SSL: password of that key.")
    ssl_check_hostname: bool = Field(
        True, description="With SSL: whether a broker's certificate must name the host that was called."
    )
    port: Annotated[int, Field(ge=0, le=65535)] = Field(0, description="Port of the local broker. 0: any free port.")
    replication: PositiveInt = Field(1, description="Replication factor of topics that Sagelift creates.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        protocol = self.security_protocol
        if protocol != "PLAINTEXT" and not self.bootstrap_servers:
            raise ValueError(
                f"security_protocol is {protocol}, but bootstrap_servers is empty: the local stack's broker serves "
                "only this machine and uses PLAINTEXT; name your brokers"
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
            raise ValueError(
                "ssl_key_password is set without ssl_cert_file; name the certificate, or leave the password out"
            )
        return self

    def _refuse(self, given: list[str], protocol: str) -> None:
        if given:
            raise ValueError(
                f"{' and '.join(given)} would have no effect, because security_protocol is {self.security_protocol}; "
                f"set it to {protocol}, or leave these settings out"
            )

    @property
    def client(self) -> dict[str, Any]:
        """The security settings under kafka-python's names. They contain secrets in clear text: never print them."""
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
    """The schema registry."""

    url: str = Field(
        "", description="URL of a schema registry, or several URLs separated by commas. Empty: messages are JSON."
    )
    username: str = Field("", description="For HTTP basic authentication: user, or API key.")
    password: SecretStr = Field(
        SecretStr(""), description="For HTTP basic authentication: password, or secret of the API key."
    )
    ca_file: _OptionalPath = Field(
        None, description="PEM file of the authorities that may sign the registry. Empty: the system's."
    )
    format: Literal["json_schema", "avro", "plain"] = Field(
        "json_schema",
        description="Format in which messages are written: json_schema or avro, in Confluent's wire format, or plain: "
        "JSON as without a registry. Consumers read all three.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = self._given("username", "password", "ca_file")
        if given and not self.url:
            raise ValueError(f"{' and '.join(given)} would have no effect, because url is empty; name the registry")
        for url in self.url.split(",") if self.url else ():
            if (
                not url.strip().startswith(("http://", "https://")) or "@" in url
            ):  # not repeated: it may hold a password
                raise ValueError(
                    "url must begin with http:// or https:// and contain no user; set username and password instead"
                )
        if self._given("password") and not self._given("username"):
            raise ValueError("password is set without username; set both, or neither")
        self._check_files("ca_file")
        return self


class TritonSettings(_Section):
    """The Triton inference server."""

    url: str = Field(
        "", description="Address of a Triton server's gRPC, as host:port. Empty: the local stack's server."
    )
    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        0, description="Port of the local Triton's gRPC. 0: any free port."
    )
    model_repository: _OptionalPath = Field(
        None, description="Model repository shared with Triton. Empty: `models` in the state folder."
    )
    deadline_s: PositiveFloat = Field(10.0, description="Seconds that one inference request may take.")
    tls: bool = Field(False, description="Whether the server's gRPC uses TLS.")
    tls_ca_file: _OptionalPath = Field(
        None, description="With TLS: PEM file of the authorities that may sign the server. Empty: gRPC's own list."
    )
    tls_cert_file: _OptionalPath = Field(
        None, description="With TLS: PEM file of our own certificate, for a server that requires one."
    )
    tls_key_file: _OptionalPath = Field(
        None, description="With TLS: PEM file of the certificate's key, without a password."
    )
    tls_server_name: str = Field(
        "", description="With TLS: name in the server's certificate. Empty: the host of `triton.url`."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = self._given("tls_ca_file", "tls_cert_file", "tls_key_file", "tls_server_name")
        if given and not self.tls:
            raise ValueError(
                f"{' and '.join(given)} would have no effect, because tls is false; set it to true, or leave them out"
            )
        if self.tls and not self.url:
            raise ValueError(
                "tls is true, but url is empty: the local stack's server serves only this machine, without TLS; "
                "name your server"
            )
        self._check_files("tls_ca_file", "tls_cert_file", "tls_key_file")
        if self._given("tls_cert_file") and not self._given("tls_key_file"):
            raise ValueError(f"tls_cert_file is {self.tls_cert_file}, but tls_key_file is empty; set both, or neither")
        return self


class ExperimentSettings(_Section):
    """The experiment database."""

    database_url: SecretStr = Field(
        SecretStr(""), description="SQLAlchemy URL of the experiment database. Empty: SQLite in the state folder."
    )
    token_key: SecretStr = Field(
        SecretStr(""),
        description="Secret from which unit tokens are made, the same in every service: at least 64 hexadecimal "
        "digits. Empty: no tokens.",
    )

    @field_validator("token_key")
    @classmethod
    def _hexadecimal(cls, key: SecretStr) -> SecretStr:
        text = key.get_secret_value()
        if text and (len(text) < 64 or len(text) % 2 or not set(text) <= set(string.hexdigits)):
            raise ValueError(
                "it must be an even number of hexadecimal digits, at least 64; `openssl rand -hex 32` prints such a key"
            )
        return key


class ImageSettings(_Section):
    """Limits of fetched images."""

    timeout_s: PositiveFloat = Field(10.0, description="Seconds that fetching one image may take, including redirects.")
    max_bytes: PositiveInt = Field(10_000_000, description="Largest size of an image file, in bytes.")
    max_pixels: PositiveInt = Field(40_000_000, description="Largest width times height of an image, in pixels.")
    allow_private: bool = Field(False, description="Whether images may come from private and loopback addresses.")
    folders: Annotated[list[Path], NoDecode] = Field(
        [],
        description="Folders, in addition to the state folder, below which image files may be read: a list; in the "
        "variable, `:` separates them. Empty: only the state folder; with the local stack's broker, which only this "
        "machine reaches, any folder.",
    )

    @field_validator("folders", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value


class PoisonSettings(_Section):
    """When a consumer stops because most messages cannot be used."""

    share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="Share of refused messages above which a consumer stops. 1: it never stops."
    )
    least: PositiveInt = Field(200, description="Smallest number of messages from which the share is computed.")
    window_s: PositiveFloat = Field(60.0, description="Seconds over which the share is computed.")


class MetricsSettings(_Section):
    """Where a consumer serves its metrics and its health."""

    host: Annotated[str, Field(min_length=1)] = Field(
        "127.0.0.1", description="Address on which a consumer serves /metrics, /healthz and /readyz."
    )
    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        0,
        description="Port of that address. 0: any free port. The local stack's second consumer takes the next port.",
    )


ENVIRONMENT_PREFIX = "SAGELIFT_"
"""Prefix of the settings' environment variables."""


class Settings(BaseSettings):
    """All settings. The module's docstring says where they come from."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, hide_input_in_errors=True
    )

    state_dir: Path = Field(Path(".sagelift"), description="Folder with all data of a local installation.")
    cache_dir: Path = Field(
        Path("~/.cache/sagelift"),
        description="Folder of downloaded components (Apache Kafka, Triton), shared by all installations.",
    )
    kafka: KafkaSettings = KafkaSettings()
    schema_registry: SchemaRegistrySettings = SchemaRegistrySettings()
    triton: TritonSettings = TritonSettings()
    experiments: ExperimentSettings = ExperimentSettings()
    images: ImageSettings = ImageSettings()
    poison: PoisonSettings = PoisonSettings()
    metrics: MetricsSettings = MetricsSettings()
    log_format: Literal["auto", "text", "json"] = Field(
        "auto", description="Format of the consumers' logs: text, json, or auto: text on a terminal and JSON elsewhere."
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
        """Return the sources in their order: arguments, environment variables, the file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, settings_file())

    def environment(self) -> dict[str, str]:
        """Every setting as environment variables for a child process, with absolute paths.

        Settings at their defaults are included, so that the child does not take them from its own environment or from
        a file. The result contains secrets in clear text: never print it.
        """
        return dict(_variables(self, ENVIRONMENT_PREFIX))

    @property
    def state(self) -> Path:
        """Absolute path of the state folder."""
        return self.state_dir.expanduser().resolve()

    @property
    def cache(self) -> Path:
        """Absolute path of the cache folder."""
        return self.cache_dir.expanduser().resolve()

    @property
    def model_repository(self) -> Path:
        """Absolute path of the model repository."""
        configured = self.triton.model_repository
        return configured.expanduser().resolve() if configured else self.state / "models"

    @property
    def image_folders(self) -> list[Path]:
        """Absolute paths of the folders below which image files may be read.

        A producer of `catalog.updates` names the files that the consumer opens. So if others can reach the broker,
        these folders must contain only images.
        """
        named = [folder.expanduser().resolve() for folder in self.images.folders]
        anywhere = not named and not self.kafka.bootstrap_servers
        return [Path("/")] if anywhere else [*named, self.state]

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the experiment database. It may contain a password."""
        return self.experiments.database_url.get_secret_value() or f"sqlite:///{self.state / 'experiments.db'}"


def settings_file() -> Path:
    """Path of the settings file. It need not exist unless `SAGELIFT_FILE` names it."""
    return Path(os.environ.get("SAGELIFT_FILE") or "sagelift.toml")


def load_settings(**overrides: Any) -> Settings:
    """Read the settings.

    Args:
        overrides: Values of settings that take precedence over all sources.

    Raises:
        SettingsError: A setting is wrong. The message names it, its rule and where settings come from.
    """
    named = os.environ.get("SAGELIFT_FILE")
    if named and not Path(named).is_file():
        raise SettingsError(f"SAGELIFT_FILE names {named}, which does not exist; create it or unset the variable")
    try:
        return Settings(**overrides)
    except ValidationError as error:
        wrong = "; ".join(map(_problem, error.errors()))
        raise SettingsError(
            f"wrong settings: {wrong} (from environment variables SAGELIFT_... or {settings_file()}; "
            "`sagelift settings` lists all settings)"
        ) from None
    except ValueError as error:
        raise SettingsError(f"{settings_file()} is not valid TOML: {error}") from None


def _problem(error: Mapping[str, Any]) -> str:
    """Return the setting with its error, and with its value unless that may be a secret."""
    field: Any = Settings
    for part in error["loc"]:
        fields = field.model_fields if isinstance(field, type) and issubclass(field, BaseModel) else {}
        field = fields[part].annotation if part in fields else None
    is_public = field in (bool, int, float) or get_origin(field) is Literal  # a number or a choice is no secret
    value = f" (is {error['input']!r})" if is_public else ""
    return f"{'.'.join(map(str, error['loc']))}: {error['msg'].removeprefix('Value error, ')}{value}"


def _variables(section: BaseModel, prefix: str) -> Iterator[tuple[str, str]]:
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _variables(value, f"{prefix}{name.upper()}__")
        else:
            yield prefix + name.upper(), _text(value)


def _text(value: Any) -> str:
    """A setting's value as text for an environment variable."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Path):
        return str(value.expanduser().absolute())
    if isinstance(value, list):
        return os.pathsep.join(map(_text, value))
    return "" if value is None else str(value)
