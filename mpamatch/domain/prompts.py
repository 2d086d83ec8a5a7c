"""Prompts: the texts that stand for a class. Pure: which texts a class gets, noise on them, how far apart they lie.

Four sets, read as two choices: ``P`` speaks as a pathologist and ``T`` in everyday words; ``sim`` is short (simple) and
``nonsim`` describes. MPAMatch (arXiv 2508.19574) names the sets and does not print them, so this reading is ours; the
other one (similar or dissimilar between classes) can be tested by the inter-class cosine of each set.
Reading the shipped files is ``mpamatch.files.prompts``; turning texts into vectors is ``mpamatch.network.text``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mpamatch.errors import BadInput

PROMPT_SETS = ("P-sim", "P-nonsim", "T-sim", "T-nonsim")
MAX_TEXT_CHARACTERS = 2000
Texts = tuple[str, ...]

_TEMPLATES: Mapping[str, str] = {
    "P-sim": "{name} in a histology section",
    "P-nonsim": "stained histology section with {name}, told from its surroundings by its cells, texture and outline",
    "T-sim": "{name}",
    "T-nonsim": "a microscope picture showing {name}",
}
# A name with one of these speaks of what the class is not, and the lexicon would say what it is.
_NEGATIONS = frozenset({"no", "non", "not", "without", "other", "un", "exclude", "excluded"})
# Last words that say nothing about which tissue it is.
_VAGUE = frozenset({"cell", "cells", "tissue", "area", "areas", "region", "regions"})
# Replacements for prompt noise: words of everyday life, none of them about tissue, microscopes or looks.
_EVERYDAY = (
    *("harbour", "guitar", "invoice", "sunday", "bicycle", "parliament", "recipe", "umbrella", "station", "poem"),
    *("carpet", "election", "violin", "market", "passport", "orchestra", "highway", "novel", "football", "lantern"),
    *("airport", "library", "kitchen", "holiday", "bridge", "radio", "teacher", "castle", "theatre", "railway"),
    *("letter", "garage", "captain", "ticket", "chess", "postcard", "tunnel", "mountain", "satellite", "pension"),
)


@dataclass(frozen=True)
class ClassPrompts:
    """The texts of one class in every set; ``aliases`` are other names for the class."""

    name: str
    aliases: tuple[str, ...]
    sets: Mapping[str, Texts]


@dataclass(frozen=True)
class PromptFile:
    """A file of prompts: ``dataset`` it is for (``task`` where a data set has several) and its classes."""

    dataset: str
    task: str | None
    classes: tuple[ClassPrompts, ...]

    @property
    def name(self) -> str:
        return self.dataset if self.task is None else f"{self.dataset}-{self.task}"

    @classmethod
    def from_json(cls, values: Any, item: str = "prompts") -> PromptFile:
        """A checked file. Raises BadInput naming ``item`` when a part is missing or a set has no text."""
        try:
            classes = tuple(_class_prompts(row, item) for row in values["classes"])
            task = values.get("task")
            found = cls(str(values["dataset"]), None if task is None else str(task), classes)
        except (KeyError, TypeError, AttributeError) as error:
            raise BadInput(item, f"not a prompt file ({error!r})", "give dataset, and name and sets of each") from error
        names = [plain_name(name) for one in classes for name in (one.name, *one.aliases)]
        if not classes or len(set(names)) != len(names):
            raise BadInput(item, "no classes, or two of one name", "give each class a name and aliases of its own")
        return found

    def of(self, class_name: str) -> ClassPrompts | None:
        """The class of that name or alias, whatever its case."""
        wanted = plain_name(class_name)
        return next((c for c in self.classes if wanted in map(plain_name, (c.name, *c.aliases))), None)


def plain_name(name: str) -> str:
    """Lower case with single blanks between words: ``Tumor_Stroma`` -> ``tumor stroma``."""
    return re.sub(r"[\W_]+", " ", name.casefold()).strip()


def texts_by_class(
    class_names: Sequence[str],
    prompts: str,
    *,
    files: Sequence[PromptFile],
    lexicon: PromptFile,
) -> tuple[Texts, ...]:
    """The texts of each class, in order: of the file, else of the lexicon, else its name in a sentence.

    Of ``files`` the one that knows most of the classes is taken. Two classes never get the same texts from the
    lexicon: both then speak of themselves by name. Raises BadInput for an unknown set.
    """
    if prompts not in PROMPT_SETS:
        raise BadInput(f"prompts {prompts!r}", "unknown set", f"one of {', '.join(PROMPT_SETS)}")
    best = max(files, key=lambda one: (sum(one.of(n) is not None for n in class_names), one.task is None), default=None)
    given = [_given(name, prompts, best) for name in class_names]
    looked_up = [None if g else _from_lexicon(n, prompts, lexicon) for n, g in zip(class_names, given, strict=True)]
    taken = [*filter(None, given), *filter(None, looked_up)]
    return tuple(
        texts or (found if found and taken.count(found) == 1 else (_TEMPLATES[prompts].format(name=_spoken(name)),))
        for name, texts, found in zip(class_names, given, looked_up, strict=True)
    )


def noisy_texts(texts: Sequence[Sequence[str]], words: int, seed: int) -> tuple[Texts, ...]:
    """The texts with ``words`` words of each replaced by everyday ones; all of them in a shorter text.

    The same seed with more words changes the same words and further ones, so that noise grows along a curve.

    >>> noisy_texts([["columnar epithelium"]], 0, seed=1)
    (('columnar epithelium',),)
    """
    if words < 0:
        raise BadInput("words", f"is {words}", "give 0 or more words to replace")
    return tuple(
        tuple(_noisy(text, words, np.random.default_rng([seed, c, t])) for t, text in enumerate(of_class))
        for c, of_class in enumerate(texts)
    )


def mean_inter_class_cosine(vectors: npt.ArrayLike) -> float:
    """Mean cosine over all pairs of different classes; ``vectors`` is (C, d) with C >= 2, of any length but 0."""
    rows = np.asarray(vectors, dtype=np.float64)
    if rows.ndim != 2 or len(rows) < 2:
        raise BadInput("vectors", f"have shape {rows.shape}", "give one row for each of two or more classes")
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    count = len(rows)
    return float((rows @ rows.T)[~np.eye(count, dtype=bool)].mean())


def texts_sha256(texts: Sequence[Sequence[str]]) -> str:
    """Hex digest of the texts in their order: what a model was trained with, in one word."""
    rows = [list(of_class) for of_class in texts]
    return hashlib.sha256(json.dumps(rows, ensure_ascii=True, separators=(",", ":")).encode()).hexdigest()


def _class_prompts(row: Any, item: str) -> ClassPrompts:
    sets = {name: tuple(row["sets"][name]) for name in PROMPT_SETS}
    for name, texts in sets.items():
        if isinstance(row["sets"][name], str) or not texts or not all(_is_text(t) for t in texts):
            problem = f"{row['name']}, {name}: not a list of texts"
            raise BadInput(item, problem, f"give one text or more of 1 to {MAX_TEXT_CHARACTERS} characters")
    return ClassPrompts(str(row["name"]), tuple(map(str, row.get("aliases", ()))), sets)


def _is_text(text: Any) -> bool:
    return isinstance(text, str) and bool(text.strip()) and len(text) <= MAX_TEXT_CHARACTERS


def _given(name: str, prompts: str, file: PromptFile | None) -> Texts:
    found = file.of(name) if file else None
    return found.sets[prompts] if found else ()


def _from_lexicon(name: str, prompts: str, lexicon: PromptFile) -> Texts | None:
    """By the whole name, else by its longest ending: in ``tumour stroma`` the last word says what it is."""
    words = plain_name(name).split()
    if _NEGATIONS.intersection(words[:-1]):
        return None
    specific = words[:-1] if words[1:] and words[-1] in _VAGUE else words
    endings = [" ".join(some[start:]) for some in (words, specific) for start in range(len(some))]
    return next((found.sets[prompts] for ending in endings if (found := lexicon.of(ending))), None)


def _spoken(name: str) -> str:
    return re.sub(r"[\s_]+", " ", name).strip()


def _noisy(text: str, words: int, rng: np.random.Generator) -> str:
    parts = text.split()
    places = rng.permutation(len(parts))[:words]
    order = rng.permutation(len(_EVERYDAY))
    for turn, place in enumerate(places):
        parts[place] = _EVERYDAY[order[turn % len(order)]]
    return " ".join(parts) if words else text
