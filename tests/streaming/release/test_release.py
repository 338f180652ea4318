"""A release becomes live with everything embedded or not at all; it can be finished later, and rolled back."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference.errors import ArtifactError, ServingError
from inference.releases.repository import live_version, releases, served_versions
from tests.streaming.builders import update
from tests.streaming.fakes import Crash
from tests.streaming.release.shop import Shop


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_a_release_is_live_only_when_the_catalogue_is_embedded_with_it(shop: Shop) -> None:
    seen: list[str | None] = []
    released = shop.release(on_progress=lambda done: seen.append(live_version(shop.repo)))
    assert (released.version, released.counts["embedded"], seen) == ("1", 10, [None])
    assert live_version(shop.repo) == "1"
    assert len(shop.world.topic.compacted("1")) == 10


def test_a_release_of_a_catalogue_that_is_older_than_the_offers_topic_fills_it(shop: Shop) -> None:
    before = shop.world.offers.compacted()
    shop.world.offers.log.clear()
    shop.release()
    assert shop.world.offers.compacted() == before
    assert len(before) == 10


def test_a_release_that_fails_its_probe_does_not_become_live_and_can_be_finished_later(shop: Shop) -> None:
    shop.release()
    shop.triton.broken = {"2"}
    exported: list[str] = []
    with pytest.raises(ServingError):
        shop.release(on_export=exported.append)
    assert (live_version(shop.repo), exported) == ("1", ["2"])
    shop.triton.broken = set()
    assert shop.make_live("2").version == "2"
    assert live_version(shop.repo) == "2"
    assert [r.version for r in releases(shop.repo)] == ["1", "2"], "nothing was exported again"


def test_a_release_that_was_interrupted_after_the_switch_is_finished_by_making_it_live_again(shop: Shop) -> None:
    """What changed during the first pass was embedded with the old release only."""
    shop.triton.crashes = lambda: live_version(shop.repo) == "1"  # in the second pass, when p3 is embedded
    with pytest.raises(Crash):
        shop.release(on_progress=lambda done: shop.world.process(update("p3", 2, title="p 2 2")))
    assert live_version(shop.repo) == "1"
    assert shop.stale("1") == {"p3"}
    shop.triton.crashes = lambda: False
    assert shop.make_live("1").counts["embedded"] == 1
    assert shop.stale("1") == set()


def test_an_older_release_can_be_made_live_again(shop: Shop) -> None:
    """Even when Triton no longer serves it."""
    for _ in range(3):
        shop.release()
    assert served_versions(shop.repo) == ["2", "3"]
    shop.make_live("1")
    assert live_version(shop.repo) == "1"
    assert shop.triton.loaded == ["1", "3"], "the one that was live stays served"


def test_a_second_release_at_the_same_time_is_refused(shop: Shop) -> None:
    refused: list[str] = []

    def during_the_release(done: int) -> None:
        for other in (shop.release, lambda: shop.make_live("1")):
            with pytest.raises(ArtifactError, match="another release"):
                other()
            refused.append("refused")

    shop.release()
    shop.release(on_progress=during_the_release)
    assert refused == ["refused", "refused"]
    assert (live_version(shop.repo), served_versions(shop.repo)) == ("2", ["1", "2"])
    assert shop.release().version == "3"


def test_a_version_that_was_never_exported_is_named(shop: Shop) -> None:
    with pytest.raises(ArtifactError, match="no release '7'"):
        shop.make_live("7")
    assert live_version(shop.repo) is None
