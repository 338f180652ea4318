"""The report as tables: one row per metric, or per metric and segment, time or age."""

from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import msgspec

from analysis.results import AgeResult, CumulativePoint, MetricResult, Report, SegmentResult

if TYPE_CHECKING:
    import pandas
    import pyarrow

Part = Literal["metrics", "segments", "cumulative", "ages"]

_LISTS = ("cumulative", "segments", "ages")


def to_arrow(report: Report, part: Part = "metrics") -> "pyarrow.Table":
    """Return an Arrow table. Nested values become columns such as `unadjusted_lift`; an undefined value is null.

    Args:
        report: The report.
        part: `metrics` has a row per metric, `segments` per metric and segment, `cumulative` per metric and time,
            `ages` per metric and interval since exposure.
    """
    import pyarrow

    rows = _metrics(report) if part == "metrics" else _parts(report, part)
    kinds: dict[Part, Any] = {
        "metrics": MetricResult,
        "segments": SegmentResult,
        "cumulative": CumulativePoint,
        "ages": AgeResult,
    }
    names = ({} if part == "metrics" else {"metric": str}) | _fields(kinds[part])
    types = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_()}
    schema = pyarrow.schema([(name, types[kind]) for name, kind in names.items()])
    return pyarrow.Table.from_pylist([{name: row.get(name) for name in names} for row in rows], schema=schema)


def to_pandas(report: Report, part: Part = "metrics") -> "pandas.DataFrame":
    """Return a pandas data frame with the rows and columns of `to_arrow`."""
    return to_arrow(report, part).to_pandas()


def _metrics(report: Report) -> list[dict[str, Any]]:
    return [_flat(msgspec.to_builtins(result)) for result in report.metrics]


def _parts(report: Report, part: str) -> list[dict[str, Any]]:
    return [
        {"metric": result.name, **_flat(msgspec.to_builtins(row))}
        for result in report.metrics
        for row in getattr(result, part)
    ]


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            flat |= {f"{key}_{inner}": v for inner, v in value.items()}
        elif key not in _LISTS:
            flat[key] = value
    return flat


def _fields(struct: Any) -> dict[str, type]:
    """Return the flat columns of a struct with their types, so that an empty table has them too."""
    columns: dict[str, type] = {}
    for field in msgspec.structs.fields(struct):
        if field.name in _LISTS:
            continue
        options = [field.type]
        if get_origin(field.type) in (Union, UnionType):
            options = [option for option in get_args(field.type) if option is not type(None)]
        option = options[0]
        if isinstance(option, type) and issubclass(option, msgspec.Struct):
            columns |= {f"{field.name}_{inner}": kind for inner, kind in _fields(option).items()}
        else:
            columns[field.name] = option if option in (int, float, bool) else str
    return columns
