"""CONCH's text tower in slow plain numpy, float64, from its description; and a small tokenizer of its kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.special import erf
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

SLOTS = 127
SPECIAL = ["<pad>", "<start>", "<end>", "<person>", "<mrn>", "<specimen>", "<date>"]
CORPUS = (
    "colonic gland with columnar epithelium, basal nuclei and goblet mucin around a lumen",
    "lamina propria and desmoplastic stroma with spindle fibroblasts, lymphocytes and small vessels",
    "back-to-back carcinoma crypts; a microscope picture zzyzx quixotic",
)
Array = npt.NDArray[np.float64]


def small_tokenizer(path: Path) -> int:
    """Write a byte-level BPE without capitals and accents, special ids as CONCH's; its number of entries."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.save(str(path))
    return int(tokenizer.get_vocab_size())


def encode(state: Mapping[str, Array], embeddings: Array, ids: Array, heads: int) -> Array:
    """One text's vector: ``embeddings`` (127, w) of its slots, ``ids`` (127,) saying which are padding (0)."""
    x = np.concatenate([embeddings, state["cls_emb"][None]]) + state["positional_embedding"]
    last = SLOTS
    open_ = np.tril(np.ones((SLOTS + 1, SLOTS + 1), dtype=bool))
    for column in range(SLOTS + 1):
        open_[last, column] = column == 0 or ids[column - 1] != 0
    layers = sum(key.endswith("ln_1.weight") for key in state)
    for layer in range(layers):
        part = {k.split(f"resblocks.{layer}.")[1]: v for k, v in state.items() if f"resblocks.{layer}." in k}
        x = x + _attention(part, _norm(x, part["ln_1.weight"], part["ln_1.bias"]), open_, heads)
        y = _norm(x, part["ln_2.weight"], part["ln_2.bias"]) @ part["mlp.c_fc.weight"].T + part["mlp.c_fc.bias"]
        y = 0.5 * y * (1 + erf(y / np.sqrt(2)))
        x = x + y @ part["mlp.c_proj.weight"].T + part["mlp.c_proj.bias"]
    return _norm(x[last], state["ln_final.weight"], state["ln_final.bias"]) @ state["text_projection"]


def _attention(part: Mapping[str, Array], x: Array, open_: Array, heads: int) -> Array:
    q, k, v = np.split(x @ part["attn.in_proj_weight"].T + part["attn.in_proj_bias"], 3, axis=1)
    outputs = []
    for one in np.split(np.arange(x.shape[1]), heads):
        scores = np.where(open_, q[:, one] @ k[:, one].T / np.sqrt(len(one)), -np.inf)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        outputs.append(weights / weights.sum(axis=1, keepdims=True) @ v[:, one])
    return np.concatenate(outputs, axis=1) @ part["attn.out_proj.weight"].T + part["attn.out_proj.bias"]


def _norm(x: Array, weight: Array, bias: Array) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5) * weight + bias
