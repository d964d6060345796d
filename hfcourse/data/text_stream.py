"""Text as a stream, a document a line: files, and standard input, in memory that no document can exceed."""

import gzip
import json
import sys
import tempfile
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterator
from pathlib import Path

from datasets import Features, IterableDataset, Value
from torch.utils.data import get_worker_info

from hfcourse.errors import InputError

PIECE_CHARACTERS = 2**16  # a hundred rows of it are tokenised at once


def text_stream(files: list[str]) -> IterableDataset:
    """Rows of `text`, `begins` and `ends`, read when they are needed from text files, plain or gzipped (.gz).

    A line is a document; empty ones are left out. One longer than 2¹⁶ characters comes in pieces, one a row: the first
    `begins`, the last `ends`, and [`hfcourse.data.pack_documents`] joins their tokens without a separator.
    """
    return _of_rows(_rows_of_files, files=list(files))


def standard_input() -> IterableDataset:
    """The rows of standard input: JSON lines if the first character is a brace, else text as in [`text_stream`].

    It is kept in a temporary file as it is read, so that it can be read again (columns are checked, a short text is
    read several times), and may be longer than memory.

    Raises:
        InputError: standard input is empty, or read in a worker of a DataLoader, which has none.
    """
    head = _Spool.of_process().reader().readline(PIECE_CHARACTERS)
    if not head:
        raise InputError("dataset_name: '-' is standard input, and that is empty; pipe text or JSON lines into it")
    if head.startswith(b"{"):
        return IterableDataset.from_generator(_json_rows_of_stdin)
    return _of_rows(_rows_of_stdin)


def pieces_of(text: str, limit: int = PIECE_CHARACTERS) -> Iterator[str]:
    """`text` in pieces of at most `limit` characters, cut before single spaces, where tokenizers part words anyway."""
    start = 0
    while len(text) - start > limit:
        piece = text[start : start + limit]
        cut = _last_space(piece)
        yield piece[:cut]
        start += cut
    yield text[start:] if start else text


def _last_space(text: str) -> int:
    """Where the last space between two words is; the end, where there is none (Chinese)."""
    cut = text.rfind(" ", 1, len(text) - 1)
    while cut > 0 and (text[cut - 1].isspace() or text[cut + 1].isspace()):
        cut = text.rfind(" ", 1, cut)
    return cut if cut > 0 else len(text)


def _of_rows(generator: Callable, **gen_kwargs) -> IterableDataset:
    features = Features({"text": Value("string"), "begins": Value("bool"), "ends": Value("bool")})
    return IterableDataset.from_generator(generator, features=features, gen_kwargs=gen_kwargs or None)


def _rows_of_files(files: list[str]) -> Iterator[dict]:
    for file in files:
        with gzip.open(file) if Path(file).suffix == ".gz" else open(file, "rb") as source:
            yield from _documents(source.readline, file)


def _rows_of_stdin() -> Iterator[dict]:
    yield from _documents(_Spool.of_process().reader().readline, "standard input")


def _json_rows_of_stdin() -> Iterator[dict]:
    reader, number = _Spool.of_process().reader(), 0
    while line := reader.readline(-1):
        number += 1
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as e:
                raise InputError(f"standard input, line {number}: no JSON ({e})") from e


def _documents(readline: Callable[[int], bytes], name: str) -> Iterator[dict]:
    """Rows of a source of lines; `readline(n)` returns at most n bytes of a line, and none at the end."""
    decoder, rest, begins = getincrementaldecoder("utf-8")(), "", True
    while True:
        read = readline(PIECE_CHARACTERS)
        try:
            text = rest + decoder.decode(read, final=not read)
        except UnicodeDecodeError as e:
            raise InputError(f"{name}: is no UTF-8 text ({e.reason}); convert it") from e
        if len(read) < PIECE_CHARACTERS or read.endswith(b"\n"):  # fewer than asked for: the last line
            text = text.rstrip("\r\n")
            if not begins or text.strip():
                yield {"text": text, "begins": begins, "ends": True}
            rest, begins = "", True
            if not read:
                return
        else:
            cut = _last_space(text)
            yield {"text": text[:cut], "begins": begins, "ends": False}
            rest, begins = text[cut:], False


class _Spool:
    """Standard input and the temporary file of what has been read of it. Every reader starts at the beginning."""

    _only: "_Spool | None" = None

    def __init__(self, source):
        self.source, self.file = source, tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process lives)

    @classmethod
    def of_process(cls) -> "_Spool":
        if get_worker_info() is not None:
            raise InputError("dataloader_num_workers: standard input cannot be read in a worker; set it to 0")
        if cls._only is None or cls._only.source is not sys.stdin.buffer:
            cls._only = cls(sys.stdin.buffer)
        return cls._only

    def reader(self) -> "_Reader":
        return _Reader(self)


class _Reader:
    def __init__(self, spool: _Spool):
        self.spool, self.position = spool, 0

    def readline(self, size: int) -> bytes:
        file = self.spool.file
        file.seek(self.position)
        read = file.readline(size)
        if not read:
            read = self.spool.source.readline(size)
            file.write(read)
        self.position += len(read)
        return read
