"""`train_bpe`: by hand, equal to the library's Rust trainer, equal to counting anew; encodes as what it hands back."""

import json
import random
from collections import Counter, defaultdict
from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from hfcourse.errors import InputError
from hfcourse.tokenization import train_bpe
from hfcourse.tokenization.bpe import CHARACTER_OF_BYTE
from hfcourse.tokenization.merging import merge_words
from tests.tokenization.corpora import chinese, english, random_texts

# Sennrich et al. 2016, Algorithm 1: its words and their numbers.
PAPER = ["low"] * 5 + ["lower"] * 2 + ["newest"] * 6 + ["widest"] * 3
UNSEEN = ["The  fox's 12 dens\n\n are naïve…", "狐狸在河边睡觉。", "\U0001f98a\x00\t", " <s>x</s>", "", "<s><s>"]


def library(texts, vocab_size, special_tokens=(), min_frequency=0, byte_level=True):
    """(vocabulary, merges) of `tokenizers.trainers.BpeTrainer`."""
    bpe = Tokenizer(models.BPE())
    split = pre_tokenizers.ByteLevel(add_prefix_space=False) if byte_level else pre_tokenizers.WhitespaceSplit()
    bpe.pre_tokenizer = split
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if byte_level else [],
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    model = json.loads(bpe.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def counting_anew(texts, vocab_size, min_frequency, suffix):
    """BPE as its definition says: count all pairs, merge the best, again. (tokens, merges)"""
    counts = Counter(word for text in texts for word in text.split())
    spelt = {word: [*word[:-1], word[-1] + suffix] for word in counts}
    characters = sorted({character for word in counts for character in word})
    tokens = list(dict.fromkeys(characters + sorted({symbol for symbols in spelt.values() for symbol in symbols})))
    merges = []
    while len(tokens) < vocab_size:
        pairs = Counter()
        for word, symbols in spelt.items():
            for pair in pairwise(symbols):
                pairs[pair] += counts[word]
        best = min(pairs, key=lambda p: (-pairs[p], tokens.index(p[0]), tokens.index(p[1])), default=None)
        if best is None or pairs[best] < max(min_frequency, 1):
            break
        merges.append(best)
        tokens += [] if "".join(best) in tokens else ["".join(best)]
        for symbols in spelt.values():
            i = 0
            while i < len(symbols) - 1:
                if (symbols[i], symbols[i + 1]) == best:
                    symbols[i : i + 2] = ["".join(best)]
                i += 1
    return tokens, merges


def test_the_papers_words_by_hand():
    """The suffix is on the last character. d e i l n o r s t w have the ids 0 to 9, then r</w> t</w> w</w>: 10 to 12.

    (e, s) and (s, t</w>) occur 9 times (six newest, three widest), (w, e) 8, (l, o) 7; of equals (1, 7) < (7, 11): es.
    Then (es, t</w>) has 9, (w, es) 6 and (w, e) 2: est</w>, and next lo with 7. Now (n, e), (e, w) and (w, est</w>)
    have 6, (lo, w</w>) 5: of equals (1, 9) < (4, 1) < (9, 14): ew.
    """
    bpe = train_bpe(PAPER, 17, byte_level=False, end_of_word_suffix="</w>")
    assert list(bpe.vocab) == [*"deilnorstw", "r</w>", "t</w>", "w</w>", "es", "est</w>", "lo", "ew"]
    assert bpe.merges == [("e", "s"), ("es", "t</w>"), ("l", "o"), ("e", "w")]
    assert [bpe.vocab[t] for t in ("lo", "w", "est</w>")] == bpe.encode("lowest")  # a word that it never saw


def test_overlaps_are_merged_from_the_left():
    """Twice baaa: X for aa leaves b X a, so one ba, and one aa beside it, become bX and Xa; each counts twice."""
    words, changes = ["baaa", "b"], defaultdict(int)
    new_pairs = merge_words(words, [2, 5], [0], "aa", "X", changes)
    assert words == ["bXa", "b"]
    assert changes == {"ba": -2, "bX": 2, "aa": -2, "Xa": 2}
    assert new_pairs == {"bX": [0], "Xa": [0]}


@pytest.mark.parametrize(("corpus", "vocab_size"), [(english, 4000), (chinese, 1500)])
def test_a_megabyte_gives_the_librarys_vocabulary_and_merges(corpus, vocab_size):
    texts = corpus()
    assert sum(len(text.encode()) for text in texts) > 1_000_000
    bpe = train_bpe(texts, vocab_size, ["<pad>", "</s>"])
    assert (bpe.vocab, bpe.merges) == library(texts, vocab_size, ["<pad>", "</s>"])
    assert len(bpe.vocab) == vocab_size


def test_fuzzed_corpora_give_the_librarys_vocabulary_and_merges():
    """Six hundred: ties, overlaps, special tokens that merges reach too, minimal frequencies, too many characters."""
    stopped_early = special_reached = 0
    for seed in range(600):
        rng = random.Random(seed)
        texts = random_texts(rng)
        special_tokens = rng.choice(((), ("<pad>",), ("ab", "abc"), ("the", "<s>"), ("a", "狐狸", "<s>"), ("a", "a")))
        min_frequency, byte_level = rng.choice((0, 1, 2, 5)), rng.random() < 0.5
        vocab_size = (256 if byte_level else 0) + rng.randint(1, 120)
        arguments = (texts, vocab_size, special_tokens, min_frequency, byte_level)
        bpe = train_bpe(*arguments)
        assert (bpe.vocab, bpe.merges) == library(*arguments), seed
        stopped_early += len(bpe.vocab) < vocab_size
        special_reached += any(left + right in special_tokens for left, right in bpe.merges)
    assert stopped_early > 50
    assert special_reached > 30


def test_characters_with_an_end_of_word_are_counted_right():
    for seed in range(300):
        rng = random.Random(seed)
        texts, vocab_size, min_frequency = random_texts(rng), rng.randint(2, 60), rng.choice((0, 2, 3))
        bpe = train_bpe(texts, vocab_size, (), min_frequency, byte_level=False, end_of_word_suffix="</w>")
        assert (list(bpe.vocab), bpe.merges) == counting_anew(texts, vocab_size, min_frequency, "</w>"), seed


def test_the_longest_special_token_is_found_first():
    bpe = train_bpe(["a"], 260, ["<s", "<s>", "s>"])
    assert bpe.encode("<s><ss>") == [1, 0, 2] == bpe.to_tokenizer()("<s><ss>")["input_ids"]


def test_ties_by_first_seen_would_be_another_tokenizer():
    """minbpe's rule. In "ba ab" both pairs occur once; the smaller ids win: (a, b), not (b, a)."""
    assert train_bpe(["ba ab"], 3, byte_level=False).merges == [("a", "b")]


@pytest.fixture(scope="module")
def trained():
    texts = english(100_000)
    form = {
        "bytes": {},
        "characters": {"byte_level": False, "end_of_word_suffix": "</w>"},
        "plain": {"byte_level": False},
    }
    return {name: train_bpe(texts, 1500, ["<pad>", "<s>", "</s>"], **options) for name, options in form.items()}


@pytest.mark.parametrize("form", ["bytes", "characters", "plain"])
def test_it_encodes_and_decodes_as_the_tokenizer_that_it_hands_back(trained, form):
    bpe = trained[form]
    tokenizer = bpe.to_tokenizer(pad_token="<pad>", eos_token="</s>")
    texts = [*english(20_000), *(UNSEEN if form == "bytes" else [" <s>low</s>", "", "<s><s>", " \n a"])]
    for text in texts:
        assert bpe.encode(text) == tokenizer(text)["input_ids"], text
        assert bpe.decode(bpe.encode(text)) == tokenizer.decode(bpe.encode(text)), text


@given(text=st.text())
@settings(max_examples=100, deadline=None)
def test_bytes_lose_nothing(trained, text):
    assert trained["bytes"].decode(trained["bytes"].encode(text)) == text


def test_characters_lose_spaces_alone(trained):
    bpe = trained["characters"]
    for text in english(20_000):
        assert bpe.decode(bpe.encode(text)) == " ".join(text.split())


def test_a_fuzzed_encoding_is_the_librarys():
    """Short alphabets, so that merges overlap and one string is reached in several ways."""
    for seed in range(200):
        rng = random.Random(seed)
        bpe = train_bpe(random_texts(rng), 256 + rng.randint(10, 100))
        tokenizer = bpe.to_tokenizer()
        for text in random_texts(rng):
            assert bpe.encode(text) == tokenizer(text)["input_ids"], (seed, text)


def test_what_characters_cannot_spell(trained):
    bpe = trained["characters"]
    tokenizer = bpe.to_tokenizer()
    assert tokenizer.unk_token == "<unk>"
    assert (len(tokenizer), tokenizer.unk_token_id) == (len(bpe.vocab) + 1, len(bpe.vocab))
    assert tokenizer("low 狐")["input_ids"] == [*bpe.encode("low"), tokenizer.unk_token_id]  # the library drops it
    with pytest.raises(InputError, match="'狐</w>' was not in the training texts; have '<unk>'"):
        bpe.encode("low 狐")
    knowing = train_bpe(["low"], 9, ["<unk>"], byte_level=False, end_of_word_suffix="</w>")
    assert knowing.encode("low 狐") == [*knowing.encode("low"), 0] == knowing.to_tokenizer()("low 狐")["input_ids"]


@pytest.mark.parametrize("form", ["bytes", "characters"])
def test_saved_with_sentinels_it_is_the_same(trained, form, tmp_path):
    tokenizer = trained[form].to_tokenizer(
        100, pad_token="<pad>", eos_token="</s>", append_eos=True, model_max_length=64
    )
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    sentinels = [f"<extra_id_{i}>" for i in range(100)]
    assert loaded.convert_tokens_to_ids(sentinels) == list(range(len(loaded) - 1, len(loaded) - 101, -1))
    assert (loaded.pad_token, loaded.eos_token, loaded.model_max_length) == ("<pad>", "</s>", 64)
    for text in ("The river is wide.", "is<extra_id_0>wide<extra_id_99>"):
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert loaded(text)["input_ids"][-1] == loaded.eos_token_id
    assert loaded("<extra_id_7>")["input_ids"] == [len(loaded) - 8, loaded.eos_token_id]


def test_gpt2s_bytes():
    """A space is Ġ, a newline Ċ, the rest of ASCII itself; 256 characters, all of them different and printable."""
    assert (CHARACTER_OF_BYTE[32], CHARACTER_OF_BYTE[10], CHARACTER_OF_BYTE[65]) == ("Ġ", "Ċ", "A")
    assert sorted(CHARACTER_OF_BYTE.values()) == sorted(pre_tokenizers.ByteLevel.alphabet())


def test_bad_input_is_named():
    with pytest.raises(InputError, match="end_of_word_suffix: is for characters"):
        train_bpe(["a"], 300, end_of_word_suffix="</w>")
    with pytest.raises(InputError, match="no text"):
        train_bpe(["", ""], 300)
    with pytest.raises(InputError, match="vocab_size=2000000: is beyond 1114112"):
        train_bpe(["a"], 2_000_000)
    with pytest.raises(InputError, match="pad_token: '<pad>' is none of the special tokens"):
        train_bpe(["a"], 300).to_tokenizer(pad_token="<pad>")
    with pytest.raises(InputError, match="append_eos: needs an eos_token"):
        train_bpe(["a"], 300).to_tokenizer(append_eos=True)
