"""Packing: documents end to end, cut into blocks of one length. No padding, every token read once."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from datasets import Dataset, Features, IterableDataset, List, Value
from transformers import PreTrainedTokenizerBase

from hfcourse.data.text_stream import PIECE_CHARACTERS, pieces_of
from hfcourse.errors import InputError

BATCH_ROWS = 100  # documents at once: few, for they may be long
MAX_TOKENS = 2**20  # of one array


@dataclass(frozen=True)
class Separators:
    """Token ids put around documents and blocks.

    | model          | `before`, `after` a document | `block_start`, `block_end` | stream                     |
    |----------------|------------------------------|----------------------------|----------------------------|
    | causal LM      | -, EOS                       |                            | doc₁ EOS doc₂ EOS …        |
    | T5             |                              |                            | doc₁ doc₂ …                |
    | BERT           | -, SEP                       | CLS, SEP                   | CLS … doc₁ SEP doc₂ … SEP  |
    | BERT, isolated | CLS, SEP                     |                            | CLS doc₁ SEP CLS doc₂ SEP  |
    """

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    block_start: tuple[int, ...] = ()
    block_end: tuple[int, ...] = ()


def pack_documents(
    dataset: Dataset | IterableDataset,
    tokenizer: PreTrainedTokenizerBase,
    block_size: int,
    text_column: str = "text",
    with_positions: bool = False,
    separators: Separators | None = None,
) -> Dataset | IterableDataset:
    """Blocks of `block_size` tokens, cut from the stream doc₁ EOS doc₂ EOS …

    The blocks one after another are a prefix of that stream; only a last, incomplete block is dropped. A block may
    begin in the middle of a document. Documents longer than a block go on in the next one.

    Args:
        dataset: with a column of texts. It is not shuffled here. Where it has the columns `begins` and `ends`
            ([`hfcourse.data.text_stream`]), a document may be several rows.
        block_size: tokens a block, those of its start and end included.
        with_positions: also say where each token stands in its document, as far as the block shows it.
        separators: what parts the documents; EOS behind each by default.

    Returns:
        Dataset of the same kind with the column `input_ids`: (block_size,) int32, and on demand `position_ids`, which
        start at 0 with each block and each document ([`hfcourse.models.document_mask`] keeps documents apart by them).

    Raises:
        InputError: no such column, no EOS token, or less text than one block.
    """
    if separators is None:
        if tokenizer.eos_token_id is None:
            raise InputError("eos_token: the tokenizer has none, so documents cannot be told apart; set one")
        separators = Separators(after=(tokenizer.eos_token_id,))
    first = next(iter(dataset), None)
    if first is None:
        raise InputError("the dataset is empty: there is nothing to pack")
    if text_column not in first:
        raise InputError(f"the dataset has no column '{text_column}' to pack, only {', '.join(sorted(first))}")

    kind = Dataset if isinstance(dataset, Dataset) else IterableDataset
    written = {"writer_batch_size": BATCH_ROWS} if kind is Dataset else {}
    tokens = dataset.map(
        _tokenize,
        batched=True,
        batch_size=BATCH_ROWS,
        fn_kwargs={"tokenizer": tokenizer, "text_column": text_column, "separators": separators},
        remove_columns=list(first),
        **written,
    )
    cut = {"block_size": block_size, "with_positions": with_positions, "separators": separators}
    sources = {"tokens": tokens.with_format("arrow"), **cut}
    if next(_blocks(**sources), None) is None:
        raise InputError(f"block_size={block_size}: the whole dataset is shorter than one block")
    columns = ["input_ids", "position_ids"] if with_positions else ["input_ids"]
    features = Features({column: List(Value("int32")) for column in columns})
    return kind.from_generator(_blocks, features=features, gen_kwargs=sources)


def _tokenize(batch: dict, tokenizer: PreTrainedTokenizerBase, text_column: str, separators: Separators) -> dict:
    texts = batch[text_column]
    begins, ends = (batch.get(name, [True] * len(texts)) for name in ("begins", "ends"))
    rows = []
    for ids, is_first, is_last in zip(_ids_of(texts, tokenizer), begins, ends, strict=True):
        before, after = separators.before if is_first else (), separators.after if is_last else ()
        rows.append(np.concatenate([np.array(x, dtype=np.int32) for x in (before, ids, after)]))
    return {"input_ids": rows, "begins": begins}


def _ids_of(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[np.ndarray]:
    """(T,) int32 of each text. Long ones are tokenised in pieces, for a token weighs a hundred bytes meanwhile."""
    pieces = [(i, piece) for i, text in enumerate(texts) for piece in pieces_of(text)]
    arrays: list[list[np.ndarray]] = [[] for _ in texts]
    while pieces:
        lengths = np.cumsum([len(piece) for _, piece in pieces])
        size = max(1, int(np.searchsorted(lengths, PIECE_CHARACTERS, side="right")))
        places, strings = zip(*pieces[:size], strict=True)
        # verbose=False: a document longer than the model's context is cut into blocks below, nothing to warn about.
        options = {"add_special_tokens": False, "return_attention_mask": False, "return_token_type_ids": False}
        for place, ids in zip(places, tokenizer(list(strings), verbose=False, **options)["input_ids"], strict=True):
            arrays[place].append(np.array(ids, dtype=np.int32))
        pieces = pieces[size:]
    return [parts[0] if len(parts) == 1 else np.concatenate(parts) for parts in arrays]


def _blocks(
    tokens: Dataset | IterableDataset, block_size: int, with_positions: bool, separators: Separators
) -> Iterator[dict[str, np.ndarray]]:
    start, end = (np.array(ids, dtype=np.int32) for ids in (separators.block_start, separators.block_end))
    block_size -= len(start) + len(end)
    rest, rest_starts = np.empty(0, dtype=np.int32), np.empty(0, dtype=bool)
    for ids, starts in _arrays(tokens):
        stream, starts = np.concatenate([rest, ids]), np.concatenate([rest_starts, starts])
        whole = len(stream) - len(stream) % block_size
        blocks, block_starts = (x[:whole].reshape(-1, block_size) for x in (stream, starts))
        if with_positions:
            positions = _positions(block_starts)
            yield from ({"input_ids": x, "position_ids": p} for x, p in zip(blocks, positions, strict=True))
        else:
            framed = blocks if len(start) + len(end) == 0 else (np.concatenate([start, b, end]) for b in blocks)
            yield from ({"input_ids": block} for block in framed)
        rest, rest_starts = stream[whole:], starts[whole:]


def _arrays(tokens: Dataset | IterableDataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(tokens, where documents start), each (T,), T at most MAX_TOKENS: all rows one after another."""
    for table in tokens.iter(batch_size=BATCH_ROWS):
        column = table.column("input_ids").combine_chunks()
        ids = column.flatten().to_numpy().astype(np.int32, copy=False)
        begins = (column.offsets.to_numpy() - column.offsets[0].as_py())[:-1]
        begins = begins[table.column("begins").to_numpy()]
        starts = np.zeros(len(ids), dtype=bool)
        starts[begins[begins < len(ids)]] = True  # an empty document at the end, without a separator, begins nowhere
        for i in range(0, len(ids), MAX_TOKENS):
            yield ids[i : i + MAX_TOKENS], starts[i : i + MAX_TOKENS]


def _positions(starts: np.ndarray) -> np.ndarray:
    """(B, T) where a document starts -> (B, T) tokens since then, or since the start of the block."""
    column = np.arange(starts.shape[1], dtype=np.int32)
    return column - np.maximum.accumulate(np.where(starts, column, 0), axis=1)
