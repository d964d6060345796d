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
THOUGHTS = [
    {"question": "Two and three apples?", "answer": "2 + 3 = <<2+3=5>>5, so five.\n#### 5"},
    {"question": "How far is Oakton?", "answer": "It is two hills away.\n#### two hills"},
]
CHOICES = [
    {"question": "What colour is the tea?", "choices": ["Red.", "Green."], "answer": 1},
    {"question": "Who lives in Oakton?", "choices": ["Mara", "the fox", "a door"], "answer": 0},
]
ROWS_OF = {"chain_of_thought": THOUGHTS, "multiple_choice": CHOICES}  # the others' are ROWS
WRITTEN = {
    "chain_of_thought": ["2 + 3 = 5, so five. The answer is 5.", "It is two hills away. The answer is two hills."],
    "multiple_choice": ["B", "A"],
}
TEXTS = ("four_part_en", "four_part_zh", "alpaca", "plain", "flan", "t0", "plain_chat", *ROWS_OF)
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


def texts_of(name, times=1):
    return [PromptTemplate(name)(row, i) for i, row in enumerate(ROWS_OF.get(name, ROWS) * times)]


def test_texts(trainer, tokenizer):
    """All templates in one dataset: the completion, then one EOS, and nothing of the prompt."""
    texts = [text for name in TEXTS for text in texts_of(name, 3)]
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
    """A text template's rows in its own chat form; those without one, such as FLAN's, in ChatML."""
    style = name if name in chat_templates() else "chatml"
    set_chat_template(tokenizer, style)
    rows = Dataset.from_list(ROWS_OF.get(name, ROWS))
    chats = apply_template(rows, name, as_messages=True, inverted=False).select_columns(["messages"])
    prepared = trainer(chats, tokenizer, assistant_only_loss=True).train_dataset
    written = WRITTEN.get(name) or [row["output"] for row in ROWS]
    assert [learnt(tokenizer, row["labels"]) for row in prepared] == [LEARNT[style].format(text) for text in written]


@pytest.mark.parametrize("name", ["four_part_en", "four_part_zh", "alpaca", "plain", "plain_chat"])
def test_a_chat_of_one_turn_is_the_text(name, tokenizer):
    set_chat_template(tokenizer, name)
    template = PromptTemplate(name, eos_token="<|endoftext|>")
    for row in ROWS:
        shown = tokenizer.apply_chat_template(template.messages(row), tokenize=False)
        assert shown.rstrip("\n") == template.prompt(row) + template.completion(row)
        asked = template.messages({k: v for k, v in row.items() if k != "output"})
        assert tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True) == template.prompt(row)


def test_cut_texts_learn_a_prefix(trainer, tokenizer):
    """Cut so that the row of the longest prompt keeps one token of its completion: nothing moves, no EOS is added."""
    for name in TEXTS:
        texts = Dataset.from_list(texts_of(name))
        whole = trainer(texts, tokenizer).train_dataset["labels"][:]
        shorter = 1 + max(next(t for t, label in enumerate(labels) if label != -100) for labels in whole)
        cut = trainer(texts, tokenizer, max_length=shorter).train_dataset["labels"][:]
        assert cut == [labels[:shorter] for labels in whole] != whole, name


@pytest.mark.parametrize("name", chat_templates())
def test_cut_chats_learn_a_prefix(name, trainer, tokenizer):
    set_chat_template(tokenizer, name)
    chats = Dataset.from_list([{"messages": CHAT}])
    (whole,) = trainer(chats, tokenizer, assistant_only_loss=True).train_dataset
    (cut,) = trainer(chats, tokenizer, assistant_only_loss=True, max_length=len(whole["labels"]) - 4).train_dataset
    assert learnt(tokenizer, cut["labels"]) == learnt(tokenizer, whole["labels"][:-4])


def test_packed_texts_learn_the_same(trainer, tokenizer):
    """All templates' rows in packs: as many completions as before, each with its EOS."""
    texts = [text for name in TEXTS for text in texts_of(name)]
    packed = trainer(Dataset.from_list(texts), tokenizer, packing=True, max_length=600)
    assert len(packed.train_dataset) < len(texts)
    batch = packed.data_collator(list(packed.train_dataset))
    assert batch["input_ids"].shape[0] == 1
    *written, rest = learnt(tokenizer, batch["labels"][0].tolist()).split("<|endoftext|>")
    assert rest == ""
    assert sorted(written) == sorted(text["completion"] for text in texts)


@pytest.mark.parametrize("name", chat_templates())
def test_packed_chats_learn_the_same(name, trainer, tokenizer):
    set_chat_template(tokenizer, name)
    chats = Dataset.from_list([{"messages": CHAT[:3]}] * 2)
    packed = trainer(chats, tokenizer, packing=True, max_length=600, assistant_only_loss=True)
    batch = packed.data_collator(list(packed.train_dataset))
    assert batch["input_ids"].shape[0] == 1
    assert learnt(tokenizer, batch["labels"][0].tolist()) == 2 * LEARNT[name].format("Blue.")


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
