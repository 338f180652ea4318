"""Which consumers there are on this machine, and where they can be asked: a small file of each in the state folder.

    <state>/workers/catalog-4711.json

A consumer that ends well takes its file back; one that an error ended leaves it, with the reason; of one that was
killed it stays as it was, without its process. The next of the same name clears up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

_START_TOLERANCE_S = 2.0  # of a process's start; the system's clock may be corrected meanwhile


class WorkerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One consumer: `url` is where it answers; `ended` the state and the reason with which an error ended it."""

    name: str
    pid: int
    started_at: float
    url: str
    ended: tuple[str, str] | None = None

    @property
    def running(self) -> bool:
        """Whether its process is there (not one that has got its number since)."""
        import psutil

        try:
            process = psutil.Process(self.pid)
            alive = process.status() != psutil.STATUS_ZOMBIE
            return bool(alive and process.create_time() < self.started_at + _START_TOLERANCE_S)
        except psutil.Error:
            return False


def folder_of(state: Path) -> Path:
    """Where the files are."""
    return state / "workers"


def read_record(folder: Path, name: str, pid: int) -> WorkerRecord | None:
    """One consumer's; None when there is none."""
    return _read(folder / f"{name}-{pid}.json")


def read_records(state: Path) -> list[WorkerRecord]:
    """All, by name and start."""
    found = [_read(path) for path in folder_of(state).glob("*-*.json")]
    return sorted((r for r in found if r is not None), key=lambda r: (r.name, r.started_at))


def write_record(folder: Path, record: WorkerRecord) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record.name}-{record.pid}.json"
    aside = path.with_name(f".{path.name}")
    aside.write_bytes(msgspec.json.encode(record))
    aside.replace(path)


@contextmanager
def announced(state: Path, name: str, url: str, started_at: float) -> Iterator[WorkerRecord]:
    """Tell where this process answers, until the block is left; an error leaves the file behind."""
    folder = folder_of(state)
    for old in read_records(state):
        if old.name == name and not old.running:
            (folder / f"{old.name}-{old.pid}.json").unlink(missing_ok=True)
    record = WorkerRecord(name=name, pid=os.getpid(), started_at=started_at, url=url)
    write_record(folder, record)
    yield record  # an error leaves the file
    with suppress(OSError):
        (folder / f"{name}-{record.pid}.json").unlink(missing_ok=True)


def _read(path: Path) -> WorkerRecord | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=WorkerRecord)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None
