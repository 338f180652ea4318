"""Records of the consumers on this machine: one small file per consumer in the state folder.

    <state>/workers/catalog-4711.json

A consumer that ends normally removes its file. After an error the file stays, with the reason. After SIGKILL it stays
unchanged, and its process has ended. The next consumer of the same name removes the files of ended ones.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from feature_repo.files import write_atomically

_START_TOLERANCE_S = 2.0  # the system clock may be corrected between the process's start and its record


class WorkerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One consumer.

    Attributes:
        name: Name of the consumer, such as "catalog".
        pid: Process id.
        started_at: Unix time of the process's start.
        url: Base URL of its metrics and health.
        ended: Health state and reason, if an error ended it.
    """

    name: str
    pid: int
    started_at: float
    url: str
    ended: tuple[str, str] | None = None

    @property
    def running(self) -> bool:
        """Whether the process runs (not a later process with the same pid)."""
        import psutil

        try:
            process = psutil.Process(self.pid)
            alive = process.status() != psutil.STATUS_ZOMBIE
            return bool(alive and process.create_time() < self.started_at + _START_TOLERANCE_S)
        except psutil.Error:
            return False


def folder_of(state: Path) -> Path:
    """Return the folder of the records."""
    return state / "workers"


def read_record(folder: Path, name: str, pid: int) -> WorkerRecord | None:
    """Return the record of one consumer; None without a record."""
    return _read(folder / f"{name}-{pid}.json")


def read_records(state: Path) -> list[WorkerRecord]:
    """Return all readable records, sorted by name and start time."""
    records = [_read(path) for path in folder_of(state).glob("*-*.json")]
    return sorted((r for r in records if r is not None), key=lambda r: (r.name, r.started_at))


def write_record(folder: Path, record: WorkerRecord) -> None:
    """Write one record; makes the folder if needed."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(_file(folder, record.name, record.pid), msgspec.json.encode(record))


@contextmanager
def announced(state: Path, name: str, url: str, started_at: float) -> Iterator[WorkerRecord]:
    """Keep a record of this process until the block ends normally; an error leaves the record."""
    folder = folder_of(state)
    for old in read_records(state):
        if old.name == name and not old.running:
            _file(folder, old.name, old.pid).unlink(missing_ok=True)
    record = WorkerRecord(name=name, pid=os.getpid(), started_at=started_at, url=url)
    write_record(folder, record)
    yield record
    with suppress(OSError):
        _file(folder, name, record.pid).unlink(missing_ok=True)


def _file(folder: Path, name: str, pid: int) -> Path:
    return folder / f"{name}-{pid}.json"


def _read(path: Path) -> WorkerRecord | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=WorkerRecord)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None
