"""What is learnt, decoded from the labels, for every template, as texts and as chats, whatever the tokenizer adds."""

import pytest
from datasets import Dataset
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from hfcourse import SFTConfig, SFTTrainer
from hfcourse.data import PromptTemplate, apply_template, chat_templates, set_chat_template
from hfcourse.errors import InputError

ROWS = [
    {"instruction": "Be short.", "context": "", "question": "Where does Mara live?", "output": "In Oakton."},
    {"instruction": "Be kind.", "context": "The door is blue.", "question": "What colour is it?", "output": "Blue."},
]
TEXTS = ("four_part_en", "four_part_zh", "alpaca", "plain", "flan", "t0", "plain_chat")
CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "What colour is it?", "context": "The door is blue."},
    {"role": "assistant", "content": "Blue."},
    {"role": "user", "content": "And the tea?"},
    {"role": "assistant", "content": "Green, like the door was."},
]
# What stands for an assistant's message, and who else's end it may be.
LEARNT = {
    "chatml": "{}<|im_end|>",
    "llama3": "{}<|eot_id|>",
    "plain_chat": " {}<|endoftext|>",
    "four_part_en": " {}<|endoftext|>",
    "four_part_zh": "{}<|endoftext|>",
    "alpaca": "{}<|endoftext|>",
    "plain": "{}<|endoftext|>",
}
ADDED = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|bos|>"]


@pytest.fixture(params=["adds nothing", "adds BOS", "adds BOS and EOS"])
def tokenizer(request, tiny_tokenizer):
    backend = Tokenizer.from_str(tiny_tokenizer.backend_tokenizer.to_str())
    names = dict(pad_token="<|pad|>", eos_token="<|endoftext|>", bos_token="<|bos|>")
    made = PreTrainedTokenizerFast(tokenizer_object=backend, **names, extra_special_tokens=ADDED[:3])
    around = {"adds BOS": "<|bos|> $A", "adds BOS and EOS": "<|bos|> $A <|endoftext|>"}.get(request.param)
    if around:
        ids = [(token, made.convert_tokens_to_ids(token)) for token in ("<|bos|>", "<|endoftext|>")]
        made.backend_tokenizer.post_processor = processors.TemplateProcessing(around, special_tokens=ids)
        assert made("a")["input_ids"][0] == made.bos_token_id
    return made


@pytest.fixture
def trainer(tiny_llama, tmp_path):
    def make(dataset, tokenizer, **config):
        args = SFTConfig(str(tmp_path), use_cpu=True, max_length=config.pop("max_length", 250), **config)
        model = tiny_llama(0, vocab_size=len(tokenizer))
        return SFTTrainer(model, args, train_dataset=dataset, processing_class=tokenizer)

    return make


def learnt(tokenizer, labels):
    return tokenizer.decode([label for label in labels if label != -100])


def test_texts(trainer, tokenizer):
    """All templates in one dataset: the completion, then one EOS, and nothing of the prompt."""
    texts = [PromptTemplate(name)(row, i) for name in TEXTS for i, row in enumerate(ROWS * 3)]
    prepared = trainer(Dataset.from_list(texts), tokenizer).train_dataset
    for text, row in zip(texts, prepared, strict=True):
        assert learnt(tokenizer, row["labels"]) == text["completion"] + "<|endoftext|>"
        whole = tokenizer.decode(row["input_ids"]).removeprefix("<|bos|>")
        assert whole == text["prompt"] + text["completion"] + "<|endoftext|>"


@pytest.mark.parametrize("name", chat_templates())
def test_chats_of_several_turns(name, trainer, tokenizer):
    set_chat_template(tokenizer, name)
    dataset = Dataset.from_list([{"messages": CHAT}, {"messages": CHAT[:3]}, {"messages": CHAT[1:3]}])
    prepared = trainer(dataset, tokenizer, assistant_only_loss=True).train_dataset
    answers = [LEARNT[name].format(message["content"]) for message in CHAT if message["role"] == "assistant"]
    assert [learnt(tokenizer, row["labels"]) for row in prepared] == ["".join(answers), answers[0], answers[0]]
    shown = tokenizer.decode(prepared[0]["input_ids"])
    assert "The door is blue." in shown
    assert shown.count("<|bos|>") == (name == "llama3"), "the template begins, and the tokenizer not again"


@pytest.mark.parametrize("name", [*TEXTS, "chatml", "llama3"])
def test_rows_become_chats(name, trainer, tokenizer):
    """A text template's rows in its own chat form; those without one, FLAN's and T0's, in ChatML."""
    style = name if name in chat_templates() else "chatml"
    set_chat_template(tokenizer, style)
    chats = apply_template(Dataset.from_list(ROWS), name, as_messages=True, inverted=False).select_columns(
        ["messages"]
    )
    prepared = trainer(chats, tokenizer, assistant_only_loss=True).train_dataset
    assert [learnt(tokenizer, row["labels"]) for row in prepared] == [LEARNT[style].format(r["output"]) for r in ROWS]


@pytest.mark.parametrize("name", ["four_part_en", "four_part_zh", "alpaca", "plain", "plain_chat"])
def test_a_chat_of_one_turn_is_the_text(name, tokenizer):
    set_chat_template(tokenizer, name)
    template = PromptTemplate(name, eos_token="<|endoftext|>")
    for row in ROWS:
        shown = tokenizer.apply_chat_template(template.messages(row), tokenize=False)
        assert shown.rstrip("\n") == template.prompt(row) + template.completion(row)
        asked = template.messages({k: v for k, v in row.items() if k != "output"})
        assert tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True) == template.prompt(row)


def test_cut_rows_learn_a_prefix(trainer, tokenizer):
    texts = [PromptTemplate("four_part_en")(row) for row in ROWS]
    whole = trainer(Dataset.from_list(texts), tokenizer).train_dataset
    shorter = max(len(row["input_ids"]) for row in whole) - 3
    cut = trainer(Dataset.from_list(texts), tokenizer, max_length=shorter).train_dataset
    for before, after in zip(whole, cut, strict=True):
        assert after["labels"] == before["labels"][:shorter]
    set_chat_template(tokenizer, "chatml")
    chats = Dataset.from_list([{"messages": CHAT}])
    (whole,) = trainer(chats, tokenizer, assistant_only_loss=True).train_dataset
    (cut,) = trainer(chats, tokenizer, assistant_only_loss=True, max_length=len(whole["labels"]) - 4).train_dataset
    assert learnt(tokenizer, cut["labels"]) == learnt(tokenizer, whole["labels"][:-4])


@pytest.mark.parametrize("kind", ["texts", "chats"])
def test_packed_rows_learn_the_same(kind, trainer, tokenizer):
    if kind == "texts":
        dataset, config = Dataset.from_list([PromptTemplate("alpaca")(ROWS[1])] * 2), {}
        expected = "Blue.<|endoftext|>"
    else:
        set_chat_template(tokenizer, "four_part_en")
        dataset, config = Dataset.from_list([{"messages": CHAT[:3]}] * 2), {"assistant_only_loss": True}
        expected = " Blue.<|endoftext|>"
    packed = trainer(dataset, tokenizer, packing=True, max_length=600, **config)
    batch = packed.data_collator(list(packed.train_dataset))
    assert batch["input_ids"].shape[0] == 1
    assert learnt(tokenizer, batch["labels"][0].tolist()) == 2 * expected


def test_what_cannot_end_is_refused(tiny_tokenizer, tmp_path):
    backend = Tokenizer.from_str(tiny_tokenizer.backend_tokenizer.to_str())
    without_eos = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<|pad|>")
    with pytest.raises(InputError, match="eos_token: the tokenizer has none"):
        set_chat_template(without_eos, "four_part_en")
    with pytest.raises(InputError, match=r"the tokenizer has no token <\|eot_id\|>; add it"):
        set_chat_template(without_eos, "llama3")
    set_chat_template(without_eos, "chatml")
    assert without_eos.eos_token == "<|im_end|>", "generation ends where a turn does"
    (tmp_path / "mine.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    with pytest.raises(InputError, match=r"no \{% generation %\}"):
        set_chat_template(without_eos, str(tmp_path / "mine.jinja"))
    with pytest.raises(InputError, match="there is no 'chatlm'; choose alpaca, chatml"):
        set_chat_template(without_eos, "chatlm")
