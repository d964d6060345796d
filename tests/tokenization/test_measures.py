"""What a vocabulary costs: by hand, and a vocabulary cut to a size is the one that is trained to it."""

import pytest

from hfcourse.errors import InputError
from hfcourse.tokenization import train_bpe, train_tokenizer, train_wordpiece
from hfcourse.tokenization.measures import TrainingUnits, as_table, first_tokens, sizes_up_to
from tests.tokenization.corpora import english

TEXTS = english(60_000)


def trained_on(texts, vocab_size, **options):
    units = TrainingUnits()
    return units, train_bpe(units.watch(texts), vocab_size, **options).to_tokenizer()


def test_by_hand():
    """ "abab ab é" has 9 characters, 10 bytes, 3 words. With one merge it is ab ab | Ġ ab | Ġ Ã ©: 7 tokens.

    Training saw a, b and a space, in the words abab and ab: é is an unknown character of nine, a word of three; the
    bytes of é are always known.
    """
    units, tokenizer = trained_on(["abab", "abab ab"], 257)
    characters, tokens, words = units.compare(tokenizer, ["abab ab é"])
    assert (characters.vocab_size, characters.bytes_per_token, characters.fertility) == (3, 10 / 9, 3)
    assert characters.unknown == 1 / 9
    assert (tokens.vocab_size, tokens.bytes_per_token, tokens.fertility, tokens.unknown) == (257, 10 / 7, 7 / 3, 0)
    assert (words.vocab_size, words.bytes_per_token, words.fertility, words.unknown) == (2, 10 / 3, 1, 1 / 3)
    shown = as_table([characters, tokens, words]).splitlines()
    assert shown[1].split() == ["characters", "3", "1.11", "3.00", "11.11%"]


@pytest.mark.parametrize("byte_level", [True, False])
def test_a_cut_vocabulary_is_the_smaller_one(byte_level):
    options = {"byte_level": byte_level, "end_of_word_suffix": None if byte_level else "</w>"}
    tokenizer = train_bpe(TEXTS, 900, ["<unk>"], **options).to_tokenizer(sentinels=3)
    smaller = train_bpe(TEXTS, 400, ["<unk>"], **options)
    cut = first_tokens(tokenizer, 400)
    for text in TEXTS[:30]:
        assert cut.encode(text, add_special_tokens=False).ids == smaller.encode(text)


def test_a_cut_wordpiece_is_the_smaller_one():
    cut = first_tokens(train_wordpiece(TEXTS, 900).to_tokenizer(), 400)
    smaller = train_wordpiece(TEXTS, 400)
    for text in TEXTS[:30]:
        assert cut.encode(text, add_special_tokens=False).ids == smaller.encode(text)


def test_sizes_are_powers_of_two_above_the_alphabet():
    bytes_and_two = train_tokenizer(TEXTS, 1500)
    assert sizes_up_to(bytes_and_two, 6) == [512, 1024, 1500]
    assert sizes_up_to(bytes_and_two, 2) == [1024, 1500]
    characters = train_wordpiece(["abcabd"] * 9, 40).to_tokenizer()
    assert sizes_up_to(characters, 6)[0] == 16
    assert sizes_up_to(characters, 6)[-1] == len(characters)


def test_larger_vocabularies_stand_for_more_text():
    units, tokenizer = trained_on(TEXTS[:-50], 2000)
    rows = units.compare(tokenizer, TEXTS[-50:])
    assert [row.units for row in rows] == ["characters", *["tokens"] * 3, "words"]
    assert [row.bytes_per_token for row in rows] == sorted(row.bytes_per_token for row in rows)
    assert rows[-1].unknown > 0.1
    assert {row.unknown for row in rows[1:-1]} == {0}


def test_the_library_and_the_one_to_read_are_one():
    ours = train_bpe(TEXTS, 600, ["<|pad|>", "<|endoftext|>"], min_frequency=2)
    theirs = train_tokenizer(TEXTS, 600).backend_tokenizer.to_str()
    tokenizer = ours.to_tokenizer(pad_token="<|pad|>", eos_token="<|endoftext|>", bos_token="<|endoftext|>")
    assert tokenizer.backend_tokenizer.to_str() == theirs


def test_nothing_to_measure():
    units, tokenizer = trained_on(["ab"], 260)
    with pytest.raises(InputError, match="no text to measure"):
        units.compare(tokenizer, [" "])
