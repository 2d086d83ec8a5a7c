"""Text towers of CLIP's kind through open_clip, from the user's own files: generic CLIP, QuiltNet.

Causal, read out at the end token, which has the highest id of the vocabulary (Radford et al., 2021). The shape comes
from ``open_clip_config.json`` beside the weights, else from open_clip's list. Towers that need another library's model
or tokenizer from a hub are refused: their texts can be embedded elsewhere and come in as a table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mpamatch.errors import BadInput
from mpamatch.network.text.weight_files import load_strictly, needed, read_tensors

WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
CONFIG = "open_clip_config.json"
# The vocabulary that open_clip brings along; any other needs a tokenizer of its own.
_VOCABULARY = 49408
_SHAPE = {"context_length": 77, "vocab_size": _VOCABULARY, "width": 512, "heads": 8, "layers": 12, "mlp_ratio": 4.0}


@dataclass(frozen=True)
class ClipRecord:
    """Where the weights of an id are published and under which licence. ``needs_config``: open_clip has no such id."""

    source: str
    licence: str
    needs_config: bool = False


RECORDS: Mapping[str, ClipRecord] = {
    "quiltnet-b-32": ClipRecord("wisdomik/QuiltNet-B-32", "MIT", needs_config=True),
    "quiltnet-b-16": ClipRecord("wisdomik/QuiltNet-B-16", "MIT", needs_config=True),
}


def clip_record(id: str) -> ClipRecord:
    """A known id's record, else that of any open_clip model, whose licence is the publisher's to say."""
    return RECORDS.get(id.casefold(), ClipRecord(f"the publisher of your open_clip weights for {id}", "unverified"))


class ClipTower(nn.Module):
    """ids (n, L) with optional context vectors after the start token -> (n, width). See ``TextTower``."""

    def __init__(self, model: Mapping[str, Any], item: str) -> None:
        super().__init__()
        needed("open_clip")
        from open_clip.transformer import QuickGELU, TextTransformer

        shape = _checked(model, item)
        self.width, self.token_width, self._slots = model["embed_dim"], shape["width"], shape["context_length"]
        # open_clip fills its weights from torch's generator, which is not ours to move on.
        with torch.random.fork_rng(devices=[]):
            self.text = TextTransformer(
                **shape, output_dim=self.width, act_layer=QuickGELU if model.get("quick_gelu") else nn.GELU
            )

    def tokens(self, texts: Sequence[str], context_tokens: int = 0) -> Tensor:
        from open_clip.tokenizer import SimpleTokenizer

        ids: Tensor = SimpleTokenizer()(list(texts), context_length=self._slots - context_tokens)
        return ids

    def embed(self, ids: Tensor, context: Tensor | None = None) -> Tensor:
        tower, end = self.text, ids.argmax(dim=1)
        x = tower.token_embedding(ids)
        if context is not None:
            x, end = torch.cat([x[:, :1], context, x[:, 1:]], dim=1), end + context.shape[1]
        # Causal: what follows the last end token is seen by nobody.
        x = x[:, : int(end.max()) + 1]
        closed = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=ids.device).triu(1)
        mask = torch.zeros(closed.shape, device=ids.device).masked_fill(closed, float("-inf"))
        x = tower.ln_final(tower.transformer(x + tower.positional_embedding[: x.shape[1]], attn_mask=mask))
        return x[torch.arange(len(ids), device=ids.device), end] @ tower.text_projection


def build_clip(id: str, weights: Path, config: Path | None) -> ClipTower:
    """The tower from the user's files; without ``config`` its shape is open_clip's. Raises BadInput or Unavailable."""
    needed("open_clip")
    tower = ClipTower(_model_config(id, config), str(config or id))
    state = read_tensors(weights)
    if any(key.startswith("text.") for key in state):
        state = {key.removeprefix("text."): tensor for key, tensor in state.items() if key.startswith("text.")}
    # Models of one part keep the text's tensors at the top, beside the picture's and the scale.
    others = ("visual.", "logit_scale", "logit_bias", "attn_mask")
    load_strictly(tower.text, {k: t for k, t in state.items() if not k.startswith(others)}, str(weights))
    return tower.eval().requires_grad_(False)


def _model_config(id: str, path: Path | None) -> Mapping[str, Any]:
    if path is not None:
        try:
            model = json.loads(path.read_text(encoding="utf-8"))["model_cfg"]
        except (UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
            raise BadInput(str(path), "no model_cfg in it", f"take {CONFIG} from where the weights are from") from error
        return dict(model)
    import open_clip

    model = open_clip.get_model_config(id)
    if model is None:
        raise BadInput(f"text openclip:{id}", "open_clip knows no such model", f"put its {CONFIG} beside the weights")
    return dict(model)


def _checked(model: Mapping[str, Any], item: str) -> dict[str, Any]:
    text = {key: value for key, value in dict(model.get("text_cfg", {})).items() if value is not None}
    shape = {key: text.pop(key, default) for key, default in _SHAPE.items()}
    defaults = {"pool_type": "argmax", "proj_type": "linear", "embed_cls": False, "no_causal_mask": False}
    odd = sorted(key for key, value in text.items() if value != defaults.get(key, False))
    if "embed_dim" not in model or shape["vocab_size"] != _VOCABULARY or odd:
        problem = f"its text tower is not of CLIP's own kind ({odd[0] if odd else 'vocab_size'})"
        raise BadInput(item, problem, "embed the texts where it runs and use text table:FILE")
    return shape
