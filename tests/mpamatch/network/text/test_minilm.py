import importlib.util

import numpy as np
import pytest
import torch

from mpamatch.network.text import build_class_texts, minilm

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(importlib.util.find_spec(minilm.PACKAGE) is None, reason="the extra text is not installed"),
]

TEXTS = (
    "gland",
    "lamina propria and desmoplastic stroma with spindle fibroblasts, lymphocytes, small vessels",
    "Back-to-back crypts: É(2), μm! " * 60,
)


@pytest.fixture(scope="module")
def tower() -> minilm.MiniLm:
    return minilm.build_minilm()


def test_vectors_are_those_of_sentence_transformers(tower: minilm.MiniLm) -> None:
    referee = pytest.importorskip("sentence_transformers", reason="its package comes with the extra text")
    folder = minilm.tokenizer_file().parent
    expected = referee.SentenceTransformer(str(folder), device="cpu").encode(list(TEXTS), normalize_embeddings=True)
    ours = torch.nn.functional.normalize(tower.embed(tower.tokens(TEXTS)), dim=1).numpy()
    np.testing.assert_allclose((ours * expected).sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.method_line(21)
@pytest.mark.parametrize("prefix", ["microscope", "a microscope picture of"])
def test_context_that_spells_a_text_gives_that_text(tower: minilm.MiniLm, prefix: str) -> None:
    words = tower.tokens([prefix])[0, 1:-1]
    context = tower.words(words).expand(3, -1, -1)
    spliced = tower.embed(tower.tokens(TEXTS, len(words)), context)
    plain = tower.embed(tower.tokens([f"{prefix} {text}" for text in TEXTS]))
    torch.testing.assert_close(spliced, plain, atol=1e-6, rtol=0)


def test_a_text_is_the_same_alone_and_beside_a_longer_one(tower: minilm.MiniLm) -> None:
    alone = tower.embed(tower.tokens(TEXTS[:1]))
    torch.testing.assert_close(tower.embed(tower.tokens(TEXTS))[:1], alone, atol=1e-6, rtol=0)


def test_long_texts_are_cut_so_that_context_has_room(tower: minilm.MiniLm) -> None:
    ids = tower.tokens(TEXTS[2:], 4)
    assert ids.shape == (1, minilm.MAX_TOKENS - 4)
    assert int(ids[0, -1]) == 102


@pytest.mark.method_line(6)
def test_only_the_context_learns_and_nothing_of_the_tower_is_saved() -> None:
    state = torch.get_rng_state()
    texts = build_class_texts("minilm", [["stroma"], ["gland"]], context_tokens=2, context_per_class=False, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert [name for name, _ in texts.named_parameters()] == list(texts.state_dict()) == ["context"]
    assert texts.context.shape == (1, 2, 384)
    assert 0.015 < float(texts.context.detach().std()) < 0.025
    texts()[0, 0].backward()
    assert float(texts.context.grad.abs().max()) > 0
    assert all(p.grad is None and not p.requires_grad for p in texts._frozen.tower.parameters())
    texts.train()
    assert not texts._frozen.tower.training


def test_shuffled_texts_are_other_words_of_the_same_number_by_seed() -> None:
    from mpamatch.network.text.providers import random_words

    texts = [["colonic stroma"], ["gland with basal nuclei", "crypt"]]
    words = random_words(texts, seed=1)
    counts = [[len(t.split()) for t in of_class] for of_class in words]
    assert counts == [[2], [4, 1]]
    assert words == random_words(texts, seed=1) != random_words(texts, seed=2)
    said = {w for of_class in texts for t in of_class for w in t.split()}
    assert not said.intersection(w for of_class in words for t in of_class for w in t.split())


@pytest.mark.method_line(50)
def test_shuffled_texts_are_not_the_texts_in_another_order() -> None:
    """With two classes a swap has the same geometry, and a run upon it would train as the real one does."""
    texts = [["colonic stroma"], ["colonic gland"]]
    real = build_class_texts("minilm", texts, context_tokens=0, context_per_class=False, seed=5)()
    shuffled = build_class_texts("shuffled", texts, context_tokens=0, context_per_class=False, seed=5)
    assert float((real @ shuffled().T).max()) < 0.5
    assert abs(float(real[0] @ real[1]) - float(shuffled()[0] @ shuffled()[1])) > 0.1
    assert shuffled.identity["text"] == "shuffled"
