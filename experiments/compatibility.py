"""Rules between experiments: disjoint layer ranges, prerequisites without cycles, equal holdouts."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from experiments.config import ExperimentConfig, LayerRange
from experiments.errors import ConflictError


def check_compatible(config: ExperimentConfig, others: Iterable[ExperimentConfig]) -> None:
    """Check that an experiment can be live together with others (rules P2, H2 and H3).

    P2: each prerequisite is one of the others, has the named arms, and does not need `config` in turn.
    H2, H3: a holdout has the same size and scope in every experiment, and a global one is in all of them.

    Args:
        config: Config of the experiment.
        others: Configs that are served. A config with the same key is ignored.

    Raises:
        ConflictError: A rule is broken. The message names every broken rule.
    """
    served = {other.key: other for other in others if other.key != config.key}
    if problems := [*_prerequisite_problems(config, served), *_holdout_problems(config, served)]:
        raise ConflictError(f"experiment {config.key!r}: {'; '.join(problems)}.")


def check_layer(config: ExperimentConfig, live: Iterable[ExperimentConfig]) -> None:
    """Check that an experiment's layer range does not overlap that of another live experiment (rule L3).

    Args:
        config: Config of the experiment.
        live: Configs of the live experiments. A config with the same key is ignored.

    Raises:
        ConflictError: The ranges overlap.
    """
    if (overlap := find_overlap(config, live)) is not None:
        own, other_key, other = overlap
        raise ConflictError(
            f"experiment {config.key!r} wants [{own.start}, {own.end}) of layer {own.key!r}, but {other_key!r} is live "
            f"on [{other.start}, {other.end}): choose a free range or stop the other."
        )


def find_overlap(
    config: ExperimentConfig, others: Iterable[ExperimentConfig]
) -> tuple[LayerRange, str, LayerRange] | None:
    """Find another experiment whose layer range shares buckets with that of `config`.

    Returns:
        The range of `config`, the key of the other experiment, and its range; None when no range overlaps.
    """
    own = config.layer
    if own is None:
        return None
    for other in others:
        theirs = other.layer
        if other.key == config.key or theirs is None or theirs.key != own.key:
            continue
        if own.start < theirs.end and theirs.start < own.end:
            return own, other.key, theirs
    return None


def find_cycle(configs: Mapping[str, ExperimentConfig], start: str) -> Sequence[str]:
    """Find a path over prerequisites that leads from an experiment back to it.

    Args:
        configs: All configs by key.
        start: Key of the experiment.

    Returns:
        The keys on the path, with `start` at both ends; empty when no path leads back.
    """
    paths: list[tuple[str, ...]] = [(start,)]
    seen: set[str] = set()
    while paths:
        path = paths.pop()
        for prerequisite in configs[path[-1]].prerequisites:
            following = prerequisite.experiment
            if following == start:
                return (*path, following)
            if following in configs and following not in seen:
                seen.add(following)
                paths.append((*path, following))
    return ()


def _prerequisite_problems(config: ExperimentConfig, served: Mapping[str, ExperimentConfig]) -> Iterator[str]:
    for prerequisite in config.prerequisites:
        other = served.get(prerequisite.experiment)
        if other is None:
            yield f"its prerequisite {prerequisite.experiment!r} does not run; publish and start that one first"
            continue
        arms = [arm.key for arm in other.arms]
        for arm in prerequisite.arms:
            if arm not in arms:
                yield f"its prerequisite {other.key!r} has no arm {arm!r} (it has {', '.join(arms)})"
    if cycle := find_cycle({**served, config.key: config}, config.key):
        yield f"its prerequisites lead back to it ({' -> '.join(cycle)}); leave one of them out"


def _holdout_problems(config: ExperimentConfig, served: Mapping[str, ExperimentConfig]) -> Iterator[str]:
    own = {holdout.key: holdout for holdout in config.holdouts}
    for other in served.values():
        for theirs in other.holdouts:
            ours = own.get(theirs.key)
            if ours is None and theirs.scope == "global":
                yield (
                    f"experiment {other.key!r} has the global holdout {theirs.key!r}, so this one must have it: add "
                    f"{{key: {theirs.key}, size: {theirs.size}, scope: global}} to its holdouts"
                )
            elif ours is not None and ours != theirs:
                yield (
                    f"holdout {theirs.key!r} is {theirs.scope} of size {theirs.size} in {other.key!r}, and "
                    f"{ours.scope} of size {ours.size} here; a holdout is the same everywhere"
                )
