"""Text to ids: examples, and the fast encoding against a plain one on real and generated text."""

from __future__ import annotations

import json
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.errors import ArtifactError, InputError
from inference.inputs import TEXT_FIELDS
from inference.tokenizer import Tokenizer
from inference.vocabulary_index import FREQUENT_CHARACTERS
from tests.inference.plain_tokenizer import PlainTokenizer

REAL = Path(__file__).parents[3] / "shared" / "data"


def named(tokenizer: Tokenizer, text: str) -> Counter[str]:
    """The tokens behind the ids, via the saved file: a second way to read the vocabularies."""
    content = tokenizer.vocabulary
    names = content.unigrams + content.bigrams + content.trigrams
    return Counter(names[i] for i in tokenizer.ids(text))


def test_tokens_of_two_words_are_unigrams_bigrams_and_trigrams_over_the_whole_string() -> None:
    tokenizer = Tokenizer.fit([{"title": "Red shoe"}])
    assert named(tokenizer, "red shoe") == Counter(
        ["red", "shoe", "red#shoe", "#re", "red", "ed#", "d#s", "#sh", "sho", "hoe", "oe#"]
    )


def test_words_of_one_character_have_trigrams_too() -> None:
    tokenizer = Tokenizer.fit([{"title": "a b"}])
    assert named(tokenizer, "a b") == Counter(["a", "b", "a#b", "#a#", "a#b", "#b#"])


def test_an_id_occurs_as_often_as_its_token() -> None:
    tokenizer = Tokenizer.fit([{"title": "red red red"}])
    assert named(tokenizer, "red red red")["red#red"] == 2


def test_tokens_outside_the_vocabularies_are_dropped() -> None:
    tokenizer = Tokenizer.fit([{"title": "red shoe"}])
    assert tokenizer.ids("xyzzy quux") == []
    assert "d#x" not in named(tokenizer, "red xyzzy")
    assert named(tokenizer, "red xyzzy") == Counter(["red", "#re", "red", "ed#"])


def test_the_three_vocabularies_follow_each_other_and_keep_the_most_frequent() -> None:
    corpus = [{"title": "b b a c"}, {"brand": "b a"}]
    tokenizer = Tokenizer.fit(corpus, unigrams=2, bigrams=1, trigrams=3)
    assert tokenizer.vocabulary.unigrams == ["b", "a"]
    assert tokenizer.vocabulary.bigrams == ["b#a"]
    assert tokenizer.vocabulary.trigrams == ["#b#", "#a#", "b#a"]
    assert tokenizer.size == 6
    assert sorted(tokenizer.ids("b a")) == [0, 1, 2, 3, 4, 5]


def test_ids_do_not_depend_on_the_order_of_the_corpus() -> None:
    corpus = [{"title": f"{a} {b}", "brand": a} for a in "abcde" for b in ("red", "blue", "green")]
    shuffled = random.Random(1).sample(corpus, len(corpus))
    assert Tokenizer.fit(corpus, bigrams=7).vocabulary == Tokenizer.fit(shuffled, bigrams=7).vocabulary


def test_fields_outside_the_twelve_are_not_read() -> None:
    tokenizer = Tokenizer.fit([{"title": "lamp", "sku": "zz9"}])
    assert tokenizer.ids("zz9") == []
    assert tokenizer.encode([{"sku": "lamp"}])[1].sum() == 0


@pytest.mark.parametrize("corpus", [[], [{}], [{"title": "!!!"}], [{"sku": "lamp"}]])
def test_a_corpus_without_a_word_is_refused(corpus: list[dict[str, str]]) -> None:
    with pytest.raises(InputError, match="has no word"):
        Tokenizer.fit(corpus)


def test_a_batch_is_bags_field_after_field_padded_with_minus_one() -> None:
    tokenizer = Tokenizer.fit([{"title": "red shoe", "brand": "acme"}])
    tokens, lengths = tokenizer.encode([{"brand": "acme", "title": "red shoe"}, {}, {"size_type": "red"}])
    assert (tokens.dtype, lengths.dtype) == (np.int32, np.int32)
    assert lengths.shape == (3, len(TEXT_FIELDS))
    title, brand = lengths[0, 0], lengths[0, TEXT_FIELDS.index("brand")]
    assert lengths.sum(1).tolist() == [title + brand, 0, len(tokenizer.ids("red"))]
    assert tokens[0, :title].tolist() == tokenizer.ids("red shoe")
    assert tokens[0, title:].tolist() == tokenizer.ids("acme")
    assert (tokens[1] == -1).all()
    assert lengths[2, -1] == len(tokenizer.ids("red"))
    tokens[0, 0] = 0  # the caller's own array


def test_empty_batches_and_empty_products_have_shapes_too() -> None:
    tokenizer = Tokenizer.fit([{"title": "red"}])
    tokens, lengths = tokenizer.encode([])
    assert (tokens.shape, lengths.shape) == ((0, 1), (0, 12))
    tokens, lengths = tokenizer.encode([{}, {"title": ""}])
    assert (tokens.shape, lengths.shape) == ((2, 1), (2, 12))


def check_equal(corpus: list[dict[str, str]], sizes: tuple[int, int, int]) -> None:
    plain = PlainTokenizer(corpus, sizes)
    fast = Tokenizer.fit(corpus, unigrams=sizes[0], bigrams=sizes[1], trigrams=sizes[2])
    content = fast.vocabulary
    assert [*content.unigrams, *content.bigrams, *content.trigrams] == [t for v in plain.vocabularies for t in v]
    for batch in (corpus, corpus[::-1]):
        flat, lengths = fast.encode_flat(batch)
        bags = [plain.ids(fields.get(name, "")) for fields in batch for name in TEXT_FIELDS]
        assert lengths.ravel().tolist() == [len(bag) for bag in bags]
        ends = lengths.ravel().cumsum()
        for bag, end in zip(bags, ends, strict=True):
            assert sorted(flat[end - len(bag) : end].tolist()) == sorted(bag)


@pytest.mark.parametrize("sizes", [(200_000, 1_000_000, 64_000), (300, 200, 150)])
def test_bags_are_those_of_the_plain_tokenizer_on_real_products(sizes: tuple[int, int, int]) -> None:
    files = [REAL / name / "products.jsonl" for name in ("zava", "eshop")]
    if not all(file.is_file() for file in files):
        pytest.skip(f"the real catalogues are not in {REAL}")
    corpus = []
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            fields = {"title": row["title"], "description": row["description"], "brand": row.get("brand", "")}
            corpus.append(fields | {"product_type": " > ".join(row["category"])})
    assert len(corpus) > 500
    check_equal(corpus, sizes)


_ALPHABETS = [
    st.text(max_size=30),
    st.text("abB -#_\x02\x1f", max_size=12),
    st.text("aé日ほ한\u0301\u200bß ", max_size=12),
]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(TEXT_FIELDS), st.one_of(_ALPHABETS)), min_size=1, max_size=6))
def test_bags_are_those_of_the_plain_tokenizer_on_any_text(corpus: list[dict[str, str]]) -> None:
    anchored = [{"title": "a b"}, *corpus]
    check_equal(anchored, (50, 50, 50))


def test_the_size_of_a_portion_changes_nothing() -> None:
    """Texts shorter and longer than a portion, ASCII and not, first and last."""
    corpus = [{"title": f"word{i} " * (i % 9), "description": "größe 赤い靴" * (i % 4)} for i in range(60)]
    tokenizer = Tokenizer.fit(corpus)
    expected = tokenizer.encode_flat(corpus)
    content = tokenizer.vocabulary
    for size in (1, 7, 100):
        portioned = Tokenizer(content.unigrams, content.bigrams, content.trigrams, portion=size)
        for got, whole in zip(portioned.encode_flat(corpus), expected, strict=True):
            np.testing.assert_array_equal(got, whole)


def test_a_text_far_longer_than_a_portion_is_encoded_as_a_whole() -> None:
    tokenizer = Tokenizer.fit([{"title": "red shoe"}])
    tokens, lengths = tokenizer.encode([{"title": "lamp"}, {"title": "red shoe " * 40_000}, {"title": "shoe"}])
    assert np.bincount(tokens[1, : lengths[1, 0]]).tolist() == [40_000] * tokenizer.size
    assert lengths[2, 0] == len(tokenizer.ids("shoe"))


def test_trigrams_of_rare_characters_are_distinguished() -> None:
    """There are more characters than the table of frequent ones can hold."""
    characters = [chr(code) for code in [*range(0x61, 0x7B), *range(0x3B1, 0x3CA), *range(0x430, 0x450)]]
    corpus = [
        {"title": " ".join("".join(random.Random(n).choices(characters, k=6)) for _ in range(9))} for n in range(40)
    ]
    used = set("".join(Tokenizer.fit(corpus).vocabulary.trigrams))
    assert len(used) > FREQUENT_CHARACTERS + 10
    check_equal(corpus, (10_000, 10_000, 10_000))
    check_equal(corpus, (100, 100, 700))


def test_threads_get_the_same_bags() -> None:
    corpus = [{"title": f"word{i} wörd{i % 7} word{i % 5}"} for i in range(60)]
    tokenizer = Tokenizer.fit(corpus)
    expected = tokenizer.encode(corpus)[0]
    with ThreadPoolExecutor(4) as pool:
        for result, _ in pool.map(tokenizer.encode, [corpus] * 40):
            np.testing.assert_array_equal(result, expected)


def test_a_saved_tokenizer_reads_back_as_the_same(tmp_path: Path) -> None:
    tokenizer = Tokenizer.fit([{"title": "Красная обувь 赤い靴"}, {"description": 'quote " and \\ slash'}])
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.vocabulary == tokenizer.vocabulary
    assert loaded.ids("красная 赤い slash") == tokenizer.ids("красная 赤い slash") != []
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.json"]


def damage_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_binary(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00")


def damage_kind(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bigrams": "abc"}))


def damage_field(path: Path) -> None:
    path.write_text(json.dumps({"format": "sagelift-tokenizer-1"}))


@pytest.mark.parametrize("damage", [damage_cut, damage_empty, damage_binary, damage_kind, damage_field])
def test_a_damaged_file_is_refused(tmp_path: Path, damage: object) -> None:
    path = tmp_path / "tokenizer.json"
    Tokenizer.fit([{"title": "red shoe"}]).save(path)
    damage(path)  # type: ignore[operator]
    with pytest.raises(ArtifactError, match=r"tokenizer\.json is not a tokenizer or is truncated"):
        Tokenizer.load(path)


def test_a_missing_file_another_format_and_a_doubled_token_are_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(ArtifactError, match="cannot be read: No such file"):
        Tokenizer.load(path)
    path.write_text(json.dumps({"format": "other-3", "unigrams": [], "bigrams": [], "trigrams": []}))
    with pytest.raises(ArtifactError, match="format 'other-3', must be"):
        Tokenizer.load(path)
    for lists in ((["a", "a"], [], []), (["a"], ["a#b", "a#b"], []), ([], [], ["#a#", "#a#"])):
        with pytest.raises(ArtifactError, match="token twice"):
            Tokenizer(*lists)
    with pytest.raises(ArtifactError, match="'ab' as a trigram"):
        Tokenizer(["ab"], [], ["ab"])
