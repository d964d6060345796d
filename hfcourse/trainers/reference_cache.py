"""Reference log-probs that are computed once: kept in the dataset cache by model and row, for every later run."""

import hashlib
import json
import uuid
from pathlib import Path

import datasets
import numpy as np
import torch
from torch import Tensor

RECORD = np.dtype([("row", "V16"), ("chosen", "<f8"), ("rejected", "<f8")])
# Of a config, what changes no log-prob.
NOT_THE_MODEL = ("_name_or_path", "transformers_version", "dtype", "use_cache", "pad_token_id", "architectures")


class ReferenceCache:
    """log π_ref(y_w|x) and log π_ref(y_l|x) of pairs seen before, in memory and on disk.

    A record is a pair's key and its two numbers, 32 bytes. Every process of every run appends to a file of its own,
    so that nothing is lost when one is killed, and nothing is written twice.

    Args:
        model_key: what the numbers depend on beside the pair; see [`model_key`].
    """

    def __init__(self, model_key: str):
        self.folder = Path(datasets.config.HF_DATASETS_CACHE, "hfcourse_reference", model_key)
        self.known: dict[bytes, tuple[float, float]] = {}
        self._file = self.folder / f"{uuid.uuid4().hex}.bin"
        for path in sorted(self.folder.glob("*.bin")):
            for row, chosen, rejected in np.fromfile(path, RECORD):  # an unfinished last record is not read
                self.known[row.tobytes()] = (float(chosen), float(rejected))

    def add(self, keys: list[bytes], chosen: Tensor, rejected: Tensor, write: bool = True) -> None:
        """Keep log-probs (B,) of B pairs; `write=False` keeps them in memory alone."""
        new = {}
        for key, *logps in zip(keys, chosen.tolist(), rejected.tolist(), strict=True):
            if key not in self.known:
                new[key] = self.known[key] = tuple(logps)
        if new and write:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._file.open("ab") as file:
                file.write(np.array([(key, *logps) for key, logps in new.items()], RECORD).tobytes())

    def read(self, keys: list[bytes], like: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """log π_ref of chosen and rejected, each (B,), float32, on the device of `like`."""
        pairs = torch.tensor([self.known[key] for key in keys], device=None if like is None else like.device)
        return pairs[:, 0], pairs[:, 1]


def pair_keys(inputs: dict[str, Tensor]) -> list[bytes]:
    """16 bytes a pair of a preference batch: a digest of its tokens and of which of them are scored.

    The tokens say what data and what chat template they came from; padding and the rest of the batch do not count.
    """
    ids, real, scored = (inputs[name].cpu().numpy() for name in ("input_ids", "attention_mask", "completion_mask"))
    rows = []
    for row, is_real, is_scored in zip(ids, real.astype(bool), scored.astype(bool), strict=True):
        rows.append(np.where(is_scored, row, ~row)[is_real].astype("<i8").tobytes())  # ~id < 0 is not scored
    half = len(rows) // 2
    pairs = zip(rows[:half], rows[half:], strict=True)
    return [hashlib.blake2b(len(a).to_bytes(8, "little") + a + b, digest_size=16).digest() for a, b in pairs]


def model_key(model: torch.nn.Module, *settings: object) -> str:
    """Digest of the reference's weights and config and of what else the log-probs depend on (precision, …).

    The reference of a PEFT model is its base, with the adapter "ref" where there is one: the adapter that is trained,
    its rank and its seed do not count.
    """
    digest = hashlib.sha256()
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    config = {name: value for name, value in base.config.to_dict().items() if name not in NOT_THE_MODEL}
    digest.update(json.dumps([config, *map(str, settings)], sort_keys=True, default=str).encode())
    for name, tensor in sorted(base.state_dict().items()):
        if _belongs_to_the_policy(name, model):
            continue
        digest.update(name.replace(".base_layer", "").encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


def _belongs_to_the_policy(name: str, model: torch.nn.Module) -> bool:
    if not hasattr(model, "peft_config"):
        return False
    parts = name.split(".")
    return any(adapter in parts for adapter in model.peft_config if adapter != "ref")
