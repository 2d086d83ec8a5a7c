import numpy as np
import pytest

from mpamatch.domain.prompts import (
    PROMPT_SETS,
    PromptFile,
    mean_inter_class_cosine,
    noisy_texts,
    texts_by_class,
    texts_sha256,
)
from mpamatch.errors import BadInput


def prompt_file(*names: str, task: str | None = None, word: str = "text") -> PromptFile:
    rows = [{"name": n, "aliases": [f"{n}s"], "sets": {s: [f"{word} {s} {n}"] for s in PROMPT_SETS}} for n in names]
    return PromptFile.from_json({"dataset": "some", "task": task, "classes": rows})


LEXICON = prompt_file("tumour", "stroma", "gland", word="lexicon")


def texts(names: list[str], *files: PromptFile) -> list[str]:
    found = texts_by_class(names, "P-sim", files=files, lexicon=LEXICON)
    return [" | ".join(of_class) for of_class in found]


def test_a_data_sets_own_texts_come_before_the_lexicon() -> None:
    assert texts(["Gland", "stroma"], prompt_file("gland")) == ["text P-sim gland", "lexicon P-sim stroma"]


def test_of_several_tasks_the_one_that_knows_the_classes_is_taken() -> None:
    files = [prompt_file("rest", "tumour", task="b", word="b"), prompt_file("rest", "gland", task="a", word="a")]
    assert texts(["rest", "gland"], *files) == ["a P-sim rest", "a P-sim gland"]
    assert texts(["rest", "tumours"], *files) == ["b P-sim rest", "b P-sim tumour"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("TUMOUR", "tumour"),
        ("invasive_tumour", "tumour"),
        ("tumour stroma", "stroma"),
        ("tumour cells", "tumour"),
        ("non-tumour", None),
        ("other gland", None),
        ("Drüse", None),
    ],
)
def test_the_lexicon_knows_a_class_by_the_end_of_its_name(name: str, found: str | None) -> None:
    assert texts(["x", name])[1].startswith("lexicon") == (found is not None)
    if found is not None:
        assert texts(["x", name])[1] == f"lexicon P-sim {found}"


def test_classes_of_one_entry_speak_of_themselves_by_name() -> None:
    first, second = texts(["benign gland", "malignant_gland"])
    assert "benign gland" in first
    assert "malignant gland" in second


def test_an_unknown_set_is_refused() -> None:
    with pytest.raises(BadInput, match="P-nonsim"):
        texts_by_class(["a", "b"], "P-all", files=(), lexicon=LEXICON)


@pytest.mark.parametrize(
    "change",
    [
        {"classes": []},
        {"classes": None},
        {"dataset": 1, "classes": [{"name": "gland"}]},
        {"classes": [{"name": "gland", "sets": dict.fromkeys(PROMPT_SETS, "text")}]},
        {"classes": [{"name": "gland", "sets": {s: [" "] for s in PROMPT_SETS}}]},
        {"classes": [{"name": n, "sets": {s: ["text"] for s in PROMPT_SETS}} for n in ("gland", "Gland")]},
    ],
)
def test_a_file_that_is_not_one_is_refused_by_its_name(change: dict[str, object]) -> None:
    with pytest.raises(BadInput, match=r"^mine\.json"):
        PromptFile.from_json({"dataset": "some", **change}, "mine.json")


def test_noise_changes_so_many_words_and_grows_along_a_curve() -> None:
    clean = (("tall columnar epithelium with goblet mucin",), ("fibres", "loose lamina propria"))
    assert noisy_texts(clean, 0, seed=1) == clean
    before = clean
    for words in range(1, 7):
        noisy = noisy_texts(clean, words, seed=1)
        for of_class, of_clean, of_before in zip(noisy, clean, before, strict=True):
            for text, plain, last in zip(of_class, of_clean, of_before, strict=True):
                changed = [a != b for a, b in zip(text.split(), plain.split(), strict=True)]
                assert sum(changed) == min(words, len(plain.split()))
                assert all(
                    now == then
                    for now, then, p in zip(text.split(), last.split(), plain.split(), strict=True)
                    if then != p
                )
        before = noisy
    assert noisy_texts(clean, 3, seed=1) == noisy_texts(clean, 3, seed=1) != noisy_texts(clean, 3, seed=2)
    with pytest.raises(BadInput, match="words"):
        noisy_texts(clean, -1, seed=1)


def test_the_cosine_between_classes_is_the_mean_over_pairs() -> None:
    assert mean_inter_class_cosine([[2, 0], [0, 3]]) == 0
    assert mean_inter_class_cosine([[1, 0], [5, 0]]) == pytest.approx(1)
    rows = np.random.default_rng(0).normal(size=(4, 6))
    pairs = [(a, b) for a in range(4) for b in range(a)]
    by_hand = [rows[a] @ rows[b] / np.linalg.norm(rows[a]) / np.linalg.norm(rows[b]) for a, b in pairs]
    assert mean_inter_class_cosine(rows) == pytest.approx(np.mean(by_hand))
    with pytest.raises(BadInput):
        mean_inter_class_cosine([[1, 0]])


def test_the_digest_tells_texts_and_their_classes_apart() -> None:
    assert texts_sha256([["a"], ["b"]]) == texts_sha256((("a",), ("b",)))
    assert len({texts_sha256(t) for t in ([["a"], ["b"]], [["b"], ["a"]], [["a", "b"]], [["ab"], [""]])}) == 4
