"""The file of results: one line per training, and nothing else is accepted."""

from pathlib import Path

import pytest

from benchmarks.evidence.results import append_result, read_results
from benchmarks.evidence.tests.builders import result
from inference.errors import ArtifactError


def test_appended_results_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.jsonl"
    assert read_results(path) == []
    results = [result("full", seed, 0.5) for seed in (1, 2)]
    for each in results:
        append_result(path, each)
    assert read_results(path) == results


def test_a_line_that_a_crash_cut_off_is_ignored_and_then_replaced(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    append_result(path, result("full", 1, 0.5))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:20])
    assert len(read_results(path)) == 1
    append_result(path, result("full", 2, 0.5))
    assert [each.seed for each in read_results(path)] == [1, 2]


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text("hello\n")
    with pytest.raises(ArtifactError, match="line 1 is no result"):
        read_results(tmp_path / "results.jsonl")
