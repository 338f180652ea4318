"""Certificates by `openssl`, and a broker with users, rights and TLS, for the security tests."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ResourcePattern,
    ResourceType,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from sagelift.stack.kafka import KafkaBroker
from sagelift.stack.ports import LOOPBACK, pick_ports
from streaming.kafka.connection import Connection

PASSWORD = "correct-horse"
"""Password of every user and of the encrypted key; no message may contain it."""
WRONG = "battery-staple"


class Authority:
    """Signs certificates. `folder` holds `ca.pem`, and `<name>.pem` and `<name>.key` for each name."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        folder.mkdir()
        self._openssl(
            "req", "-x509", *_NEW_KEY, "-nodes", "-subj", f"/CN={name}", "-keyout", "ca.key", "-out", "ca.pem"
        )

    def sign(self, name: str, alternative_names: str) -> None:
        """Make a key and a certificate."""
        subject = ("-subj", f"/CN={name}", "-addext", f"subjectAltName={alternative_names}")
        self._openssl("req", *_NEW_KEY, "-nodes", *subject, "-keyout", f"{name}.key", "-out", f"{name}.csr")
        signed_by = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-copy_extensions", "copy")
        self._openssl("x509", "-req", "-in", f"{name}.csr", *signed_by, "-out", f"{name}.pem")

    def lock(self, name: str) -> None:
        """Make `<name>.locked.key`: the key encrypted with the password."""
        arguments = ("-in", f"{name}.key", "-out", f"{name}.locked.key", "-passout", f"pass:{PASSWORD}")
        self._openssl("pkcs8", "-topk8", *arguments)

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def _openssl(self, *arguments: str) -> None:
        assert shutil.which("openssl"), "these tests make certificates with the `openssl` command: install it"
        done = subprocess.run(["openssl", *arguments], cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


class SecureBroker(KafkaBroker):
    """A broker with ACLs and more listeners: SASL_SSL, SASL_PLAINTEXT and mutual TLS.

    Users of the usual listener may do everything.
    """

    def __init__(self, folder: Path, cache: Path, certificates: Authority) -> None:
        super().__init__(folder, cache)
        self._certificates = certificates
        self.sasl_ssl, self.sasl_plaintext, self.mutual_tls = (f"localhost:{port}" for port in pick_ports(3))

    def settings(self, port: int, controller_port: int, data: Path) -> dict[str, object]:
        ours = {"SASL_SSL": self.sasl_ssl, "SASL_PLAINTEXT": self.sasl_plaintext, "MUTUAL": self.mutual_tls}
        usual = super().settings(port, controller_port, data)
        settings = {
            **usual,
            "listeners": ",".join(
                [str(usual["listeners"]), *(f"{n}://{LOOPBACK}:{a.split(':')[1]}" for n, a in ours.items())]
            ),
            "advertised.listeners": ",".join(
                [str(usual["advertised.listeners"]), *(f"{n}://{a}" for n, a in ours.items())]
            ),
            "listener.security.protocol.map": f"{usual['listener.security.protocol.map']},SASL_SSL:SASL_SSL,"
            "SASL_PLAINTEXT:SASL_PLAINTEXT,MUTUAL:SSL",
            "inter.broker.listener.name": "PLAINTEXT",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": self._certificates / "broker.both.pem",
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": self._certificates / "ca.pem",
            "listener.name.mutual.ssl.client.auth": "required",
            "sasl.enabled.mechanisms": "SCRAM-SHA-256,SCRAM-SHA-512,PLAIN",
        }
        modules = "org.apache.kafka.common.security"
        for listener in ("sasl_ssl", "sasl_plaintext"):
            for mechanism in ("scram-sha-256", "scram-sha-512"):
                settings[f"listener.name.{listener}.{mechanism}.sasl.jaas.config"] = (
                    f"{modules}.scram.ScramLoginModule required;"
                )
            settings[f"listener.name.{listener}.plain.sasl.jaas.config"] = (
                f'{modules}.plain.PlainLoginModule required user_api-key="{PASSWORD}";'
            )
        return settings

    def let_in(self, rights: Mapping[str, Sequence[tuple[ResourceType, str, ACLOperation]]]) -> None:
        """Create SCRAM users with their rights."""
        with closing(Connection(self.bootstrap).admin()) as admin:
            for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
                users = [UserScramCredentialUpsertion(user, mechanism, PASSWORD, iterations=4096) for user in rights]
                assert admin.alter_user_scram_credentials(users) == dict.fromkeys(rights)
            acls = [
                ACL(f"User:{user}", "*", operation, ACLPermissionType.ALLOW, ResourcePattern(kind, name))
                for user, allowed in rights.items()
                for kind, name, operation in allowed
            ]
            assert not admin.create_acls(acls)["failed"]


def documented_rights() -> dict[str, list[tuple[ResourceType, str, ACLOperation]]]:
    """Return the rights of each role from the table in docs/operators/security.md."""
    kinds = {
        "topic": ResourceType.TOPIC,
        "group": ResourceType.GROUP,
        "transactional id": ResourceType.TRANSACTIONAL_ID,
    }
    names = {
        "Read": ACLOperation.READ,
        "Write": ACLOperation.WRITE,
        "Describe": ACLOperation.DESCRIBE,
        "DescribeConfigs": ACLOperation.DESCRIBE_CONFIGS,
    }
    page = (Path(__file__).parents[2] / "docs" / "operators" / "security.md").read_text()
    table = page.partition("| who | on | names | operations |")[2].partition("\n\n")[0]
    rights: dict[str, list[tuple[ResourceType, str, ACLOperation]]] = {}
    for line in table.splitlines()[2:]:
        who, kind, resources, operations = (cell.strip() for cell in line.strip("|").split("|"))
        for resource in resources.split(", "):
            for operation in operations.split(", "):
                rights.setdefault(who, []).append((kinds[kind], resource.strip("`"), names[operation]))
    return rights
