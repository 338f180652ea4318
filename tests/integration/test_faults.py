"""Consumers, model and broker are killed during a seeded stream: nothing is lost, stale or wrong.

`python -m benchmarks faults --updates N` without `--faults` runs more kinds of faults on a longer stream.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

UPDATES = 1200
FAULTS = "kill_sink,kill_model,join_and_kill,kill_broker"


def test_a_disturbed_run_leaves_the_same_as_an_undisturbed_one(cache: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "faults", "--updates", str(UPDATES), "--faults", FAULTS, "--json"]
    environment = {**os.environ, "SAGELIFT_CACHE_DIR": str(cache), "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    figures = {row["name"]: row["value"] for row in json.loads(done.stdout)["rows"]}
    assert (figures["lost"], figures["stale"], figures["wrong"]) == (0, 0, 0)
    assert figures["poison_missing"] == 0
    assert figures["poison_copies"] <= 3, "at most one for each time that its batch was read"
    assert (figures["events_wrong"], figures["event_poison_missing"]) == (0, 0)

    counts = re.search(r"(\d+) products, (\d+) bad messages, (\d+) events", done.stderr)
    assert counts is not None
    products, poison, events = map(int, counts.groups())
    assert products > 40
    assert poison >= 10
    assert events >= UPDATES
