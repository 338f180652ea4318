"""Short texts that analysts write on the command line: `gmv=p99` is a cap, `country=DE,FR` a filter, `2%` a share.

A text that cannot be read is wrong usage (`typer.BadParameter`) with the option's name and an example.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from analysis.columns import Cap, Filter


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
    """Read a filter: country=DE,FR or age>=18."""
    from analysis.columns import Filter, Operator

    operators: tuple[Operator, ...] = ("!=", "<=", ">=", "=", "<", ">")
    for operator in operators:
        column, sign, value = text.partition(operator)
        if sign and column and value:
            values = tuple(map(_literal, value.split(",")))
            if operator == "=" and len(values) > 1:
                return Filter(column.strip(), "in", values)
            return Filter(column.strip(), operator, _literal(value))
    raise typer.BadParameter(f"{text!r} is not a comparison such as country=DE.", param_hint="--where")


def parse_split(text: str | None) -> dict[str, float] | None:
    """Read a split: control=0.9,treatment=0.1."""
    if text is None:
        return None
    pairs = [parse_pair(part, "=", "--split", "0=0.9,1=0.1") for part in text.split(",")]
    return {arm: parse_number(weight, "--split") for arm, weight in pairs}


def parse_share(text: str, option: str) -> float:
    """Read a share: 2% or 0.02."""
    text = text.strip()
    return parse_number(text[:-1], option) / 100 if text.endswith("%") else parse_number(text, option)


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


def check_metric(name: str, names: Iterable[str], option: str) -> str:
    """Return the name of a metric, if it is one of `names`."""
    allowed = list(names)
    if name not in allowed:
        listed = ", ".join(allowed) or "none"
        raise typer.BadParameter(
            f"{name!r} is not a metric that this option applies to; those are: {listed}.", param_hint=option
        )
    return name


def _literal(text: str) -> str | int | float:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.strip()
