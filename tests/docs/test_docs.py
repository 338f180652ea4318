"""The documentation is true: its commands exist, its links lead to files, its generated pages are current."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from sagelift.commands.cli import app
from tests.docs.pages import DOCS, REPOSITORY, CommandLine, command_lines, pages

ROOT = typer.main.get_command(app)
PLACEHOLDER = re.compile(r"\.\.\.|…|<\w+>|\$|\{\{|^[A-Z_]+$")
"""Words of a line that stand for something else; such a line is checked for its command and its options only."""


@pytest.mark.parametrize("line", sorted(set(command_lines())), ids=str)
def test_every_command_line_of_the_docs_is_one_that_the_command_line_takes(line: CommandLine) -> None:
    command, rest, path = _resolve(list(line.words))
    assert command is not None, f"{line}: there is no command {' '.join(path)}"
    if getattr(command, "commands", None) is not None:
        assert all(word.startswith("-") or PLACEHOLDER.search(word) for word in rest), f"{line}: no such command"
        return
    options = {name for p in command.params for name in (*p.opts, *p.secondary_opts)} | {"--help"}
    for word in rest:
        if word.startswith("--") and word != "--":
            assert word.partition("=")[0] in options, f"{line}: {' '.join(path)} has no option {word}"
    if line.complete and "--help" not in rest and not any(PLACEHOLDER.search(word) for word in rest):
        context = typer.Context(command, info_name=path[-1])
        command.parse_args(context, list(rest))


def _resolve(words: list[str]) -> tuple[Any, list[str], list[str]]:
    command: Any = ROOT
    path = ["sagelift"]
    while words and (children := getattr(command, "commands", None)) is not None:
        if words[0].startswith("-") or PLACEHOLDER.search(words[0]):
            break
        path.append(words.pop(0))
        command = children.get(path[-1])
    return command, words, path


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_relative_links_lead_to_files(page: Path) -> None:
    """`mkdocs build --strict` checks the links between pages; this also covers the files at the top."""
    prose = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        file = target.partition("#")[0]
        if file and "://" not in file and not file.startswith("mailto:"):
            assert (page.parent / file).exists(), f"{page}: {target} leads nowhere"


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_modules_that_a_page_names_by_their_path_exist(page: Path) -> None:
    """A path starts at the root or at a folder with a module that is named before. A pattern need not match a file."""
    folders = [REPOSITORY]
    for path in re.findall(r"`([\w.-]+(?:/[\w.-]+)+\.py)`", page.read_text("utf-8")):
        file = next((folder / path for folder in folders if (folder / path).is_file()), None)
        assert file is not None, f"{page}: there is no module {path}"
        folders += [folder for folder in file.parents if folder.is_relative_to(REPOSITORY) and folder not in folders]


def test_generated_pages_are_current() -> None:
    done = subprocess.run([sys.executable, DOCS / "generate.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_site_builds_and_requests_nothing_from_elsewhere(tmp_path: Path) -> None:
    """`--strict` fails for a link to a missing page or heading."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    built = list(tmp_path.rglob("*.html"))
    assert len(built) > 40
    for page in built:
        html = page.read_text("utf-8")
        foreign = re.findall(r'<(?:script|img|iframe)[^>]+src="(?:https?:)?//[^"]+"', html)
        foreign += re.findall(r'<link[^>]+rel="stylesheet"[^>]+href="(?:https?:)?//[^"]+"', html)
        assert not foreign, f"{page.name}: {foreign}"
