"""The products that a shopper engaged with lately, and how events enter that list. Pure functions.

The list holds the newest `MAX_RECENT` products of all events, in whatever order and however often they arrive: a
product that was pushed out is older than the listed ones, and would be pushed out again. So a message that is delivered
twice changes nothing, and two writers that each have a part of the events reach the same list by merging.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import Final, NamedTuple

import msgspec

from feature_repo.errors import InvalidFeatureError
from feature_repo.times import from_microseconds, to_microseconds

MAX_RECENT: Final = 50
"""Products of one shopper's list."""

_LAST_US: Final = to_microseconds(datetime.max)


class Engagement(NamedTuple):
    """An event: a shopper clicked, saved, carted or ordered a product."""

    user_id: str
    product_id: str
    event_us: int  # microseconds since the Unix epoch, UTC


class UserRecent(msgspec.Struct, kw_only=True, frozen=True):
    """The recent products of one shopper, each once, the most recent last."""

    id: str
    version: int  # plus 1 with every change
    event_time: datetime  # of the most recent engagement, or of the deletion
    deleted: bool = False
    product_ids: tuple[str, ...] = ()
    event_times: tuple[int, ...] = ()  # microseconds since the Unix epoch, one per product


def by_user(engagements: Iterable[Engagement]) -> dict[str, list[Engagement]]:
    """Group engagements by shopper.

    Raises:
        InvalidFeatureError: An id is empty or not valid Unicode, or a time is not a whole number of microseconds since
            1970.
    """
    groups: dict[str, list[Engagement]] = defaultdict(list)
    for each in engagements:
        _check(each)
        groups[each.user_id].append(each)
    return dict(groups)


def merged(before: UserRecent | None, engagements: Iterable[Engagement], limit: int = MAX_RECENT) -> UserRecent | None:
    """Merge engagements of one shopper into their list.

    Engagements from before a shopper was forgotten are ignored.

    Args:
        before: The stored list, or None.
        engagements: Engagements of this shopper.
        limit: The number of products to keep.

    Returns:
        The new list; None if it is unchanged.
    """
    last: dict[str, int] = {}
    forgotten_us = -1
    if before is not None and before.deleted:
        forgotten_us = to_microseconds(before.event_time)
    elif before is not None:
        last = dict(zip(before.product_ids, before.event_times, strict=True))
    user_id = ""
    for each in engagements:
        user_id = each.user_id
        if each.event_us > max(forgotten_us, last.get(each.product_id, -1)):
            last[each.product_id] = each.event_us
    newest = sorted(last.items(), key=lambda item: (item[1], item[0]))[-limit:]
    product_ids, event_times = (tuple(column) for column in zip(*newest, strict=True)) if newest else ((), ())
    if not newest or (before is not None and (before.product_ids, before.event_times) == (product_ids, event_times)):
        return None
    return UserRecent(
        id=user_id,
        version=before.version + 1 if before is not None else 1,
        event_time=from_microseconds(event_times[-1]),
        product_ids=product_ids,
        event_times=event_times,
    )


def _check(each: Engagement) -> None:
    for name, value in (("user_id", each.user_id), ("product_id", each.product_id)):
        if not isinstance(value, str) or not value:
            raise InvalidFeatureError(
                f"An engagement's {name} must be a text of at least one character, not {value!r}."
            )
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidFeatureError(
                f"An engagement's {name} {value!r} is not valid Unicode: replace its lone surrogates."
            ) from None
    if type(each.event_us) is not int or not 0 <= each.event_us <= _LAST_US:
        raise InvalidFeatureError(
            f"User {each.user_id!r} has an engagement at {each.event_us!r}: give whole microseconds since 1970."
        )
