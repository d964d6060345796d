"""Byte-pair merging: the most frequent adjacent pair becomes one token, again and again. BPE and WordPiece learn so.

A word is a *string whose characters are token ids*: "low" may be chr(78) + chr(81) + chr(89). A pair is two such
characters, and the merge of (81, 89) into 260 is `word.replace(chr(81) + chr(89), chr(260))`. Strings find, cut and
hash in C, and compare by code point, so that of two pairs the smaller string is the pair of the smaller ids.
"""

from collections import defaultdict
from heapq import heapify, heappop, heappush, heapreplace

from tqdm.auto import tqdm

from hfcourse.errors import InputError

MAX_VOCAB_SIZE = 0x110000  # as many ids as there are code points


def learn_merges(
    words: dict[str, int],
    tokens: list[str],
    vocab_size: int,
    min_frequency: int = 0,
    prefix: str = "",
    show_progress: bool = False,
) -> list[tuple[str, str]]:
    """The merges that fill `tokens` up to `vocab_size` (https://huggingface.co/papers/1508.07909, Algorithm 1).

        repeat: (a, b) = argmax n(ab), of equals the smallest (id_a, id_b);  ab is a new token;  every a b becomes ab

    Counts are kept up to date instead of counted anew: a merge visits the words that hold its pair, and changes the
    counts of the pairs beside it. The pair to merge next is on top of a heap whose counts may be out of date: one that
    is found so is put back with the right count.

    Order, ties and stop are those of `tokenizers.trainers.BpeTrainer`, and so is what happens when a merge spells a
    token that is there already (a special one, or aa+a after a+aa): it keeps its id, and the vocabulary does not grow.

    Args:
        words: each with its number of occurrences; a word is spelt in ids, as above.
        tokens: token of each id; the new ones are appended to it.
        vocab_size: stop when there are so many tokens...
        min_frequency: ...or when no pair occurs so often (or at all).
        prefix: marks tokens inside a word ("##") and is dropped from the right part of a merge.

    Returns:
        (left, right) tokens in the order in which they were merged.
    """
    if vocab_size > MAX_VOCAB_SIZE:
        raise InputError(f"vocab_size={vocab_size}: is beyond {MAX_VOCAB_SIZE}")
    counts = list(words.values())
    words = list(words)
    pair_counts, where = count_pairs(words, counts)
    heap = [(-pair_counts[pair], pair, found) for pair, found in where.items()]
    heapify(heap)
    ids = {token: i for i, token in enumerate(tokens)}
    merges = []
    with tqdm(total=vocab_size, initial=len(tokens), desc="merges", disable=progress_off(show_progress)) as progress:
        while heap and len(tokens) < vocab_size:
            negative_count, pair, found = heap[0]
            if pair_counts[pair] != -negative_count:
                heapreplace(heap, (-pair_counts[pair], pair, found))
                continue
            if -negative_count < max(min_frequency, 1):
                break
            heappop(heap)
            left, right = tokens[ord(pair[0])], tokens[ord(pair[1])]
            token = left + right.removeprefix(prefix)
            merges.append((left, right))
            if token not in ids:
                ids[token] = len(tokens)
                tokens.append(token)
                progress.update()
            new_pairs = merge_words(words, counts, found, pair, chr(ids[token]), pair_counts)
            for new_pair, found in new_pairs.items():
                if pair_counts[new_pair] > 0:
                    heappush(heap, (-pair_counts[new_pair], new_pair, found))
    return merges


def progress_off(show_progress: bool) -> bool | None:
    """tqdm's `disable`: None, where progress is wanted, keeps it out of files and pipes."""
    return None if show_progress else True


def count_pairs(words: list[str], counts: list[int]) -> tuple[dict[str, int], dict[str, list[int]]]:
    """How often each pair occurs ("aaa" has two of aa), and the indices of the words that hold it."""
    pair_counts, where = defaultdict(int), defaultdict(list)
    for i, (word, count) in enumerate(zip(words, counts, strict=True)):
        for pair in map(str.__add__, word, word[1:]):
            pair_counts[pair] += count
            where[pair].append(i)
    return pair_counts, where


def merge_words(
    words: list[str], counts: list[int], found: list[int], pair: str, new: str, pair_counts: dict[str, int]
) -> dict[str, list[int]]:
    """Merge `pair` in the words `found`, from left to right, and correct the counts of the pairs beside it.

    x a b y becomes x N y: one x a and one b y fewer, one x N and one N y more.

    Returns:
        Pairs that have come into being, each with the indices of the words that hold it.
    """
    first, second = pair
    new_pairs = defaultdict(list)
    for i in found:
        word, count = words[i], counts[i]
        at = word.find(pair)
        while at >= 0:
            if at:
                left = word[at - 1]
                pair_counts[left + first] -= count
                pair_counts[left + new] += count
                new_pairs[left + new].append(i)
            right = word[at + 2 : at + 3]
            if right:
                pair_counts[second + right] -= count
                pair_counts[new + right] += count
                new_pairs[new + right].append(i)
            word = word[:at] + new + word[at + 2 :]
            at = word.find(pair, at + 1)
        words[i] = word
    return new_pairs
