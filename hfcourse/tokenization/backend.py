"""From a `tokenizers.Tokenizer` to one of transformers: special tokens, their roles, and T5's sentinels."""

from collections.abc import Iterable, Iterator
from functools import cache

import regex
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from hfcourse.errors import InputError


def to_fast_tokenizer(
    backend: Tokenizer,
    special_tokens: Iterable[str],
    sentinels: int,
    roles: dict[str, str | None],
    append_eos: bool = False,
    model_max_length: int | None = None,
    chat_template: str | None = None,
) -> PreTrainedTokenizerFast:
    """Wrap a backend whose model knows its special tokens.

    Args:
        special_tokens: never split.
        sentinels: how many of T5's to add, see [`add_sentinels`].
        roles: `pad_token`, `eos_token`, … -> one of the special tokens, or None.
        append_eos: every text ends in EOS.

    Raises:
        InputError: a role for a token that is none of the special ones, or `append_eos` without an EOS.
    """
    special_tokens = list(dict.fromkeys(special_tokens))
    roles = {role: token for role, token in roles.items() if token is not None}
    for role, token in roles.items():
        if token not in special_tokens:
            raise InputError(f"{role}: '{token}' is none of the special tokens {special_tokens}")
    backend.add_special_tokens(special_tokens)
    if append_eos:
        if "eos_token" not in roles:
            raise InputError("append_eos: needs an eos_token")
        eos = roles["eos_token"]
        backend.post_processor = processors.TemplateProcessing(
            single=f"$A {eos}", pair=f"$A {eos} $B {eos}", special_tokens=[(eos, backend.token_to_id(eos))]
        )
    limits = {} if model_max_length is None else {"model_max_length": model_max_length}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **roles, **limits)
    add_sentinels(tokenizer, sentinels)
    tokenizer.chat_template = chat_template
    return tokenizer


def add_sentinels(tokenizer: PreTrainedTokenizerFast, sentinels: int) -> None:
    """T5's `<extra_id_i>` after the vocabulary, the first with the highest id. Ask for them by name, not by place."""
    if sentinels:
        names = [f"<extra_id_{i}>" for i in reversed(range(sentinels))]
        tokenizer.add_special_tokens({"extra_special_tokens": names})


def split_at_special_tokens(text: str, special_tokens: tuple[str, ...]) -> Iterator[tuple[str, bool]]:
    """(part, whether it is a special token): the first token from the left, of those that begin there the longest."""
    parts = _pattern(special_tokens).split(text) if special_tokens else [text]
    return ((part, bool(i % 2)) for i, part in enumerate(parts))


@cache
def _pattern(special_tokens: tuple[str, ...]) -> regex.Pattern:
    longest_first = sorted(special_tokens, key=len, reverse=True)
    return regex.compile(f"({'|'.join(map(regex.escape, longest_first))})")
