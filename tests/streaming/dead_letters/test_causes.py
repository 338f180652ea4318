"""The few causes behind many letters."""

from __future__ import annotations

from datetime import timedelta

from streaming.dead_letters.causes import group_by_cause, message_shape
from tests.streaming.builders import NOW
from tests.streaming.dead_letters.builders import letter


def test_messages_that_differ_in_their_values_are_one_cause() -> None:
    assert message_shape("price.amount: -3.50 must be at least 0") == message_shape(
        "price.amount: 12 must be at least 0"
    )
    assert message_shape("https://a/1.jpg: 404 Not Found") == message_shape("https://b/2/3.png: 404 Not Found")
    assert message_shape("currency: 'XYZ' is not active") == message_shape("currency: 'QQQ' is not active")
    assert message_shape("title: too long") != message_shape("brand: too long")
    assert message_shape("the shop's price isn't known") == "the shop's price isn't known", (
        "an apostrophe quotes nothing"
    )


def test_causes_are_counted_most_frequent_first_with_an_example() -> None:
    letters = [letter(n, after=n, stage="decode", error="E", message=f"price: -{n}") for n in range(5)]
    letters += [letter(9, after=-5, stage="image", error="E", message="price: -1")]
    first, second = group_by_cause(letters)
    assert (first.topic, first.stage, first.error, first.message) == ("catalog.updates", "decode", "E", "price: …")
    assert (first.letters, first.first, first.last) == (5, NOW, NOW + timedelta(seconds=4))
    assert first.newest == letters[4].id
    assert (second.stage, second.letters) == ("image", 1)


def test_causes_beyond_the_limit_are_counted_together() -> None:
    words = ["title", "brand", "color", "size", "pattern", "title"]
    causes = group_by_cause((letter(n, stage="decode", message=word) for n, word in enumerate(words)), max_causes=3)
    assert [(cause.message, cause.letters) for cause in causes] == [
        ("(other messages)", 2), ("title", 2), ("brand", 1), ("color", 1),
    ]  # fmt: skip
