"""A bounded memory of recent units, to find duplicates."""

from collections.abc import Hashable


class RecentUnits:
    """Remembers at least the last `limit // 2` units and never more than `limit`, in two generations of sets.

    Units of a group have everything else in common, so that only the unit itself is stored for each.

    Args:
        limit: Maximum number of units over all groups.
    """

    def __init__(self, limit: int) -> None:
        self._half = max(1, limit // 2)
        self._size = 0
        self._young: dict[Hashable, set[str]] = {}
        self._old: dict[Hashable, set[str]] = {}

    def __len__(self) -> int:
        """Return the number of remembered units."""
        return sum(len(units) for generation in (self._young, self._old) for units in generation.values())

    def put(self, group: Hashable, unit: str) -> bool:
        """Remember a unit; return whether it is new in its group."""
        units = self._young.get(group)
        if units is None or self._size >= self._half:
            units = self._make_room(group)
        if unit in units:
            return False
        units.add(unit)
        self._size += 1
        return not self._old or unit not in self._old.get(group, ())

    def _make_room(self, group: Hashable) -> set[str]:
        if self._size >= self._half:
            self._old, self._young, self._size = self._young, {}, 0
        return self._young.setdefault(group, set())

    def forget(self, group: Hashable, unit: str) -> None:
        """Forget a unit of a group."""
        for generation in (self._young, self._old):
            if group in generation:
                generation[group].discard(unit)
