"""Experiments that cannot be served together: cycles of prerequisites, and different holdouts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.compatibility import check_compatible
from experiments.config import Arm, ExperimentConfig, Holdout, Prerequisite, PublishedExperiment
from experiments.errors import ConfigError, ConflictError
from experiments.evaluator import prepare_all


def experiment(key: str, needs: tuple[str, ...] = (), holdouts: tuple[Holdout, ...] = ()) -> ExperimentConfig:
    return ExperimentConfig(
        key=key,
        salt=key,
        coverage=10_000,
        arms=(Arm("control", 5_000), Arm("treatment", 5_000)),
        control="control",
        prerequisites=tuple(Prerequisite(other, ("treatment",)) for other in needs),
        holdouts=holdouts,
    )


def test_a_chain_of_prerequisites_is_fine() -> None:
    check_compatible(experiment("a", ("b", "c")), [experiment("b", ("c",)), experiment("c")])


@pytest.mark.parametrize(
    ("config", "others", "message"),
    [
        (experiment("a", ("b",)), [], "its prerequisite 'b' does not run; publish and start that one first"),
        (experiment("a", ("b",)), [experiment("b", ("a",))], r"lead back to it \(a -> b -> a\)"),
        (experiment("a", ("b",)), [experiment("b", ("c",)), experiment("c", ("a",))], "a -> b -> c -> a"),
        (experiment("a"), [experiment("b", (), (Holdout("q", 500, "global"),))], "has the global holdout 'q'"),
        (
            experiment("a", (), (Holdout("q", 400, "global"),)),
            [experiment("b", (), (Holdout("q", 500, "global"),))],
            "global of size 500 in 'b', and global of size 400 here",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_its_remedy(
    config: ExperimentConfig, others: list[ExperimentConfig], message: str
) -> None:
    with pytest.raises(ConflictError, match=message):
        check_compatible(config, others)


def test_an_arm_that_the_prerequisite_lacks_is_refused() -> None:
    other = ExperimentConfig(key="b", salt="b", coverage=1, arms=(Arm("x", 5_000), Arm("y", 5_000)), control="x")
    with pytest.raises(ConflictError, match=r"has no arm 'treatment' \(it has x, y\)"):
        check_compatible(experiment("a", ("b",)), [other])


def test_a_selective_holdout_binds_nobody_else_and_an_older_version_of_itself_is_ignored() -> None:
    check_compatible(experiment("a"), [experiment("b", (), (Holdout("q", 500),))])
    check_compatible(experiment("a"), [experiment("a", ("gone",), (Holdout("q", 500, "global"),))])


@given(st.dictionaries(st.sampled_from("abcde"), st.sets(st.sampled_from("abcde"), max_size=3), min_size=1))
def test_what_passes_one_by_one_can_be_served_together(needs: dict[str, set[str]]) -> None:
    """A service can load every set of configs that the checks at publishing accept."""
    accepted: dict[str, ExperimentConfig] = {}
    for key, others in [*needs.items(), *needs.items()]:
        try:
            config = experiment(key, tuple(sorted(others)))
            check_compatible(config, accepted.values())
        except (ConfigError, ConflictError):
            continue
        accepted[key] = config
    prepare_all([PublishedExperiment(config, 1) for config in accepted.values()])
