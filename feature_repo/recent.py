"""What a shopper engaged with lately: the list that user queries start from, and how events enter it.

Pure. The list is the newest `MAX_RECENT` of the union of all events, whatever the order in which they come and however
often: what was pushed out once is older than what is there, and is pushed out again. So a message that is delivered
twice changes nothing, and two writers that each know a part come to the same list by merging.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import Final, NamedTuple

import msgspec

from feature_repo.errors import InvalidFeatureError
from feature_repo.times import from_microseconds, to_microseconds

MAX_RECENT: Final = 50  # products that are kept of one shopper

_LAST_US: Final = to_microseconds(datetime.max)


class Engagement(NamedTuple):
    """A shopper clicked, saved, carted or ordered a product."""

    user_id: str
    product_id: str
    event_us: int  # microseconds since the Unix epoch, UTC


class UserRecent(msgspec.Struct, kw_only=True, frozen=True):
    """The last products of one shopper, each once, the most recent last."""

    id: str
    version: int  # one more with every change
    event_time: datetime  # of the most recent engagement, or of the deletion
    deleted: bool = False
    product_ids: tuple[str, ...] = ()
    event_times: tuple[int, ...] = ()  # microseconds since the Unix epoch, UTC; one for each product


def by_user(engagements: Iterable[Engagement]) -> dict[str, list[Engagement]]:
    """The engagements of each shopper.

    Raises:
        InvalidFeatureError: an id is empty or no Unicode, or a time is no whole number of microseconds since 1970.
    """
    found: dict[str, list[Engagement]] = defaultdict(list)
    for each in engagements:
        _check(each)
        found[each.user_id].append(each)
    return dict(found)


def merged(before: UserRecent | None, engagements: Iterable[Engagement], limit: int = MAX_RECENT) -> UserRecent | None:
    """The list with these engagements of its shopper in it; None if they change nothing.

    Of a shopper who was forgotten nothing comes back that happened before that.
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
                f"An engagement's {name} {value!r} is no Unicode: replace its lone surrogates."
            ) from None
    if type(each.event_us) is not int or not 0 <= each.event_us <= _LAST_US:
        raise InvalidFeatureError(
            f"User {each.user_id!r} has an engagement at {each.event_us!r}: give whole microseconds since 1970."
        )
