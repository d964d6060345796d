"""Chat templates with generation marks: what the assistant says, its end token included, can be told from the rest."""

from functools import lru_cache
from pathlib import Path

from jinja2 import Template
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import _compile_jinja_template

from hfcourse.errors import InputError

FOLDER = Path(__file__).parent / "templates" / "chat"

# What ends a turn where it is not the tokenizer's EOS.
END_TOKENS = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>"}
CHAT_STYLES = ("chatml", "llama3", "plain_chat")  # forms for chats alone; the others are forms of instructions too


def chat_templates() -> list[str]:
    """Names that [`set_chat_template`] knows."""
    return sorted(file.stem for file in FOLDER.glob("*.jinja"))


def chat_template(name: str) -> str:
    """The text of a chat template; a user's message may have a `context` beside its content."""
    path = Path(name) if name.endswith(".jinja") else FOLDER / f"{name}.jinja"
    if not path.is_file():
        known = ", ".join(chat_templates())
        raise InputError(f"chat_template: there is no '{name}'; choose {known}, or give a path to a .jinja file")
    return path.read_text(encoding="utf-8")


def set_chat_template(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Give the tokenizer a chat template, and as its EOS the token that ends the template's turns.

    Raises:
        InputError: no such template, one without {% generation %} marks, or a tokenizer that lacks the token that ends
            a turn, so that a model could not learn to stop.
    """
    text, end = chat_template(name), END_TOKENS.get(name)
    if "generation %}" not in text and "generation -%}" not in text:
        raise InputError(f"chat_template: '{name}' has no {{% generation %}} around what the assistant says")
    if end is not None:
        if end not in tokenizer.get_vocab():
            raise InputError(
                f"chat_template '{name}': the tokenizer has no token {end}; add it, or take plain_chat, which has none"
            )
        tokenizer.eos_token = end
    elif tokenizer.eos_token is None:
        raise InputError("eos_token: the tokenizer has none, so the model cannot learn to stop; set one and save it")
    tokenizer.chat_template = text


def render_turns(name: str, messages: list[dict[str, str]], add_generation_prompt: bool = False) -> str:
    """A chat as text without a tokenizer: no BOS, and no EOS but the template's own end token."""
    template = _compiled(name)
    return template.render(messages=messages, add_generation_prompt=add_generation_prompt, bos_token="", eos_token="")


@lru_cache
def _compiled(name: str) -> Template:
    return _compile_jinja_template(chat_template(name))
