"""`mpamatch prompts`: the texts that stand for the classes, and how far apart an encoder finds them."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from mpamatch.errors import BadInput, MpamatchError

app = typer.Typer(help="The texts that stand for the classes of a run.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps ``show`` a command of its own."""


@app.command("show")
def show(
    dataset: Annotated[str | None, typer.Option(help="A data set with texts of its own; without: all of them.")] = None,
    classes: Annotated[str | None, typer.Option(help="Class names with commas between, background first.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="A prompt file of your own (docs/text.md).", exists=True, dir_okay=False)
    ] = None,
    text: Annotated[str, typer.Option(help="The encoder that compares them, as recipe.text; none leaves it out.")] = (
        "minilm"
    ),
    weights: Annotated[
        Path | None, typer.Option(help="The folder of weights of that encoder.", file_okay=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Show the texts of every set, and the mean cosine between classes where the encoder is installed."""
    shown = _texts(dataset, classes, file)
    cosines = _cosines([texts for _, _, sets in shown for texts in sets.values()], text, weights)
    rows: list[dict[str, Any]] = [
        {
            "dataset": name,
            "classes": list(names),
            "sets": {s: {"texts": [list(t) for t in texts], "cosine": next(cosines)} for s, texts in sets.items()},
        }
        for name, names, sets in shown
    ]
    if as_json:
        print(json.dumps(rows, ensure_ascii=False))
        return
    for row in rows:
        print(f"{row['dataset'] or 'any data set'}")
        for name, values in row["sets"].items():
            cosine = "" if values["cosine"] is None else f"  cosine {values['cosine']:.3f}"
            print(f"  {name}{cosine}")
            for of_class, texts in zip(row["classes"], values["texts"], strict=True):
                print(f"    {of_class}: {' | '.join(texts)}")


def _texts(dataset: str | None, classes: str | None, file: Path | None) -> list[tuple[str | None, Any, dict[str, Any]]]:
    """Name, class names and the texts by set, for each file that is asked for or for the classes given."""
    from mpamatch.domain.classes import ClassSet
    from mpamatch.domain.prompts import PROMPT_SETS
    from mpamatch.files.prompts import class_texts, own_texts, prompt_files, read_prompt_file

    if file is not None and dataset is not None:
        raise BadInput("--file", "given beside --dataset", "give one of the two")
    given = ClassSet.from_names(classes.split(",")).names if classes is not None else None
    if file is not None:
        mine = read_prompt_file(file)
        names = given or tuple(c.name for c in mine.classes)
        return [(mine.name, names, {s: own_texts(names, s, file) for s in PROMPT_SETS})]
    known = [one for one in prompt_files() if dataset in (one.name, one.dataset)]
    if dataset is not None and not known:
        problem, others = "has no texts of its own", ", ".join(one.name for one in prompt_files())
        raise BadInput(f"data set {dataset!r}", problem, f"one of {others}, or --classes alone")
    if given is not None:
        wanted: list[tuple[str | None, tuple[str, ...]]] = [(dataset, given)]
    else:
        wanted = [(one.name, tuple(c.name for c in one.classes)) for one in known or prompt_files()]
    return [(source, n, {s: class_texts(n, s, dataset=source) for s in PROMPT_SETS}) for source, n in wanted]


def _cosines(sets: Sequence[Sequence[Sequence[str]]], text: str, weights: Path | None) -> Iterator[float | None]:
    """The mean inter-class cosine of each set, or None for all with the reason on stderr."""
    from mpamatch.domain.prompts import mean_inter_class_cosine

    if text == "none":
        return iter([None] * len(sets))
    try:
        from mpamatch.network.text import build_class_texts

        # All at once, each class as a class of one long run: the tower is read once.
        flat = [of_class for texts in sets for of_class in texts]
        built = build_class_texts(text, flat, context_tokens=0, context_per_class=False, seed=0, weights_dir=weights)
        rows = built().detach().numpy()
    except (MpamatchError, ImportError) as error:
        print(f"no cosines: {error}", file=sys.stderr)
        return iter([None] * len(sets))
    ends = itertools.accumulate(len(texts) for texts in sets)
    return iter([mean_inter_class_cosine(rows[end - len(texts) : end]) for texts, end in zip(sets, ends, strict=True)])
