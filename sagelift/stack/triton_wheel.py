"""Download of the `nvidia-pytriton` wheel by uv, verified against `triton.txt` (the sha256 of the wheel).

    <cache>/triton-0.7.0/

The wheel is unpacked into a folder of its own, checked file by file, and only then renamed to its place.
"""

import base64
import csv
import errno
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from sagelift.stack.cache import (
    MEGABYTE,
    Say,
    cache_folder,
    cache_lock,
    download_error,
    missing_message,
    require_space,
    some,
    unverified,
    without_addresses,
    write_stamp,
)
from sagelift.stack.errors import DownloadError, MissingComponentError

TRITON_VERSION = "0.7.0"  # of the nvidia-pytriton wheel, which contains Triton 2.51

_REQUIREMENTS = Path(__file__).with_name("triton.txt")
_NEEDED = 500 * MEGABYTE  # 144 MB unpacked, the wheel, and uv's own copy

Install = Callable[[Path, bool], None]
"""Unpacks the wheel into the given folder; the flag says whether uv may use its own cache."""


def triton_folder(cache: Path) -> Path:
    """Return the folder of the unpacked wheel in the cache."""
    return cache_folder(cache, f"triton-{TRITON_VERSION}")


def triton_home(cache: Path) -> Path:
    """Return the folder of the unpacked wheel, after a check that it is complete.

    Raises:
        MissingComponentError: A file is missing or altered.
    """
    home = triton_folder(cache)
    bad = unverified(home, _wheel_record(home))
    if bad:
        raise MissingComponentError(missing_message("Triton", home, bad))
    return home


def uv_install(target: Path, use_cache: bool) -> None:
    """Unpack the wheel into `target` with uv, which checks its hash against `triton.txt`.

    Raises:
        DownloadError: The network, the disk or the hash prevents it.
    """
    command = [
        # A copy, not uv's default of hard links: damage to our file would be damage to the file in uv's cache.
        *(sys.executable, "-m", "uv", "pip", "install", "--no-deps", "--target", str(target)),
        *("--require-hashes", "-r", str(_REQUIREMENTS), "--python", sys.executable, "--no-progress"),
        *("--link-mode", "copy"),
        *(() if use_cache else ("--no-cache",)),
    ]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise _uv_error(target.parent, done.returncode, done.stderr)


def fetch_triton(cache: Path, say: Say, *, install: Install = uv_install) -> None:
    """Download and unpack the wheel if it is missing or damaged. Several processes may call this at once.

    Args:
        cache: Cache folder.
        say: Called with each line of progress.
        install: Source of the unpacked wheel.

    Raises:
        DownloadError: The network, the disk or a hash prevents it.
        MissingComponentError: There is no build for this machine.
    """
    home = triton_folder(cache)
    if not unverified(home, _wheel_record(home)):
        return
    _require_platform()
    with cache_lock(cache, home.name, say):
        if home.exists():
            bad = unverified(home, _wheel_record(home))
            if not bad:
                return
            say(f"{home} is damaged ({some(bad)}); downloading Triton again")
        require_space(home.parent, _NEEDED)
        say(f"Downloading Triton (53 MB) into {home}")
        aside, replaced = (home.with_name(f".{home.name}.{end}") for end in ("partial", "replaced"))
        shutil.rmtree(aside, ignore_errors=True)  # of an interrupted download
        shutil.rmtree(replaced, ignore_errors=True)
        try:
            _install_verified(aside, install, say)
            if home.exists():  # a running server may use the damaged copy: it stays until the new copy is complete
                home.rename(replaced)
            aside.rename(home)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
            shutil.rmtree(replaced, ignore_errors=True)
        say("Triton is ready")


def _install_verified(target: Path, install: Install, say: Say) -> None:
    install(target, True)
    if bad := unverified(target, _wheel_record(target)):
        # uv checks its downloads, but trusts the files that it unpacked into its own cache earlier.
        say(f"uv's copy of Triton is damaged ({some(bad)}); downloading it once more")
        shutil.rmtree(target)
        install(target, False)
    record = _wheel_record(target)
    if bad := unverified(target, record):
        raise DownloadError(f"Triton arrived damaged twice ({some(bad)}) in {target.parent}: check that disk.")
    write_stamp(target, record)


def _require_platform() -> None:
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        raise MissingComponentError(
            f"Triton is built for Linux on x86_64 and aarch64, not for {platform.system()} on {platform.machine()}: "
            "set the address of a Triton server on another machine."
        )


def _uv_error(folder: Path, exit_code: int, stderr: str) -> DownloadError:
    text = stderr.lower()
    if "no space left" in text:
        full = OSError(errno.ENOSPC, "No space left on device")
        return download_error("Triton", folder, full, _NEEDED)
    if "hash mismatch" in text:
        return DownloadError(
            "The Triton wheel does not have the sha256 in triton.txt: a proxy or mirror alters it. Try another network."
        )
    if any(sign in text for sign in ("failed to fetch", "error sending request", "connect", "dns", "timed out")):
        return download_error("Triton", folder, ConnectionError(), _NEEDED)
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    reason = without_addresses(lines[-1]) if lines else f"exit code {exit_code}"
    return DownloadError(f"uv could not install Triton into {folder}: {reason}")


def _wheel_record(home: Path) -> dict[str, str]:
    """Return the sha256 (hex) of each file from the wheel's own list; empty if nothing was unpacked."""
    record = home / f"nvidia_pytriton-{TRITON_VERSION}.dist-info" / "RECORD"
    if not record.is_file():
        return {}
    hashes = {}
    with record.open(newline="", encoding="utf-8") as lines:
        for name, digest, _size in csv.reader(lines):
            if digest.startswith("sha256="):
                raw = digest.removeprefix("sha256=")
                hashes[name] = base64.urlsafe_b64decode(raw + "=" * (-len(raw) % 4)).hex()
    return hashes
