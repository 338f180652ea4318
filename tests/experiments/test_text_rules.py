"""Text that PostgreSQL or UTF-8 refuses is found before it is written."""

import pytest

from experiments.text_rules import text_problem


@pytest.mark.parametrize("text", ["", "plain", "Grüße 👋", "a\tb\n"])
def test_text_that_every_database_stores_has_no_problem(text: str) -> None:
    assert text_problem(text) is None


@pytest.mark.parametrize(("text", "problem"), [("a\0b", "holds a NUL"), ("\ud800", "holds a lone surrogate")])
def test_text_that_a_database_refuses_has_a_problem(text: str, problem: str) -> None:
    assert (text_problem(text) or "").startswith(problem)
