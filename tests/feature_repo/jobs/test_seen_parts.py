from __future__ import annotations

from pathlib import Path

import pytest

from feature_repo.jobs.seen_parts import SeenParts

PARTS = [Path(f"part-{n}.parquet") for n in range(3)]


def test_what_a_complete_run_has_written_is_not_new_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    assert SeenParts(path, "table").unseen(PARTS) == PARTS
    SeenParts(path, "table").add(PARTS[:2], existing=PARTS)
    assert SeenParts(path, "table").unseen(PARTS) == PARTS[2:]


def test_parts_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    seen = SeenParts(tmp_path / "state.json", "table")
    seen.add(PARTS, existing=PARTS)
    seen.add([], existing=PARTS[1:])
    assert seen.names == {"part-1.parquet", "part-2.parquet"}


def test_for_another_online_store_every_part_is_new(tmp_path: Path) -> None:
    SeenParts(tmp_path / "state.json", "table").add(PARTS, existing=PARTS)
    assert SeenParts(tmp_path / "state.json", "another table").unseen(PARTS) == PARTS


@pytest.mark.parametrize("text", ["", '{"online_', "[]", '{"online_store": "table"}'])
def test_a_damaged_file_makes_every_part_new(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    assert SeenParts(tmp_path / "state.json", "table").unseen(PARTS) == PARTS
