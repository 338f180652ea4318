"""Short texts that analysts write on the command line: `gmv=p99` is a cap, `country=DE,FR` a filter, `2%` a share.

A text that cannot be read is wrong usage (`typer.BadParameter`) with the option's name and an example.
"""

from __future__ import annotations

import re
from math import isfinite
from typing import TYPE_CHECKING, cast

import typer

if TYPE_CHECKING:
    from analysis.columns import Cap, Filter, Operator

_FILTER = re.compile(r"(?P<column>[^=!<>]*[^=!<>\s][^=!<>]*)(?P<operator>!=|<=|>=|=|<|>)(?P<value>[^=<>]+)")
_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,17}")


def parse_cap(text: str) -> Cap:
    """Read a cap: 50000, p99, or p99:nonzero."""
    from analysis.columns import Cap

    limit, _, qualifier = text.partition(":")
    if qualifier not in ("", "nonzero"):
        raise typer.BadParameter(f"{text!r}: only `nonzero` may follow the colon.", param_hint="--cap")
    if limit.startswith("p"):
        return Cap(upper_quantile=parse_number(limit[1:], "--cap") / 100, nonzero=bool(qualifier))
    return Cap(upper=parse_number(limit, "--cap"))


def parse_filter(text: str) -> Filter:
    """Read a filter: country=DE,FR, country!=DE,FR or age>=18. The column's type decides how a value is compared."""
    from analysis.columns import Filter

    match = _FILTER.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a comparison such as country=DE.", param_hint="--where")
    column, operator = match["column"].strip(), cast("Operator", match["operator"])
    values = tuple(_value(value.strip()) for value in match["value"].split(","))
    if "" in values:
        raise typer.BadParameter(f"{text!r} has an empty value. Remove the comma.", param_hint="--where")
    if len(values) == 1:
        return Filter(column, operator, values[0])
    if operator not in ("=", "!="):
        raise typer.BadParameter(f"{text!r}: only = and != take a list of values.", param_hint="--where")
    return Filter(column, "in" if operator == "=" else "!=", values)


def parse_split(text: str | None) -> dict[str, float] | None:
    """Read a split: control=90%,treatment=10%, control=0.9,treatment=0.1 or control=9,treatment=1."""
    if text is None:
        return None
    pairs = [parse_pair(part, "=", "--split", "0=90%,1=10%") for part in text.split(",")]
    if len({weight.endswith("%") for _, weight in pairs}) > 1:
        raise typer.BadParameter(f"{text!r}: give all weights in % or none.", param_hint="--split")
    split: dict[str, float] = {}
    for arm, weight in pairs:
        if arm in split:
            raise typer.BadParameter(f"the arm {arm!r} is given twice.", param_hint="--split")
        split[arm] = parse_number(weight.removesuffix("%"), "--split")
    return split


def parse_share(text: str, option: str) -> float:
    """Read a share: 2% or 0.02. A number from 1 on needs its %, because 5 may mean 5 % or 500 %."""
    text = text.strip()
    if text.endswith("%"):
        return parse_number(text[:-1], option) / 100
    number = parse_number(text, option)
    if isfinite(number) and number >= 1:
        raise typer.BadParameter(
            f"{text!r} would be {number * 100:g}%. Write {text}% or {number * 100:g}%.", param_hint=option
        )
    return number


def parse_lift(text: str) -> float:
    """Read a lift: 5% or 0.05."""
    return parse_share(text, "--lift")


def parse_number(text: str, option: str) -> float:
    """Read a number."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number.", param_hint=option) from None


def parse_whole_numbers(text: str, option: str, example: str) -> tuple[int, ...]:
    """Read whole numbers with commas between them; an empty text has none."""
    numbers = [parse_number(part, option) for part in text.split(",") if part.strip()]
    if any(not number.is_integer() for number in numbers):
        raise typer.BadParameter(f"{text!r} must look like {example}.", param_hint=option)
    return tuple(map(int, numbers))


def parse_pair(text: str, separator: str, option: str, example: str) -> tuple[str, str]:
    """Read two texts with a separator between them."""
    left, sign, right = (part.strip() for part in text.partition(separator))
    if not (sign and left and right):
        raise typer.BadParameter(f"{text!r} must look like {example}.", param_hint=option)
    return left, right


def _value(text: str) -> str | int:
    """Return a whole number as such if nothing is lost, so that `00501` stays a text."""
    return int(text) if _WHOLE.fullmatch(text) else text
