"""Words are found from ids alone, on every kind of vocabulary, and are those that a reader would see."""

import re

import numpy as np
import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from hfcourse.collators.words import WordStarts
from hfcourse.errors import InputError
from tests.collators.conftest import TEXTS

# A run of letters and digits; a sign; a Han character. Written otherwise than in the library.
WORD = re.compile(r"[぀-ヿ㐀-鿿]|[^\W぀-ヿ㐀-鿿_]+|[^\w\s]|_")


def starts_of_a_reader(text, offsets):
    """Tokens that begin a word, by their places in the text; a space before it belongs to it.

    A word that begins within a token (`'t`) has no token of its own.
    """
    begins = {0}
    for match in WORD.finditer(text):
        i = next(i for i, (begin, end) in enumerate(offsets) if begin <= match.start() < end)
        if not text[offsets[i][0] : match.start()].strip():
            begins.add(i - 1 if i and not text[slice(*offsets[i - 1])].strip() else i)
    return sorted(begins)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", ["byte_level", "metaspace"])
def test_the_words_are_a_readers(kind, text, request):
    tokenizer = request.getfixturevalue(kind)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    starts = WordStarts(tokenizer)(np.array([encoded["input_ids"]]))[0]
    assert np.flatnonzero(starts).tolist() == starts_of_a_reader(text, encoded["offset_mapping"])


def test_a_word_is_several_tokens_here(byte_level, metaspace):
    """Else the tests above would pass with one word a token."""
    for tokenizer in (byte_level, metaspace):
        ids = tokenizer(" internationalization", add_special_tokens=False)["input_ids"]
        assert len(ids) >= 3
        assert WordStarts(tokenizer)(np.array([ids])).tolist() == [[True] + [False] * (len(ids) - 1)]
    han = byte_level("都", add_special_tokens=False)["input_ids"]
    assert len(han) >= 2


def test_word_piece(word_piece):
    text = "The quick fox jumped, didn't it? 我喜欢喝茶。"
    ids = word_piece(text)["input_ids"]
    starts = WordStarts(word_piece)(np.array([ids]))[0]
    tokens = word_piece.convert_ids_to_tokens(ids)
    assert [t for t, s in zip(tokens, starts, strict=True) if not s] == ["##ick", "##ed", "##n"]
    assert len(tokens) == 21


def test_end_of_word_symbols():
    """The course's form: `w e s t </w>`, signs apart."""
    vocab = {token: i for i, token in enumerate(["<unk>", "we", "st</w>", "t", "</w>", ",</w>", "st", ","])}
    bpe = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", end_of_word_suffix="</w>"))
    starts = WordStarts(PreTrainedTokenizerFast(tokenizer_object=bpe, unk_token="<unk>"))
    # we st</w> | we t </w> | , </w> | st , | st</w>
    ids = np.array([[1, 2, 1, 3, 4, 7, 4, 6, 7, 2]])
    assert np.flatnonzero(starts(ids)[0]).tolist() == [0, 2, 5, 6, 7, 8, 9]


def test_whole_word_vocabularies_and_those_without_marks(t5_tokenizer):
    assert WordStarts(t5_tokenizer)(np.array([[5, 6, 7]])).all()
    bpe = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    with pytest.raises(InputError, match="give the rows a column 'word_starts'"):
        WordStarts(PreTrainedTokenizerFast(tokenizer_object=bpe))
