"""Triton's wheel: what is verified, and how a damaged one is replaced."""

import base64
import hashlib
import sys
from pathlib import Path

import pytest

from sagelift.stack import triton_wheel
from sagelift.stack.errors import DownloadError, MissingComponentError


def silent(_: str) -> None:
    pass


def test_a_triton_that_was_not_downloaded_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingComponentError, match="Triton is not ready in"):
        triton_wheel.triton_home(tmp_path)


def test_a_damaged_triton_is_noticed(tmp_path: Path) -> None:
    """The wheel's own list of hashes is beside its files."""
    home = triton_wheel.triton_folder(tmp_path)
    write_triton(home, b"whole")
    assert triton_wheel.triton_home(tmp_path) == home
    (home / "server").write_bytes(b"wh")
    with pytest.raises(MissingComponentError, match="server missing or altered"):
        triton_wheel.triton_home(tmp_path)


@pytest.fixture
def damaged_triton(tmp_path: Path) -> Path:
    """A cache with a Triton of one file that differs from the wheel's list."""
    write_triton(triton_wheel.triton_folder(tmp_path), b"wh")
    return tmp_path


def write_triton(home: Path, server: bytes) -> None:
    info = home / f"nvidia_pytriton-{triton_wheel.TRITON_VERSION}.dist-info"
    info.mkdir(parents=True)
    (home / "server").write_bytes(server)
    # base64 without padding, as wheels write it: sha256 of b"whole"
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"whole").digest()).decode().rstrip("=")
    (info / "RECORD").write_text(f"server,sha256={digest},5\n{info.name}/RECORD,,\n")


def test_a_damaged_triton_is_replaced(damaged_triton: Path) -> None:
    triton_wheel.fetch_triton(damaged_triton, silent, install=lambda target, _: write_triton(target, b"whole"))
    home = triton_wheel.triton_home(damaged_triton)
    assert (home / "server").read_bytes() == b"whole"
    assert {p.name for p in damaged_triton.iterdir()} == {home.name, f".{home.name}.lock"}


def test_a_damaged_triton_stays_until_a_new_one_is_complete(damaged_triton: Path) -> None:
    def no_network(*_: object) -> None:
        raise DownloadError("no network")

    with pytest.raises(DownloadError, match="no network"):
        triton_wheel.fetch_triton(damaged_triton, silent, install=no_network)
    assert (triton_wheel.triton_folder(damaged_triton) / "server").read_bytes() == b"wh"


def test_a_wheel_that_arrives_damaged_is_unpacked_once_more_without_uvs_cache(damaged_triton: Path) -> None:
    used_cache: list[bool] = []

    def install(target: Path, use_cache: bool) -> None:
        used_cache.append(use_cache)
        write_triton(target, b"wh" if use_cache else b"whole")

    triton_wheel.fetch_triton(damaged_triton, silent, install=install)
    assert used_cache == [True, False]
    assert (triton_wheel.triton_home(damaged_triton) / "server").read_bytes() == b"whole"


def test_a_wheel_that_arrives_damaged_twice_is_refused(damaged_triton: Path) -> None:
    with pytest.raises(DownloadError, match="arrived damaged twice"):
        triton_wheel.fetch_triton(damaged_triton, silent, install=lambda target, _: write_triton(target, b"wh"))


def test_the_error_for_a_machine_without_a_triton_build_has_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(MissingComponentError, match="set the address of a Triton server"):
        triton_wheel.fetch_triton(tmp_path, silent)
