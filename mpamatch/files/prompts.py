"""The prompt files that come with the package, and a person's own. Reads JSON; knows no encoder and no torch."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from mpamatch.domain.prompts import PROMPT_SETS, PromptFile, Texts, texts_by_class
from mpamatch.errors import BadInput, NotFound

_LEXICON = "lexicon"


def class_texts(class_names: Sequence[str], prompts: str, *, dataset: str | None) -> tuple[Texts, ...]:
    """The texts of each class in a set (``P-nonsim``, ...), in the order of ``class_names``; each has one at least.

    ``dataset`` is a data set's name (``glas``, ``ebhi``, ``ebhi-gland``); classes that it does not know, and projects
    without one, take their texts from a small lexicon or speak of themselves by name. Raises BadInput.

    >>> class_texts(["background", "gland"], "T-sim", dataset="glas")
    (('background',), ('gland',))
    """
    chosen = [one for one in prompt_files() if dataset in (one.dataset, one.name)]
    return texts_by_class(class_names, prompts, files=chosen, lexicon=_shipped()[_LEXICON])


def own_texts(class_names: Sequence[str], prompts: str, path: Path) -> tuple[Texts, ...]:
    """The texts of each class in a set of a person's own file, in the order of ``class_names``.

    The file has to speak of these classes, each by its name or an alias, and of no other: a slip in a name would
    otherwise train on words that nobody wrote. Raises NotFound, or BadInput saying what is wrong.
    """
    if prompts not in PROMPT_SETS:
        raise BadInput(f"prompts {prompts!r}", "unknown set", f"one of {', '.join(PROMPT_SETS)}")
    file = read_prompt_file(path)
    found = [file.of(name) for name in class_names]
    if unknown := [one.name for one in file.classes if one not in found]:
        raise BadInput(f"{path}: class {unknown[0]!r}", "is unknown", f"the classes are {', '.join(class_names)}")
    texts = list[Texts]()
    for name, one in zip(class_names, found, strict=True):
        if one is None:
            raise BadInput(f"{path}: class {name!r}", "has no texts", "give it texts in each set, as the others have")
        if found.count(one) > 1:
            raise BadInput(f"{path}: class {one.name!r}", "stands for two classes", "give each of them its own texts")
        texts.append(one.sets[prompts])
    return tuple(texts)


def prompt_files() -> tuple[PromptFile, ...]:
    """The shipped files, one for each task of a data set, by name."""
    return tuple(one for name, one in _shipped().items() if name != _LEXICON)


def read_prompt_file(path: Path) -> PromptFile:
    """A person's own file in the form of the shipped ones. Raises NotFound, or BadInput saying what is wrong."""
    if not path.is_file():
        raise NotFound(str(path), "no such file", "give the path of a prompt file")
    return _read(path, str(path))


@functools.cache
def _shipped() -> Mapping[str, PromptFile]:
    folder = files("mpamatch") / "prompts"
    found = sorted((one for one in folder.iterdir() if one.name.endswith(".json")), key=lambda one: one.name)
    return {one.name.removesuffix(".json"): _read(one, one.name) for one in found}


def _read(path: Traversable | Path, item: str) -> PromptFile:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise BadInput(item, "not JSON", "write it as the shipped prompt files are") from error
    return PromptFile.from_json(values, item)
