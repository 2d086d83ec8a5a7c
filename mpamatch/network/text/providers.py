"""Text encoders by name: ``minilm``, ``conch``, ``openclip:ID``, ``table:FILE``, ``learned``, ``shuffled``.

No hub is asked: weights come from an installed package or the user's folder. Each provider says who it is before its
tower is built, so that embeddings in the cache need no tower.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mpamatch.domain.prompts import Texts, texts_sha256
from mpamatch.errors import BadInput
from mpamatch.network.text import clip, conch, minilm
from mpamatch.network.text.class_texts import ClassTexts, ContextTexts, FixedTexts, LearnedTexts, class_vectors
from mpamatch.network.text.tables import cache_key, cached, read_table
from mpamatch.network.text.weight_files import file_sha256, in_folder, in_package

KNOWN = "minilm, conch, openclip:ID, table:FILE, learned, shuffled"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class _Provider:
    identity: Mapping[str, Any]
    build: Callable[[], nn.Module]


def build_class_texts(
    name: str,
    texts: Sequence[Sequence[str]],
    *,
    context_tokens: int,
    context_per_class: bool,
    seed: int,
    weights_dir: Path | None = None,
    cache_dir: Path | None = None,
) -> ClassTexts:
    """The texts of each class (one or more) through the encoder ``name``, on the CPU.

    With ``context_tokens`` vectors are learned before the words, or a residual where the encoder shows no words
    (tables); with 0 the vectors are fixed, kept in ``cache_dir``, and no tower stays in memory. ``learned`` reads no
    text, ``shuffled`` reads random words in place of it: the two controls for the worth of the words. ``seed`` draws
    what is learned and what is shuffled; torch's own generator is left alone. Raises BadInput, NotFound (a file is
    missing: what to request where), or Unavailable (a package is).
    """
    if len(texts) < 2 or not all(len(of_class) and all(t.strip() for t in of_class) for of_class in texts):
        raise BadInput("texts", "a class has none", "give each of two or more classes one text or more")
    kind, _, rest = name.partition(":")
    chosen: dict[str, Any] = {"text": name, "prompts_sha256": texts_sha256(texts), "context_tokens": context_tokens}
    chosen["context_per_class"] = bool(context_per_class and context_tokens)
    if name == "learned":
        return LearnedTexts(len(texts), {**chosen, "provider": name, "licence": None}, seed)
    if kind == "table":
        return _from_table(Path(rest), texts, chosen, residual=context_tokens > 0)
    if name == "shuffled":
        texts = random_words(texts, seed)
        chosen["shuffled_sha256"] = texts_sha256(texts)
    provider = _provider(name, kind, rest, weights_dir)
    identity = {**chosen, **provider.identity}
    if context_tokens:
        return ContextTexts(
            provider.build(),
            texts,
            identity,
            context_tokens=context_tokens,
            context_per_class=context_per_class,
            seed=seed,
        )
    key = cache_key(**provider.identity, texts=[list(of_class) for of_class in texts], context=False)
    file = re.sub(r"[^a-z0-9]+", "-", name.casefold())
    vectors = cached(cache_dir, file, key, len(texts), lambda: class_vectors(provider.build(), texts).numpy())
    return FixedTexts(torch.from_numpy(vectors), identity)


def random_words(texts: Sequence[Sequence[str]], seed: int) -> tuple[Texts, ...]:
    """As many words for each text, drawn from MiniLM's vocabulary without those of the texts.

    Changing places between classes would be no control: prototypes that are only named otherwise train the same.
    Words of the same number and of no meaning here keep everything but what the texts say.
    """
    used = set(re.findall(r"[a-z]+", " ".join(t for of_class in texts for t in of_class).casefold()))
    lines = in_package(minilm.PACKAGE, "model/vocab.txt").read_text(encoding="utf-8").splitlines()
    words = [word for word in lines if re.fullmatch(r"[a-z]{4,}", word) and word not in used]
    rng = np.random.default_rng([seed, *b"shuffled"])
    return tuple(tuple(" ".join(rng.choice(words, len(text.split()))) for text in of_class) for of_class in texts)


def _provider(name: str, kind: str, id: str, weights_dir: Path | None) -> _Provider:
    if name in ("minilm", "shuffled"):
        known = {"weights_sha256": minilm.WEIGHTS_SHA256, "tokenizer_sha256": minilm.TOKENIZER_SHA256}
        return _Provider({"provider": minilm.ORIGIN, "licence": minilm.LICENCE, **known}, minilm.build_minilm)
    if name == "conch":
        weights = in_folder(weights_dir, conch.FOLDER, conch.WEIGHTS, conch.SOURCE)
        tokenizer = in_folder(weights_dir, conch.FOLDER, conch.TOKENIZER, conch.SOURCE)
        known = {"weights_sha256": file_sha256(weights), "tokenizer_sha256": file_sha256(tokenizer)}
        who = {"provider": "MahmoodLab/conch", "licence": conch.LICENCE}
        return _Provider({**who, **known}, partial(conch.build_conch, weights, tokenizer))
    if kind == "openclip" and _ID.fullmatch(id):
        return _open_clip(id, weights_dir)
    raise BadInput(f"text {name!r}", "unknown encoder", f"one of {KNOWN}, or none")


def _open_clip(id: str, weights_dir: Path | None) -> _Provider:
    record, folder = clip.clip_record(id), f"openclip/{id}"
    weights = in_folder(weights_dir, folder, clip.WEIGHTS, record.source)
    config = None
    if record.needs_config or weights.with_name(clip.CONFIG).is_file():
        config = in_folder(weights_dir, folder, (clip.CONFIG,), record.source)
    known = {"weights_sha256": file_sha256(weights), "config_sha256": file_sha256(config) if config else None}
    who = {"provider": f"open_clip {id} ({record.source})", "licence": record.licence}
    return _Provider({**who, **known}, partial(clip.build_clip, id, weights, config))


def _from_table(path: Path, texts: Sequence[Sequence[str]], chosen: Mapping[str, Any], *, residual: bool) -> ClassTexts:
    by_text, provider, digest = read_table(path)
    missing = sorted({t for of_class in texts for t in of_class} - set(by_text))
    if missing:
        raise BadInput(str(path), f"holds no vector of {missing[0]!r}", "embed every text of `mpamatch prompts show`")
    rows = [np.stack([by_text[t] / np.linalg.norm(by_text[t]) for t in of_class]).mean(axis=0) for of_class in texts]
    identity = {**chosen, "provider": provider, "table_sha256": digest, "licence": "of the table's provider"}
    return FixedTexts(torch.from_numpy(np.stack(rows)), identity, residual=residual)
