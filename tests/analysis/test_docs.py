"""The examples of the documentation run, each page from top to bottom."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs" / "analysts"
EXAMPLE = re.compile(r"```python\n(.*?)```", flags=re.S)
PAGES = [page for page in sorted(DOCS.glob("*.md")) if EXAMPLE.search(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_run(page: Path, tmp_path: Path) -> None:
    names: dict[str, object] = {"folder": tmp_path}
    for block in EXAMPLE.findall(page.read_text(encoding="utf-8")):
        exec(compile(block, page.name, "exec"), names)


def test_the_pages_about_reports_have_examples() -> None:
    assert {page.stem for page in PAGES} >= {"which-interval", "reading-a-report", "gmv"}
