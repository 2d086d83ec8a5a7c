"""CONCH's text tower from the user's own file; the picture side is never built, and nothing of CONCH comes along.

The tower is open_clip's ``TextTransformer`` of CoCa shape (Lu et al., 2024, CONCH; Yu et al., 2022, CoCa): 12 causal
layers over 127 tokens and one learned class embedding, which is concatenated last, takes the last position, and is
what is read out. Its mask has a quirk that the weights were trained with and that must be kept: the padding mask of
the class row is shifted by one, so that it sees the first pad slot and, unless the text fills all slots, not itself.
Reading out the highest id, as CLIP does, would read the rarest word here: ``end`` is 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mpamatch.errors import BadInput
from mpamatch.network.text.weight_files import load_strictly, needed, read_tensors

LICENCE = "CC-BY-NC-ND-4.0"
FOLDER = "conch"
WEIGHTS = ("pytorch_model.bin", "model.safetensors")
TOKENIZER = ("conch_byte_level_bpe_uncased.json", "tokenizer.json")
SOURCE = "MahmoodLab/CONCH (request access there)"

PAD, START, END = 0, 1, 2
SLOTS = 127
"""Tokens of a text, padding included; position 127 is the class embedding's."""
_PLACEHOLDER = END
"""Any id but that of padding: it only tells the mask that a context slot is filled."""


@dataclass(frozen=True)
class ConchShape:
    """Sizes of the tower; the defaults are CONCH's."""

    vocabulary: int = 32007
    width: int = 768
    heads: int = 12
    layers: int = 12
    embedding: int = 512


class ConchTokenizer:
    """Byte-level BPE from the user's tokenizer file. Raises BadInput when it is not CONCH's."""

    def __init__(self, path: Path, vocabulary: int = ConchShape.vocabulary) -> None:
        needed("tokenizers")
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception for any broken file
            raise BadInput(str(path), "not a tokenizer file", f"get it anew from {SOURCE}") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        size = self._tokenizer.get_vocab_size()
        if size != vocabulary or self._words("Gland") != self._words("gland"):
            problem = f"has {size} entries or tells capitals apart, CONCH's has {vocabulary} and does not"
            raise BadInput(str(path), problem, f"take the tokenizer of {SOURCE}")

    def __call__(self, texts: Sequence[str], context_tokens: int = 0) -> Tensor:
        """int64 (n, 128): start, words, end, padding to 127 and one pad more; a cut text keeps its end."""
        ids = torch.full((len(texts), SLOTS + 1), PAD, dtype=torch.int64)
        for row, text in zip(ids, texts, strict=True):
            words = [START, *self._words(text)[: SLOTS - 2 - context_tokens], END]
            row[: len(words)] = torch.tensor(words)
        return ids

    def _words(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)


class ConchTower(nn.Module):
    """ids (n, 127) with optional context vectors after the start token -> (n, 512). See ``TextTower``."""

    def __init__(self, tokenizer: ConchTokenizer, shape: ConchShape | None = None) -> None:
        super().__init__()
        needed("open_clip")
        from open_clip.transformer import TextTransformer

        shape = shape or ConchShape()
        self.width, self.token_width = shape.embedding, shape.width
        self._tokenizer = tokenizer
        # open_clip fills its weights from torch's generator, which is not ours to move on.
        with torch.random.fork_rng(devices=[]):
            self.text = TextTransformer(
                context_length=SLOTS,
                vocab_size=shape.vocabulary,
                width=shape.width,
                heads=shape.heads,
                layers=shape.layers,
                output_dim=shape.embedding,
                embed_cls=True,
                pad_id=PAD,
                output_tokens=True,
            )

    def tokens(self, texts: Sequence[str], context_tokens: int = 0) -> Tensor:
        return self._tokenizer(texts, context_tokens)[:, :SLOTS]

    def embed(self, ids: Tensor, context: Tensor | None = None, *, trim: bool = True) -> Tensor:
        """``trim`` leaves out padding behind the longest text but for its first slot, which the class row sees."""
        tower = self.text
        x = tower.token_embedding(ids)
        if context is not None:
            filled = ids.new_full(context.shape[:2], _PLACEHOLDER)
            x = torch.cat([x[:, :1], context, x[:, 1:]], dim=1)[:, :SLOTS]
            ids = torch.cat([ids[:, :1], filled, ids[:, 1:]], dim=1)[:, :SLOTS]
        kept = min(SLOTS, int((ids != PAD).sum(dim=1).max()) + 1) if trim else SLOTS
        position = tower.positional_embedding
        cls = (tower.cls_emb + position[SLOTS]).expand(len(ids), 1, -1)
        x = torch.cat([x[:, :kept] + position[:kept], cls], dim=1)
        x = tower.transformer(x, attn_mask=self._mask(ids, kept))
        return tower.ln_final(x[:, -1]) @ tower.text_projection

    def _mask(self, ids: Tensor, kept: int) -> Tensor:
        """Additive (n * heads, kept + 1, kept + 1): causal, and padding shifted by one column in every row."""
        real = ids != PAD
        shifted = torch.cat([real.new_ones(len(ids), 1), real], dim=1)  # column j is open where token j - 1 is real
        columns = torch.cat([shifted[:, :kept], shifted[:, SLOTS:]], dim=1)
        causal = torch.ones(kept + 1, kept + 1, dtype=torch.bool, device=ids.device).tril()
        closed = ~(causal & columns[:, None])
        mask = torch.zeros(closed.shape, device=ids.device).masked_fill(closed, float("-inf"))
        return mask.repeat_interleave(self.text.heads, dim=0)


def build_conch(weights: Path, tokenizer: Path, shape: ConchShape | None = None) -> ConchTower:
    """The tower from the files of the user. Raises BadInput or Unavailable."""
    shape = shape or ConchShape()
    tower = ConchTower(ConchTokenizer(tokenizer, shape.vocabulary), shape)
    state = {key.removeprefix("text."): t for key, t in read_tensors(weights).items() if key.startswith("text.")}
    load_strictly(tower.text, state, str(weights))
    return tower.eval().requires_grad_(False)
