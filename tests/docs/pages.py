"""The pages of the documentation and what can be executed in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
GENERATED = frozenset({"commands.md", "settings.md", "metrics.md", "rest.md"})

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w-]*)[^\n]*\n(?P<text>.*?)^(?P=indent)```", re.M | re.S)
_INLINE = re.compile(r"`(sagelift [^`\n]+)`")
_SHELL = ("sh", "bash", "shell", "console", "")
_SEPARATORS = frozenset({"|", "&&", "||", ";", "&", ">", "2>", ">>", "<", "2>&1", "then", "do"})


class CommandLine(NamedTuple):
    """One call of `sagelift` in a page; not `complete` if a sentence quotes it, where arguments may be missing."""

    page: str
    words: tuple[str, ...]
    complete: bool

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(('sagelift', *self.words))}"


def pages() -> list[Path]:
    """Every page for people: the docs, and the Markdown files at the top."""
    return sorted([*DOCS.rglob("*.md"), *REPOSITORY.glob("*.md")])


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in these languages, in order, without their indentation."""
    result = []
    for match in _FENCE.finditer(page.read_text("utf-8")):
        if match["language"] in languages:
            indent = len(match["indent"])
            result.append("\n".join(line[indent:] for line in match["text"].splitlines()) + "\n")
    return result


def command_lines() -> Iterator[CommandLine]:
    """Every call of `sagelift` in every page, in shell blocks and in sentences."""
    for page in pages():
        if page.name in GENERATED or page.name == "CHANGELOG.md" or page.parent.name == "research":
            continue
        name = str(page.relative_to(REPOSITORY))
        for block in blocks(page, *_SHELL, "yaml", "crontab"):
            for statement in _statements(block.replace("\\\n", " ")):
                for words in _calls(statement):
                    yield CommandLine(name, words, complete=True)
        prose = _FENCE.sub("", page.read_text("utf-8"))
        for match in _INLINE.finditer(prose):
            for words in _calls(match[1]):
                yield CommandLine(name, words, complete=False)


def _statements(block: str) -> Iterator[str]:
    """The lines of a shell block; a quoted text may span several."""
    pending = ""
    for line in block.splitlines():
        pending = f"{pending}\n{line}" if pending else line
        try:
            shlex.split(pending, comments=True)
        except ValueError:  # a quote is still open
            continue
        yield pending
        pending = ""
    yield from pending.splitlines()  # not a shell's quotes: each line by itself


def _calls(line: str) -> Iterator[tuple[str, ...]]:
    if "sagelift" not in line:
        return
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>")
    lexer.whitespace_split, lexer.commenters = True, "#"
    try:
        words = list(lexer)
    except ValueError:  # a quote that another language opens
        words = line.split()
    for start, word in enumerate(words):
        if word.rsplit("/", 1)[-1] != "sagelift" or (
            start and words[start - 1] in ("-m", "cd", "pip", "install", "import")
        ):
            continue
        if start and words[start - 1] not in _SEPARATORS and not _may_precede(words[:start]):
            continue
        rest = words[start + 1 :]
        end = next((i for i, other in enumerate(rest) if other in _SEPARATORS or set(other) <= set(";&|<>")), len(rest))
        if end < len(rest) and rest[end].startswith(">") and end and rest[end - 1].isdigit():
            end -= 1  # the 2 of 2>
        if rest[:end]:
            yield tuple(rest[:end])


def _may_precede(words: list[str]) -> bool:
    """Whether these can stand before a command: a prompt, variables, a cron schedule, `exec` and the like."""
    return all(
        re.fullmatch(r"[$%]|\w+=.*|[\d*/,-]+|exec|nice|sudo|env|time|if|while|!|-|run:|command:|Environment.*|\w+", w)
        for w in words
    )
