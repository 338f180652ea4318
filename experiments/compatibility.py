"""The rules that hold between experiments: prerequisites lead somewhere and never in a circle, holdouts agree. Pure.

Layer ranges are the third such rule; `lifecycle.check_layer` has it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from experiments.config import ExperimentConfig
from experiments.errors import ConflictError


def check_beside(config: ExperimentConfig, others: Iterable[ExperimentConfig]) -> None:
    """Raises ConflictError unless `config` can be live beside the others (of its own key, the other is ignored).

    P2: a prerequisite is one of the others, has the arms that are named, and does not need `config` in turn.
    H2, H3: a holdout has one size wherever it is named, and a global one is named by all.
    """
    known = {other.key: other for other in others if other.key != config.key}
    if problems := [*_prerequisite_problems(config, known), *_holdout_problems(config, known)]:
        raise ConflictError(f"experiment {config.key!r}: {'; '.join(problems)}.")


def _prerequisite_problems(config: ExperimentConfig, known: Mapping[str, ExperimentConfig]) -> Iterator[str]:
    for prerequisite in config.prerequisites:
        other = known.get(prerequisite.experiment)
        if other is None:
            yield f"its prerequisite {prerequisite.experiment!r} does not run; publish and start that one first"
            continue
        arms = [arm.key for arm in other.arms]
        for arm in prerequisite.arms:
            if arm not in arms:
                yield f"its prerequisite {other.key!r} has no arm {arm!r} (it has {', '.join(arms)})"
    if circle := find_circle({**known, config.key: config}, config.key):
        yield f"its prerequisites lead back to it ({' -> '.join(circle)}); leave one of them out"


def find_circle(configs: Mapping[str, ExperimentConfig], start: str) -> Sequence[str]:
    """A way from `start` over prerequisites back to it, or nothing."""
    ways: list[tuple[str, ...]] = [(start,)]
    seen: set[str] = set()
    while ways:
        way = ways.pop()
        for prerequisite in configs[way[-1]].prerequisites:
            following = prerequisite.experiment
            if following == start:
                return (*way, following)
            if following in configs and following not in seen:
                seen.add(following)
                ways.append((*way, following))
    return ()


def _holdout_problems(config: ExperimentConfig, known: Mapping[str, ExperimentConfig]) -> Iterator[str]:
    own = {holdout.key: holdout for holdout in config.holdouts}
    for other in known.values():
        for theirs in other.holdouts:
            ours = own.get(theirs.key)
            if ours is None and theirs.scope == "global":
                yield (
                    f"experiment {other.key!r} names the global holdout {theirs.key!r}, so this one has to: add "
                    f"{{key: {theirs.key}, size: {theirs.size}, scope: global}} to its holdouts"
                )
            elif ours is not None and ours != theirs:
                yield (
                    f"holdout {theirs.key!r} is {theirs.scope} of size {theirs.size} in {other.key!r}, and "
                    f"{ours.scope} of size {ours.size} here; a holdout is the same everywhere"
                )
