"""The examples of the documentation run, each page from top to bottom."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs" / "analysts"


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_the_examples_run(page: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.S)
    assert blocks
    names: dict[str, object] = {"folder": tmp_path}
    for block in blocks:
        exec(compile(block, page.name, "exec"), names)


def test_there_are_pages_to_run() -> None:
    assert {page.stem for page in DOCS.glob("*.md")} >= {"which-interval", "reading-a-report", "gmv"}
