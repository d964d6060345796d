"""Prompt templates: columns in, `prompt` and `completion` or a chat's messages out. The texts are in templates/."""

import random
import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import yaml
from datasets import Dataset, IterableDataset
from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hfcourse.data.chat_templates import CHAT_STYLES, render_turns
from hfcourse.data.dialogues import comparisons_from_dialogues
from hfcourse.errors import InputError

FOLDER = Path(__file__).parent / "templates"
P3_SEPARATOR, P3_HIDDEN = "|||", "\ue000"


@dataclass(frozen=True)
class PromptTemplate:
    """A Jinja file of two blocks, `prompt` and `completion`, over the columns of an instruction row.

    The columns are `instruction`, `context`, `question`, `output`, and `options` where there are answers to choose
    from. Others' names are understood: Dolly's `response` and text-to-text's `target` are the output; Alpaca's `input`
    is the question, or the context of a row that has a question of its own; MMLU's `choices` are the options, and
    `answer` their number. What is missing is empty, except that something must be asked.

    A file may hold several phrasings: blocks `prompt_1`, `prompt_2`, …, or the entries of a promptsource YAML
    (`input ||| target`). Row i takes one of them, drawn from (seed, i) alone. One with a `completion_i` of its own is
    inverted: it asks for something else than the output. Blocks `system`, `context` and `user` say who says what in
    a chat; without them the prompt is the user's.

    Args:
        name: a file in `hfcourse/data/templates` without its ending, the name of a chat style (chatml, llama3,
            plain_chat), or a path to a .jinja or .yaml file of yours.
        eos_token: written after each completion. The SFT trainer writes it too, so that it is needed only elsewhere.
        seed: of the phrasings.
        inverted: use inverted phrasings too; False to ask for answers alone. Rows without an output never are.
    """

    name: str = "four_part_en"
    eos_token: str | None = None
    seed: int = 0
    inverted: bool = True
    variants: tuple = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        object.__setattr__(self, "variants", _variants(self.name))

    def __reduce__(self):  # compiled templates do not travel between processes; names do
        return PromptTemplate, (self.name, self.eos_token, self.seed, self.inverted)

    def prompt(self, row: dict, index: int = 0) -> str:
        """The text that the model reads, up to where it is to go on."""
        return self._variant(row, index).prompt(_fields(row))

    def completion(self, row: dict, index: int = 0) -> str:
        """The text that the model is to write, with the white space that parts it from the prompt."""
        return self._variant(row, index).completion(_fields(row)) + (self.eos_token or "")

    def messages(self, row: dict, index: int = 0) -> list[dict[str, str]]:
        """The row as a chat: perhaps a system's message, the user's (perhaps with a `context`), and the answer."""
        variant, fields = self._variant(row, index), _fields(row)
        turns = variant.turns(fields)
        if _output(row) is not None:
            turns.append({"role": "assistant", "content": variant.answer(fields)})
        return turns

    def __call__(self, row: dict, index: int = 0) -> dict[str, str]:
        """`prompt`, and `completion` where the row has an output."""
        texts = {"prompt": self.prompt(row, index)}
        return texts if _output(row) is None else {**texts, "completion": self.completion(row, index)}

    def _variant(self, row: dict, index: int):
        every = self.inverted and _output(row) is not None
        usable = [variant for variant in self.variants if every or not variant.is_inverted]
        return random.Random(f"phrasing/{self.seed}/{index}").choice(usable)


def apply_template(
    dataset: Dataset | IterableDataset,
    template: str = "four_part_en",
    eos_token: str | None = None,
    seed: int = 0,
    as_messages: bool = False,
    inverted: bool = True,
) -> Dataset | IterableDataset:
    """Add `prompt`, and `completion` where there is an output; or `messages`. Every other column stays.

    Args:
        dataset: with the columns that [`PromptTemplate`] understands.
        template: four_part_en, four_part_zh, alpaca, plain, flan, t0, chatml, llama3, plain_chat, or a path to a file;
            or hh_rlhf, which makes chat messages of Anthropic's pairs ([`comparisons_from_dialogues`]).
        eos_token, seed, inverted: see [`PromptTemplate`].
        as_messages: make a chat of each row, for a chat template ([`hfcourse.data.set_chat_template`]).

    Raises:
        InputError: no such template, or no column to ask from.
    """
    if template == "hh_rlhf":
        return comparisons_from_dialogues(dataset)
    template = PromptTemplate(template, eos_token, seed, inverted)
    first = next(iter(dataset), None)
    if first is None:
        raise InputError("the dataset is empty: there is nothing to apply a template to")
    if template.name in _named() and not {"instruction", "question", "input"} & first.keys():
        raise InputError(
            f"template '{template.name}': no column 'instruction', 'question' or 'input', only "
            f"{', '.join(sorted(first))}; rename one, or leave the template out"
        )
    return dataset.map(_Fill(template, as_messages), with_indices=True)


@dataclass(frozen=True)
class _Fill:
    template: PromptTemplate
    as_messages: bool

    def __call__(self, row: dict, index: int) -> dict:
        return {"messages": self.template.messages(row, index)} if self.as_messages else self.template(row, index)


@dataclass(frozen=True)
class _Blocks:
    """One phrasing of a Jinja file."""

    template: Template
    of_prompt: str
    of_completion: str
    has_macros: bool

    @property
    def is_inverted(self) -> bool:
        return self.of_completion != "completion"

    def prompt(self, fields: dict) -> str:
        return self._render(self.of_prompt, fields)

    def completion(self, fields: dict) -> str:
        return self._render(self.of_completion, fields)

    def answer(self, fields: dict) -> str:
        return self.completion(fields).strip()

    def turns(self, fields: dict) -> list[dict[str, str]]:
        if "user" not in self.template.blocks:
            return [{"role": "user", "content": self.prompt(fields).strip()}]
        said = {
            name: self._render(name, fields) for name in ("system", "context", "user") if name in self.template.blocks
        }
        user = {"role": "user", "content": said["user"]}
        user |= {"context": said["context"]} if said.get("context") else {}
        return [{"role": "system", "content": said["system"]}, user] if said.get("system") else [user]

    def _render(self, block: str, fields: dict) -> str:
        macros = vars(self.template.make_module(fields)) if self.has_macros else {}  # a block does not see them
        context = self.template.new_context({**macros, **fields})
        return "".join(self.template.blocks[block](context))


@dataclass(frozen=True)
class _P3:
    """One entry of promptsource: the text before `|||` is read, the text after it is written, on the next line."""

    template: Template
    choices: Template | None
    is_inverted = False

    def prompt(self, fields: dict) -> str:
        return f"{self._halves(fields)[0]}\n"

    def completion(self, fields: dict) -> str:
        return self._halves(fields)[1]

    answer = completion

    def turns(self, fields: dict) -> list[dict[str, str]]:
        return [{"role": "user", "content": self._halves(fields)[0]}]

    def _halves(self, fields: dict) -> tuple[str, str]:
        # What people wrote may hold the separator; it is put out of sight while the template's own is looked for.
        hidden = {name: _replaced(value, P3_SEPARATOR, P3_HIDDEN) for name, value in fields.items()}
        choices = self.choices.render(**hidden) if self.choices else ""
        split = [choice.strip() for choice in choices.split(P3_SEPARATOR) if choice.strip()]
        asked, _, target = self.template.render(**{**hidden, "answer_choices": split}).partition(P3_SEPARATOR)
        asked = re.sub(r"\n\s*\n+", "\n", asked)
        return tuple(half.strip().replace(P3_HIDDEN, P3_SEPARATOR) for half in (asked, target))


@dataclass(frozen=True)
class _Chat:
    """A chat style as texts: the prompt ends where the assistant is to speak, the completion where its turn ends."""

    style: str
    is_inverted = False

    def answer(self, fields: dict) -> str:
        return fields["output"]

    def turns(self, fields: dict) -> list[dict[str, str]]:
        return PromptTemplate("plain").variants[0].turns(fields)

    def prompt(self, fields: dict) -> str:
        return render_turns(self.style, self.turns(fields), add_generation_prompt=True)

    def completion(self, fields: dict) -> str:
        answered = [*self.turns(fields), {"role": "assistant", "content": fields["output"]}]
        return render_turns(self.style, answered).removeprefix(self.prompt(fields)).rstrip("\n")


def _replaced(value, old: str, new: str):
    if isinstance(value, list):
        return [_replaced(item, old, new) for item in value]
    return value.replace(old, new) if isinstance(value, str) else value


def _fields(row: dict) -> dict:
    options = row.get("options") or row.get("choices") or []
    output = _output(row)
    texts = {name: value.strip() for name, value in row.items() if isinstance(value, str)}
    question, context = texts.get("question", ""), texts.get("context", "")
    if "input" in texts:
        question, context = (question, context or texts["input"]) if question else (texts["input"], context)
    return {
        **row,
        "instruction": texts.get("instruction", ""),
        "context": context,
        "question": question,
        "options": options,
        "output": "" if output is None else output.strip(),
    }


def _output(row: dict) -> str | None:
    options, answer = row.get("options") or row.get("choices"), row.get("answer")
    if options and isinstance(answer, int):
        return options[answer]
    return next((row[name] for name in ("output", "response", "target") if row.get(name) is not None), None)


def _named() -> set[str]:
    return {file.stem for file in FOLDER.iterdir() if file.is_file()} | set(CHAT_STYLES)


@lru_cache
def _variants(name: str) -> tuple:
    if name in CHAT_STYLES:
        return (_Chat(name),)
    given = Path(name)
    paths = (
        [given]
        if given.suffix in (".jinja", ".yaml", ".yml")
        else [FOLDER / f"{name}{s}" for s in (".jinja", ".yaml")]
    )
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        known = ", ".join(sorted(_named()))
        raise InputError(f"template: there is no '{name}'; choose {known}, or give a path to a .jinja or .yaml file")
    try:
        return _from_jinja(name, path) if path.suffix == ".jinja" else _from_p3(name, path)
    except (TemplateError, yaml.YAMLError) as e:
        raise InputError(f"template: '{name}' cannot be read: {' '.join(str(e).split())}") from e


def _from_jinja(name: str, path: Path) -> tuple:
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = path.read_text(encoding="utf-8")
    template = environment.from_string(source)
    prompts = sorted(block for block in template.blocks if re.fullmatch(r"prompt(_\d+)?", block))
    for block in ("prompt", "completion"):
        if block not in template.blocks and not (block == "prompt" and prompts):
            raise InputError(f"template: '{name}' has no {{% block {block} %}}")
    own = [prompt.replace("prompt", "completion") for prompt in prompts]
    return tuple(
        _Blocks(template, prompt, completion if completion in template.blocks else "completion", "{% macro" in source)
        for prompt, completion in zip(prompts, own, strict=True)
    )


def _from_p3(name: str, path: Path) -> tuple:
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
    entries = (yaml.load(path.read_text(encoding="utf-8"), _P3Loader) or {}).get("templates") or {}
    usable = [entry for entry in entries.values() if P3_SEPARATOR in entry.get("jinja", "")]
    if not usable:
        raise InputError(f"template: '{name}' has no entry with '{P3_SEPARATOR}' under 'templates'")
    choices = [entry.get("answer_choices") for entry in usable]
    return tuple(
        _P3(environment.from_string(entry["jinja"]), environment.from_string(text) if text else None)
        for entry, text in zip(usable, choices, strict=True)
    )


class _P3Loader(yaml.SafeLoader):
    """Reads promptsource's own tags, !Template and !TemplateMetadata, as plain mappings."""


_P3Loader.add_multi_constructor("!Template", lambda loader, suffix, node: loader.construct_mapping(node, deep=True))
