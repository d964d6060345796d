"""WordPiece to read: learnt by count or by the textbook's score, the same on every run; encoded by longest match."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerFast

from hfcourse.errors import InputError
from hfcourse.tokenization.backend import split_at_special_tokens, to_fast_tokenizer
from hfcourse.tokenization.bpe import spell
from hfcourse.tokenization.merging import count_pairs, learn_merges, merge_words, progress_off

PREFIX = "##"
UNK_TOKEN = "[UNK]"
BERT_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_CHARACTERS = 100  # a longer word is unknown, as in BERT


@dataclass(frozen=True)
class WordPiece:
    """What [`train_wordpiece`] learnt. vocab: token -> id; a token that goes on with a word begins with "##"."""

    vocab: dict[str, int]
    special_tokens: tuple[str, ...] = BERT_SPECIAL_TOKENS
    lowercase: bool = False

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without [CLS] and [SEP] around it; special tokens in it are not split.

        Raises:
            InputError: an unknown word, where the vocabulary has no [UNK].
        """
        ids = []
        for part, is_special in split_at_special_tokens(text, self.special_tokens):
            words = [] if is_special else split_words(part, self.lowercase)
            pieces = [part] if is_special else [piece for word in words for piece in self._pieces(word)]
            ids += map(self.vocab.get, pieces)
        if None in ids:
            raise InputError(f"a word is unknown, and '{UNK_TOKEN}' is not among the special tokens: {text[:60]}")
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Words with one space between them: the spaces of the text are not kept, nor is what is unknown."""
        return " ".join(self._tokens[i] for i in ids).replace(f" {PREFIX}", "")

    def to_tokenizer(
        self, sentinels: int = 0, model_max_length: int | None = None, chat_template: str | None = None
    ) -> PreTrainedTokenizerFast:
        """BERT's tokenizer of transformers: [CLS] text [SEP] (if there are such), unknown words as [UNK].

        Args:
            sentinels: how many of T5's `<extra_id_i>` to add, the first with the highest id. Size a model by
                `len(tokenizer)`.
            model_max_length: the context of the model that will use it.
            chat_template: Jinja source that turns messages into text.
        """
        vocab = dict(self.vocab)
        vocab.setdefault(UNK_TOKEN, len(vocab))
        backend = Tokenizer(models.WordPiece(vocab, unk_token=UNK_TOKEN, max_input_chars_per_word=MAX_CHARACTERS))
        backend.normalizer = bert_normalizer(self.lowercase)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece(PREFIX, cleanup=False)
        if {"[CLS]", "[SEP]"} <= set(self.special_tokens):
            backend.post_processor = processors.TemplateProcessing(
                single="[CLS] $A [SEP]",
                pair="[CLS] $A [SEP] $B:1 [SEP]:1",
                special_tokens=[(token, vocab[token]) for token in ("[CLS]", "[SEP]")],
            )
        special_tokens = [*self.special_tokens, UNK_TOKEN]
        roles = {f"{t[1:-1].lower()}_token": t for t in BERT_SPECIAL_TOKENS if t in special_tokens}
        return to_fast_tokenizer(
            backend,
            special_tokens,
            sentinels,
            roles,
            model_max_length=model_max_length,
            chat_template=chat_template,
        )

    def _pieces(self, word: str) -> list[str]:
        """The longest token that the word begins with, then the longest of the rest, …; [UNK] if there is none."""
        if len(word) > MAX_CHARACTERS:
            return [UNK_TOKEN]
        pieces, start = [], 0
        while start < len(word):
            prefix = PREFIX if start else ""
            ends = range(len(word), start, -1)
            end = next((end for end in ends if prefix + word[start:end] in self.vocab), None)
            if end is None:
                return [UNK_TOKEN]
            pieces.append(prefix + word[start:end])
            start = end
        return pieces

    @cached_property
    def _tokens(self) -> list[str]:
        return sorted(self.vocab, key=self.vocab.get)


def train_wordpiece(
    texts: Iterable[str],
    vocab_size: int,
    special_tokens: Iterable[str] = BERT_SPECIAL_TOKENS,
    min_frequency: int = 0,
    score: str = "count",
    lowercase: bool = False,
    show_progress: bool = False,
) -> WordPiece:
    """WordPiece vocabulary, on BERT's words: spaces and punctuation part them, each Chinese character is one.

        "count":       (a, b) = argmax n(ab)                    `tokenizers.trainers.WordPieceTrainer`: BPE, in truth
        "likelihood":  (a, b) = argmax n(ab) / (n(a) · n(b))    the textbook's: not the commonest pair, but the one
                                                                whose parts are oftenest together when they occur

    Of equals the pair of the smaller ids is merged (by likelihood: of the higher count first), and ids follow from the
    texts alone. The library numbers "##" tokens in the order of a hash map, so that two of its runs differ in ids and,
    ties being broken by id, in tokens. By likelihood the best pairs of all (score 1) are those that occur once, of
    parts that occur once: set `min_frequency`, or the vocabulary fills with rare words, letter by letter.

    Args:
        texts: read once.
        vocab_size: with special tokens and alphabet, which are kept whole.
        special_tokens: first ids, in this order; never split. Those with BERT's names play BERT's parts.
        min_frequency: pairs that occur more seldom are not merged.
        score: "count" or "likelihood".
        lowercase: lowercase the texts and strip their accents, as uncased BERT does.
        show_progress: bars for texts and merges, on a terminal.

    Raises:
        InputError: no text, or an unknown score.
    """
    if score not in ("count", "likelihood"):
        raise InputError(f"score: '{score}' is neither count nor likelihood")
    counts = Counter()
    for text in tqdm(texts, desc="texts", disable=progress_off(show_progress)):
        counts.update(split_words(text, lowercase))
    if not counts:
        raise InputError("there is no text to train a tokenizer on")
    specials = tuple(dict.fromkeys(special_tokens))
    tokens, words = spell(counts, specials, prefix=PREFIX)
    learn = learn_merges if score == "count" else learn_likelihood_merges
    learn(words, tokens, vocab_size, min_frequency, PREFIX, show_progress)
    return WordPiece({token: i for i, token in enumerate(tokens)}, specials, lowercase)


def learn_likelihood_merges(
    words: dict[str, int],
    tokens: list[str],
    vocab_size: int,
    min_frequency: int = 0,
    prefix: str = PREFIX,
    show_progress: bool = False,
) -> list[tuple[str, str]]:
    """[`learn_merges`] by n(ab) / (n(a) · n(b)).

    A score rises when a part of its pair becomes rarer elsewhere, so that a heap of old scores would hide the best:
    the scores of all pairs are computed anew for every merge, from arrays.
    """
    counts, words = list(words.values()), list(words)
    pair_counts, where = count_pairs(words, counts)
    table = _PairTable(pair_counts, _count_symbols(words, counts, max(vocab_size, len(tokens))))
    ids = {token: i for i, token in enumerate(tokens)}
    merges = []
    with tqdm(total=vocab_size, initial=len(tokens), desc="merges", disable=progress_off(show_progress)) as progress:
        while len(tokens) < vocab_size and (pair := table.best(max(min_frequency, 1))):
            left, right = tokens[ord(pair[0])], tokens[ord(pair[1])]
            token = left + right.removeprefix(prefix)
            merges.append((left, right))
            if token not in ids:
                ids[token] = len(tokens)
                tokens.append(token)
                progress.update()
            found = sorted(set(where.pop(pair)))
            symbols_before = sum(len(words[i]) * counts[i] for i in found)
            changes = defaultdict(int)
            new_pairs = merge_words(words, counts, found, pair, chr(ids[token]), changes)
            num_merged = symbols_before - sum(len(words[i]) * counts[i] for i in found)
            table.update(pair, ids[token], num_merged, changes)
            for new_pair, new_found in new_pairs.items():
                where[new_pair] += new_found
    return merges


def _count_symbols(words: list[str], counts: list[int], size: int) -> np.ndarray:
    symbol_counts = np.zeros(size, dtype=np.int64)
    for word, count in zip(words, counts, strict=True):
        for symbol in word:
            symbol_counts[ord(symbol)] += count
    return symbol_counts


class _PairTable:
    """Counts of pairs as arrays, one entry a pair, and of their symbols."""

    def __init__(self, pair_counts: dict[str, int], symbol_counts: np.ndarray):
        self._row: dict[str, int] = {}
        self._pairs: list[str] = []
        self._left, self._right, self._counts = array("q"), array("q"), array("q")
        self._symbol_counts = symbol_counts
        self._add(pair_counts)

    def best(self, min_frequency: int) -> str | None:
        """The pair of the highest score; of equals that of the higher count, then that of the smaller ids."""
        left, right, n = (np.frombuffer(x, np.int64) for x in (self._left, self._right, self._counts))
        expected = self._symbol_counts[left] * self._symbol_counts[right]  # exact below 2⁶³, equal where scores are
        scores = np.where(n >= min_frequency, n / np.maximum(expected, 1), 0)
        if not scores.size or scores.max() == 0:
            return None
        return min((self._pairs[row] for row in np.flatnonzero(scores == scores.max())), key=self._order)

    def update(self, pair: str, new: int, num_merged: int, changes: dict[str, int]) -> None:
        """`pair` has become the symbol `new` in `num_merged` places, and `changes` are those of its neighbours."""
        self._add(changes)
        self._counts[self._row[pair]] = 0
        for symbol in pair:
            self._symbol_counts[ord(symbol)] -= num_merged
        self._symbol_counts[new] += num_merged

    def _order(self, pair: str) -> tuple[int, str]:
        return -self._counts[self._row[pair]], pair

    def _add(self, changes: dict[str, int]) -> None:
        for pair, change in changes.items():
            row = self._row.setdefault(pair, len(self._pairs))
            if row == len(self._pairs):
                self._pairs.append(pair)
                self._left.append(ord(pair[0]))
                self._right.append(ord(pair[1]))
                self._counts.append(0)
            self._counts[row] += change


def split_words(text: str, lowercase: bool) -> list[str]:
    """BERT's words, by the library's own rules, so that training and encoding agree on them."""
    normal = bert_normalizer(lowercase).normalize_str(text)
    return [word for word, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(normal)]


@cache
def bert_normalizer(lowercase: bool) -> normalizers.BertNormalizer:
    """Cleans, sets Chinese characters apart, and, with `lowercase`, lowercases and strips accents."""
    return normalizers.BertNormalizer(lowercase=lowercase)
