"""What a card says about its model, and what it keeps to itself."""

from types import SimpleNamespace

import pytest
from datasets import Dataset
from huggingface_hub import ModelCard, ModelCardData
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from hfcourse import CausalLMConfig, CausalLMTrainer
from hfcourse.hub.model_card import auto_class_of, describe_base_model, describe_dataset, last_metrics


@pytest.fixture
def trained(tiny_tokenizer, tmp_path):
    """Factory: the card of a CausalLMTrainer after one step, as `create_model_card` wrote it."""

    def make(model, peft_config=None, **facts):
        args = CausalLMConfig(
            str(tmp_path / "out"), max_steps=1, per_device_train_batch_size=2, block_size=8, logging_steps=1,
            save_strategy="no", learning_rate=1e-3, hub_token="hf_secret",
        )  # fmt: skip
        documents = Dataset.from_dict({"text": ["The red fox sleeps near the river."] * 8})
        trainer = CausalLMTrainer(
            model, args, train_dataset=documents, processing_class=tiny_tokenizer, peft_config=peft_config
        )
        for name, value in facts.items():
            setattr(trainer, name, value)
        trainer.train()
        trainer.create_model_card()
        return ModelCard.load(tmp_path / "out" / "README.md")

    return make


def save_card(folder, **data):
    folder.mkdir(exist_ok=True)
    ModelCard(f"---\n{ModelCardData(**data)}\n---\n# model").save(folder / "README.md")


def test_a_new_model_on_the_embedded_world(trained, tiny_llama):
    card = trained(tiny_llama(0), card_dataset="world/corpus")
    assert "Trained from scratch" in card.content
    assert "| Method | Causal language modeling |" in card.content
    assert "| Data | world/corpus (the embedded world of hfcourse) |" in card.content
    assert card.data.license == "apache-2.0"  # made of nothing but this package
    assert card.data.datasets is None
    assert card.data.model_name == "out"
    assert "| `loss` |" in card.content
    assert "| `learning_rate` | 0.001 |" in card.content
    assert "hf_secret" not in str(card)


def test_the_licence_of_a_new_model_on_other_data_is_not_made_up(trained, tiny_llama):
    card = trained(tiny_llama(0), card_dataset="roneneldan/TinyStories")
    assert card.data.license == "unknown"
    assert "| Licence | unknown: " in card.content
    assert card.data.datasets == "roneneldan/TinyStories"
    assert "(https://huggingface.co/datasets/roneneldan/TinyStories)" in card.content


def test_a_licence_that_is_stated_is_told(trained, tiny_llama):
    card = trained(tiny_llama(0), card_license="mit")
    assert card.data.license == "mit"
    assert "| Licence | mit |" in card.content


def test_what_transformers_own_scripts_hand_over_is_taken(tiny_llama, tmp_path):
    """run_clm.py ends with these keywords: the model is trained by then, and must not be lost to a card."""
    args = CausalLMConfig(str(tmp_path), use_cpu=True, bf16=False)
    rows = Dataset.from_dict({"input_ids": [[5, 6, 7]]})
    trainer = CausalLMTrainer(tiny_llama(0), args, train_dataset=rows)
    names = dict(finetuned_from="someone/else", tasks="text-generation", dataset="WikiText 2", language=["en", "zh"])
    trainer.create_model_card(**names, dataset_tags=["Salesforce/wikitext"], dataset_args="wikitext-2-raw-v1")
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.language == ["en", "zh"]
    assert data.datasets == "Salesforce/wikitext"
    assert data.base_model is None  # whatever is claimed: it was trained from scratch
    with pytest.raises(TypeError, match="licence"):
        trainer.create_model_card(licence="mit")


def test_an_adapter_is_loaded_as_an_adapter(trained, tiny_llama_dir):
    model = AutoModelForCausalLM.from_pretrained(tiny_llama_dir)
    card = trained(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    assert card.data.library_name == "peft"
    assert "from peft import AutoPeftModelForCausalLM" in card.content
    assert "| `target_modules` | q_proj, v_proj |" in card.content
    # 2 layers, 2 matrices of r=2: q 32->32 gives 2(32+32) = 128, v 32->16 gives 2(32+16) = 96
    assert "of which 448 trained" in card.content
    assert tiny_llama_dir not in str(card)


def test_base_model_is_told_by_name_and_ancestry(tmp_path):
    save_card(tmp_path / "sft", base_model="HuggingFaceTB/SmolLM2-135M", license="apache-2.0")
    assert describe_base_model(str(tmp_path / "sft")) == ("sft", "HuggingFaceTB/SmolLM2-135M", "apache-2.0")
    (tmp_path / "bare" / "checkpoint-20").mkdir(parents=True)
    assert describe_base_model(str(tmp_path / "bare")) == ("bare", None, None)
    assert describe_base_model(str(tmp_path / "bare" / "checkpoint-20")) == ("bare (checkpoint-20)", None, None)
    assert describe_base_model("Qwen/Qwen3-0.6B") == ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B", None)  # offline
    assert describe_base_model("/home/ann/gone/model") == ("model", None, None)
    assert describe_base_model("") == (None, None, None)


def test_an_unknown_licence_is_not_inherited_as_a_licence(tmp_path):
    save_card(tmp_path / "sft", license="unknown")
    assert describe_base_model(str(tmp_path / "sft")) == ("sft", None, None)


def test_dataset_is_told_by_name(tmp_path):
    assert describe_dataset("Anthropic/hh-rlhf") == ("Anthropic/hh-rlhf", "Anthropic/hh-rlhf")
    assert describe_dataset("world/prompts") == ("world/prompts (the embedded world of hfcourse)", None)
    assert describe_dataset("/home/ann/pairs.jsonl") == ("pairs.jsonl (a local file or folder)", None)
    assert describe_dataset("pairs.jsonl.gz") == ("pairs.jsonl.gz (a local file or folder)", None)
    assert describe_dataset(str(tmp_path)) == (f"{tmp_path.name} (a local file or folder)", None)
    assert describe_dataset(None) == (None, None)


def test_last_metrics_keeps_the_last_figure_of_each_name_and_no_timing():
    history = [
        {"loss": 3.0, "epoch": 0.5, "step": 10},
        {"loss": 2.0, "reward": 0.25, "epoch": 1.0, "step": 20},
        {"eval_loss": 2.5, "eval_runtime": 3.0, "eval_samples_per_second": 9.0, "step": 20},
        {"train_runtime": 8.0, "train_loss": 2.5, "total_flos": 1e9, "step": 20},
    ]
    assert last_metrics(history) == {"loss": 2.0, "reward": 0.25, "eval_loss": 2.5, "train_loss": 2.5}


def test_the_class_that_loads_a_model(tiny_llama, tiny_gpt2, tiny_llama_dir):
    assert auto_class_of(tiny_llama(0)) == "AutoModelForCausalLM"
    assert auto_class_of(tiny_gpt2(0)) == "AutoModelForCausalLM"
    reward_model = AutoModelForSequenceClassification.from_pretrained(tiny_llama_dir, num_labels=1)
    assert auto_class_of(reward_model) == "AutoModelForSequenceClassification"
    assert auto_class_of(SimpleNamespace()) == "AutoModel"
