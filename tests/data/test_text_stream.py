"""Text that is streamed: documents are lines, long ones come in pieces, and standard input can be read again."""

import gzip
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from datasets import Dataset, IterableDataset
from hypothesis import given, strategies as st

from hfcourse.data import load_dataset, pack_documents, text_stream as module
from hfcourse.data.text_stream import pieces_of, text_stream
from hfcourse.errors import InputError

LONG = "The red fox sleeps near the river.  Mara lives\tin Oakton. " * 40


def pipe(monkeypatch, data: bytes):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def joined(rows):
    """Documents of rows in pieces."""
    documents = []
    for row in rows:
        documents = [*documents, row["text"]] if row["begins"] else [*documents[:-1], documents[-1] + row["text"]]
    return documents


@given(st.text(alphabet="ab \n\t。", max_size=60), st.integers(3, 20))
def test_pieces_are_the_text(text, limit):
    pieces = list(pieces_of(text, limit))
    assert "".join(pieces) == text
    assert max(map(len, pieces)) <= limit
    assert len(pieces) == 1 or all(pieces)


def test_where_a_piece_ends():
    """Before the last single space; "c  d" has none, nor has what is written without spaces."""
    assert list(pieces_of("aa bb cc", 7)) == ["aa bb", " cc"]
    assert list(pieces_of("aa b  cc", 7)) == ["aa", " b  cc"]
    assert list(pieces_of("aaaaaaaa", 3)) == ["aaa", "aaa", "aa"]


@pytest.mark.parametrize("size", [5, 64, 10_000])
def test_a_file_of_any_line_length(tmp_path, monkeypatch, size):
    """Whatever is read at once: the same documents, without blank lines; é may be cut in two by a read."""
    monkeypatch.setattr(module, "PIECE_CHARACTERS", size)
    documents = ["One.", "Été à é é é.", LONG.strip(), "Three."]
    text = "One.\n\nÉté à é é é.\r\n   \n" + LONG.strip() + "\nThree."
    (tmp_path / "a.txt").write_bytes(text.encode())
    with gzip.open(tmp_path / "b.txt.gz", "wb") as file:
        file.write(text.encode())
    rows = list(text_stream([str(tmp_path / "a.txt"), str(tmp_path / "b.txt.gz")]))
    assert joined(rows) == documents * 2
    assert sum(row["ends"] for row in rows) == sum(row["begins"] for row in rows) == 8
    assert (len(rows) > 8) == (size < 10_000)


def test_pieces_are_tokenised_as_the_whole(tmp_path, monkeypatch, tiny_tokenizer):
    """Blocks of a document in pieces, by rows and within a row, are those of the document in one."""
    texts = [LONG.strip(), "Mara lives in Oakton.", LONG.strip()[::-1].strip()]
    (tmp_path / "a.txt").write_text("\n".join(texts))
    whole = list(pack_documents(Dataset.from_dict({"text": texts}), tiny_tokenizer, 8, with_positions=True))
    ids = [token for text in texts for token in [*tiny_tokenizer(text)["input_ids"], tiny_tokenizer.eos_token_id]]
    assert np.concatenate([row["input_ids"] for row in whole]).tolist() == ids[: len(ids) // 8 * 8]
    for name in ("hfcourse.data.text_stream.PIECE_CHARACTERS", "hfcourse.data.packing.PIECE_CHARACTERS"):
        monkeypatch.setattr(name, 100)
    monkeypatch.setattr(pieces_of, "__defaults__", (100,))
    in_rows = load_dataset(str(tmp_path / "a.txt"), streaming=True)
    assert len(list(in_rows)) > 20
    for dataset in (in_rows, Dataset.from_dict({"text": texts, "other": [0, 0, 0]})):
        assert list(pack_documents(dataset, tiny_tokenizer, 8, with_positions=True)) == whole


@pytest.mark.parametrize("streaming", [False, True])
def test_a_folder_of_text_shards(tmp_path, streaming):
    for i in range(3):
        (tmp_path / f"train-{i:05d}.txt").write_text(f"Shard {i}.\n\nMore of {i}.\n")
    (tmp_path / "test.txt").write_text("Held out.\n")
    rows = load_dataset(str(tmp_path), streaming=streaming)
    assert isinstance(rows, IterableDataset) == streaming
    assert [row["text"] for row in rows] == [f"{x} {i}." for i in range(3) for x in ("Shard", "More of")]
    assert [row["text"] for row in load_dataset(str(tmp_path), "test", streaming=streaming)] == ["Held out."]
    with pytest.raises(InputError, match="split 'dev'"):
        load_dataset(str(tmp_path), "dev", streaming=streaming)
    if streaming:
        assert rows.num_shards == 3


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_folder_of_shards_of_rows(tmp_path, ending, streaming):
    for i in range(3):
        shard = Dataset.from_dict({"text": [f"Shard {i}."]})
        path = tmp_path / f"part{i}.{ending}"
        shard.to_json(path) if ending == "jsonl" else shard.to_parquet(path)
    assert [row["text"] for row in load_dataset(str(tmp_path), streaming=streaming)] == [
        f"Shard {i}." for i in range(3)
    ]


def test_standard_input(monkeypatch):
    """Text, then JSON lines; each read three times over, of which the second overtakes the first."""
    pipe(monkeypatch, b"One.\n\nTwo.\nThree.")
    rows = load_dataset("-", streaming=True, required_columns=("text",))
    first = iter(rows)
    assert next(first)["text"] == "One."
    assert [row["text"] for row in rows] == ["One.", "Two.", "Three."]
    assert [row["text"] for row in first] == ["Two.", "Three."]
    pipe(monkeypatch, b'{"body": "One."}\n\n{"body": "Two."}\n')
    assert [row["body"] for row in load_dataset("-", streaming=True)] == ["One.", "Two."]


def test_standard_input_is_not_read_ahead(monkeypatch):
    class Endless(io.RawIOBase):
        def readinto(self, buffer):
            buffer[:5] = b"More\n"
            return 5

        def readable(self):
            return True

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Endless(), 5)))
    rows = load_dataset("-", streaming=True)
    assert [row["text"] for row, _ in zip(rows, range(3), strict=False)] == ["More"] * 3


def test_bad_input_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "latin.txt").write_bytes("Été.\n".encode("latin-1"))
    (tmp_path / "torn.jsonl").write_text('{"text": ')
    cases = [
        (str(tmp_path / "latin.txt"), b"", {}, "latin.txt: is no UTF-8 text"),
        (str(tmp_path / "torn.jsonl"), b"", {}, "cannot read"),
        ("-", b"", {}, "and that is empty"),
        ("-", b"\n \n", {}, "the split 'train' is empty"),
        ("-", b'{"a": 1}\n{"a": \n', {}, "standard input, line 2: no JSON"),
        ("-", b"a", {"split": "test"}, "evaluate on a file"),
        ("-", b"a", {"streaming": False}, "set dataset_streaming and max_steps"),
        ("-", b"a", {"required_columns": ("body",)}, "has no column 'body'"),
    ]
    for name, data, options, message in cases:
        pipe(monkeypatch, data)
        with pytest.raises(InputError, match=message) as raised:
            list(load_dataset(name, **{"streaming": True, **options}))
        assert "\n" not in str(raised.value)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="reaches one process only"):
        load_dataset("-", streaming=True)


MEMORY = """
import json, resource, sys
from hfcourse.data import endless_stream, load_dataset, pack_documents
from hfcourse.pipeline.launch import load_tokenizer

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

tokenizer = load_tokenizer(sys.argv[2])
def read(path, limit):
    stream = endless_stream(load_dataset(path, streaming=True), 100)
    blocks = pack_documents(stream, tokenizer, 1024).with_format("numpy")
    return sum(len(row["input_ids"]) for row, _ in zip(blocks, range(limit)))
read(sys.argv[3], 50)
before = peak()
tokens = read(sys.argv[1], int(sys.argv[4]))
print(json.dumps({"tokens": tokens, "megabytes": peak() - before}))
"""


def test_memory_does_not_grow_with_the_text(tmp_path, tiny_tokenizer):
    """2 MB on one line, then 0.5 MB of short ones, streamed, shuffled and packed: in pieces, 64 kB of text
    are tokenised at once, at about a hundred bytes a token. All at once, the line takes more than 100 MB."""
    tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")
    sentence = "The red fox sleeps near the river, and Mara lives in Oakton. "
    small, large = tmp_path / "small.txt", tmp_path / "large.txt"
    small.write_text((sentence * 10 + "\n") * 300)
    large.write_text(sentence * 33_000 + "\n" + (sentence * 10 + "\n") * 800)
    num_tokens = len(tiny_tokenizer(sentence)["input_ids"]) * 41_000
    program = [sys.executable, "-c", MEMORY, large, tmp_path / "tokenizer", small, str(num_tokens // 1024)]
    result = json.loads(subprocess.run(program, capture_output=True, text=True, check=True).stdout)
    assert result["tokens"] == num_tokens // 1024 * 1024
    assert result["megabytes"] < 60
