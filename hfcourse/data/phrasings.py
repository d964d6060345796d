"""A template's phrasings: Jinja blocks, promptsource's entries, or a chat style; fields in, texts and turns out."""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml
from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hfcourse.data.chat_templates import CHAT_STYLES, render_turns
from hfcourse.errors import InputError

FOLDER = Path(__file__).parent / "templates"
P3_SEPARATOR, P3_HIDDEN = "|||", "\ue000"


def named_templates() -> set[str]:
    """Names that need no path."""
    return {file.stem for file in FOLDER.iterdir() if file.is_file()} | set(CHAT_STYLES)


@lru_cache
def phrasings_of(name: str) -> tuple:
    """Every phrasing of a template. Raises InputError where there is none, or one that cannot be read."""
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
        known = ", ".join(sorted(named_templates()))
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
        return phrasings_of("plain")[0].turns(fields)

    def prompt(self, fields: dict) -> str:
        return render_turns(self.style, self.turns(fields), add_generation_prompt=True)

    def completion(self, fields: dict) -> str:
        answered = [*self.turns(fields), {"role": "assistant", "content": fields["output"]}]
        return render_turns(self.style, answered).removeprefix(self.prompt(fields)).rstrip("\n")


def _replaced(value, old: str, new: str):
    if isinstance(value, list):
        return [_replaced(item, old, new) for item in value]
    return value.replace(old, new) if isinstance(value, str) else value
