"""`train_wordpiece`: by hand, equal to counting anew, and to the library where that has no choice; deterministic."""

import hashlib
import json
import os
import random
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from hfcourse.errors import InputError
from hfcourse.tokenization import train_wordpiece
from hfcourse.tokenization.wordpiece import BERT_SPECIAL_TOKENS, split_words
from tests.tokenization.corpora import english, random_texts

ROOT = Path(__file__).parents[2]
SPECIAL = list(BERT_SPECIAL_TOKENS)
# The words of the Hugging Face course's chapter on WordPiece, and their numbers.
COURSE = ["hug"] * 10 + ["pug"] * 5 + ["pun"] * 12 + ["bun"] * 4 + ["hugs"] * 5


def counting_anew(texts, vocab_size, min_frequency, score):
    """(tokens, whether ids had to break a tie) by the definition: count everything, merge the best pair, again."""
    counts = Counter(word for text in texts for word in text.split())
    spelt = {word: [word[0], *("##" + character for character in word[1:])] for word in counts}
    characters = sorted({character for word in counts for character in word})
    tokens = list(dict.fromkeys(characters + sorted({symbol for symbols in spelt.values() for symbol in symbols})))
    tied = False
    while len(tokens) < vocab_size:
        pairs, symbols = Counter(), Counter()
        for word, parts in spelt.items():
            for part in parts:
                symbols[part] += counts[word]
            for pair in pairwise(parts):
                pairs[pair] += counts[word]

        def rank(pair, pairs=pairs, symbols=symbols, tokens=tokens):
            n = pairs[pair]
            value = n if score == "count" else Fraction(n, symbols[pair[0]] * symbols[pair[1]])
            return -value, -n, tokens.index(pair[0]), tokens.index(pair[1])

        best = min((pair for pair in pairs if pairs[pair] >= max(min_frequency, 1)), key=rank, default=None)
        if best is None:
            break
        tied |= sum(rank(pair)[:2] == rank(best)[:2] for pair in pairs) > 1
        new = best[0] + best[1].removeprefix("##")
        tokens += [] if new in tokens else [new]
        for parts in spelt.values():
            i = 0
            while i < len(parts) - 1:
                if (parts[i], parts[i + 1]) == best:
                    parts[i : i + 2] = [new]
                i += 1
    return tokens, tied


def learnt(texts, num_tokens, **options):
    """The tokens that are neither special nor of one character, in order."""
    vocab = train_wordpiece(texts, num_tokens, **options).vocab
    return [token for token in vocab if token not in SPECIAL and len(token.removeprefix("##")) > 1]


def test_the_two_scores_by_hand():
    """h ##u 15, p ##u 17, b ##u 4, ##u ##g 20, ##u ##n 16, ##g ##s 5; ##u occurs 36, ##g 20, ##n 16, ##s 5 times.

    By count ##u ##g is first: 20. By score it has 20/(36 · 20) = 1/36, as much as every pair with ##u (h, p, b, ##g
    and ##n are beside ##u whenever they occur), while ##g ##s has 5/(20 · 5) = 1/20: it is first, as the course says.
    Then ##u is beside h, p, b, ##g, ##gs and ##n, always: all have 1/36, and the highest count is that of p ##u, 17.
    """
    size = len(SPECIAL) + len("bghnpsu") + len("gnsu") + 2
    assert learnt(COURSE, size) == ["##ug", "##un"]
    assert learnt(COURSE, size, score="likelihood") == ["##gs", "pu"]


@pytest.mark.parametrize("score", ["count", "likelihood"])
def test_fuzzed_corpora_are_counted_right(score):
    stopped_early = 0
    for seed in range(200):
        rng = random.Random(seed)
        texts = random_texts(rng)
        vocab_size, min_frequency = rng.randint(2, 60), rng.choice((0, 2, 4))
        wordpiece = train_wordpiece(texts, vocab_size, (), min_frequency, score)
        words = [word for text in texts for word in split_words(text, lowercase=False)]
        expected, _ = counting_anew(words, vocab_size, min_frequency, score)
        assert list(wordpiece.vocab) == expected, seed
        stopped_early += len(expected) < vocab_size
    assert stopped_early > 20


def test_without_ties_the_library_finds_the_same_tokens():
    """Where no two pairs are ever the best, the library's order of ids, which is chance, decides nothing."""
    compared = 0
    for seed in range(300):
        rng = random.Random(seed)
        texts = ["".join(rng.choices("abc", k=rng.randint(2, 5))) for _ in range(20)] * 2
        vocab_size = len(SPECIAL) + 6 + rng.randint(2, 6)
        expected, tied = counting_anew(texts, vocab_size - len(SPECIAL), 0, "count")
        if not tied:
            backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
            backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
            trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=SPECIAL, show_progress=False)
            backend.train_from_iterator(texts, trainer)
            assert set(train_wordpiece(texts, vocab_size).vocab) == {*SPECIAL, *expected} == set(backend.get_vocab())
            compared += 1
    assert compared > 30


DIGEST = """
import hashlib, json
from hfcourse.tokenization import train_wordpiece
from tests.tokenization.corpora import english
for score in ("count", "likelihood"):
    vocab = train_wordpiece(english(60_000), 800, score=score, min_frequency=3).vocab
    print(hashlib.sha256(json.dumps(list(vocab.items())).encode()).hexdigest())
"""


def test_another_process_finds_the_same_vocabulary():
    """Hash seeds differ, and so does the order of every set of strings."""
    outputs = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", DIGEST]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
        outputs.add(done.stdout)
    assert len(outputs) == 1
    vocab = train_wordpiece(english(60_000), 800, score="likelihood", min_frequency=3).vocab
    here = hashlib.sha256(json.dumps(list(vocab.items())).encode()).hexdigest()
    assert outputs.pop().splitlines()[1] == here


@pytest.fixture(scope="module", params=[False, True], ids=["cased", "uncased"])
def trained(request):
    return train_wordpiece(english(60_000), 800, lowercase=request.param)


def test_it_encodes_as_the_tokenizer_that_it_hands_back(trained):
    tokenizer = trained.to_tokenizer()
    for text in [
        *english(15_000),
        "Die naïve Füchsin 狐狸 [MASK] x[SEP]",
        "",
        "a" * 100,
        "a" * 101,
        "\u0301",
        "\t\x00",
    ]:
        assert [2, *trained.encode(text), 3] == tokenizer(text)["input_ids"], text
        plain = tokenizer.decode(trained.encode(text))
        assert trained.decode(trained.encode(text)).split() == plain.split(), text
    assert (tokenizer.pad_token, tokenizer.unk_token, tokenizer.mask_token) == ("[PAD]", "[UNK]", "[MASK]")


def test_longest_match_first():
    """un##able is not un ##a ##ble, if ##able is known; a word with one unknown character is unknown as a whole."""
    wordpiece = train_wordpiece(["able"] * 3 + ["unable", "undo"], 40)
    tokens = list(wordpiece.vocab)
    assert [tokens[i] for i in wordpiece.encode("unable undoable")] == ["unable", "undo", "##able"]
    assert wordpiece.encode("unqable") == [wordpiece.vocab["[UNK]"]]
    assert wordpiece.decode(wordpiece.encode("unable undoable")) == "unable undoable"


def test_saved_with_sentinels_it_is_the_same(trained, tmp_path):
    tokenizer = trained.to_tokenizer(10, model_max_length=64)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    sentinels = [f"<extra_id_{i}>" for i in range(10)]
    assert loaded.convert_tokens_to_ids(sentinels) == list(range(len(loaded) - 1, len(loaded) - 11, -1))
    text = "The river is wide <extra_id_3> and [MASK]."
    assert loaded(text, "twice")["input_ids"] == tokenizer(text, "twice")["input_ids"]
    assert loaded(text, "twice", return_token_type_ids=True)["token_type_ids"][-1] == 1
    assert loaded.model_max_length == 64


def test_bad_input_is_named():
    with pytest.raises(InputError, match="score: 'gain' is neither count nor likelihood"):
        train_wordpiece(["a"], 300, score="gain")
    with pytest.raises(InputError, match="no text"):
        train_wordpiece([" ", ""], 300)
    with pytest.raises(InputError, match=r"a word is unknown, and '\[UNK\]' is not among the special tokens: b"):
        train_wordpiece(["a"], 300, special_tokens=()).encode("b")
    assert train_wordpiece(["a"], 300, special_tokens=()).to_tokenizer()("b")["input_ids"] == [1]
