import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mpamatch.errors import BadInput
from mpamatch.network.text.conch import END, PAD, SLOTS, START, ConchShape, ConchTokenizer, ConchTower, build_conch
from tests.mpamatch.network.text import conch_reference

pytest.importorskip("open_clip", reason="the extra text is not installed")

pytestmark = pytest.mark.torch

SHORT, LONG = "colonic gland", "Lamina própria and stroma with lymphocytes"
FULL = "gland stroma " * 100
HEADS = 4
# The first numbers of the vectors of these ids with the weights below: what the slow reference said once.
GOLDEN_IDS = ((1, 300, 41, 2), (1, 399, *range(10, 130), 2))
GOLDEN = ((-2.571604, 2.385246, 0.975476, 1.069756), (0.564888, 3.332954, 0.59818, 0.963761))


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("conch") / "tokenizer.json"
    conch_reference.small_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def shape(tokenizer_file: Path) -> ConchShape:
    vocabulary = conch_reference.small_tokenizer(tokenizer_file.with_name("again.json"))
    return ConchShape(vocabulary=vocabulary, width=32, heads=HEADS, layers=2, embedding=16)


@pytest.fixture(scope="module")
def tower(tokenizer_file: Path, shape: ConchShape) -> ConchTower:
    made = ConchTower(ConchTokenizer(tokenizer_file, shape.vocabulary), shape).eval().requires_grad_(False)
    rng = np.random.default_rng(20)
    for key, tensor in sorted(made.text.state_dict().items()):
        centre, spread = (1.0, 0.2) if re.search(r"ln_.*weight", key) else (0.0, 0.3)
        tensor.copy_(torch.from_numpy(rng.normal(centre, spread, tensor.shape)))
    return made


def reference(tower: ConchTower, embeddings: Tensor, ids: Tensor) -> np.ndarray:
    state = {key: value.double().numpy() for key, value in tower.text.state_dict().items()}
    rows = zip(embeddings.double().numpy(), ids.numpy(), strict=True)
    return np.stack([conch_reference.encode(state, e, i, HEADS) for e, i in rows])


@pytest.mark.method_line(20)
def test_the_tower_is_the_slow_reference_and_open_clips_own_forward(tower: ConchTower) -> None:
    ids = tower.tokens([SHORT, LONG, FULL])
    ours = tower.embed(ids)
    np.testing.assert_allclose(ours.numpy(), reference(tower, tower.text.token_embedding(ids), ids), atol=2e-5)
    torch.testing.assert_close(ours, tower.text(ids)[0], atol=2e-5, rtol=0)


@pytest.mark.method_line(20)
def test_the_reference_has_not_moved_since_its_vectors_were_frozen(tower: ConchTower) -> None:
    for some, golden in zip(GOLDEN_IDS, GOLDEN, strict=True):
        ids = F.pad(torch.tensor([some]), (0, SLOTS - len(some)))
        np.testing.assert_allclose(tower.embed(ids)[0, :4].numpy(), golden, atol=2e-5)


@pytest.mark.method_line(20)
def test_the_tower_is_the_class_that_conch_publishes(tower: ConchTower, shape: ConchShape) -> None:
    published = pytest.importorskip("conch.open_clip_custom.transformer", reason="conch is not installed")
    theirs = published.TextTransformer(
        context_length=SLOTS + 1, vocab_size=shape.vocabulary, width=shape.width, heads=shape.heads,
        layers=shape.layers, output_dim=shape.embedding, embed_cls=True, pad_id=PAD, output_tokens=True,
    ).eval()  # fmt: skip
    theirs.load_state_dict(tower.text.state_dict(), strict=True)
    ids = tower.tokens([SHORT, LONG, FULL])
    torch.testing.assert_close(tower.embed(ids), theirs(ids)[0], atol=1e-6, rtol=0)


@pytest.mark.method_line(21)
@pytest.mark.parametrize("trim", [True, False])
@pytest.mark.parametrize("prefix", ["desmoplastic", "small vessels around a lumen"])
def test_context_that_spells_a_text_gives_that_text(tower: ConchTower, prefix: str, trim: bool) -> None:
    words = tower.tokens([prefix])[0]
    words = words[(words != PAD) & (words != START) & (words != END)]
    context = tower.text.token_embedding(words).expand(2, -1, -1)
    spliced = tower.embed(tower.tokens([SHORT, FULL], len(words)), context, trim=trim)
    plain = tower.embed(tower.tokens([f"{prefix} {SHORT}", f"{prefix} {FULL}"]), trim=trim)
    torch.testing.assert_close(spliced, plain, atol=0, rtol=0)


def test_context_over_filler_tokens_is_not_the_prefix_text(tower: ConchTower) -> None:
    """Writing the vectors over the slots behind the text, where padding was, leaves the words where they were."""
    words = tower.tokens(["desmoplastic"])[0]
    words = words[(words != PAD) & (words != START) & (words != END)]
    ids = tower.tokens([SHORT])
    length = int((ids != PAD).sum())
    overwritten = ids.clone()
    overwritten[0, length : length + len(words)] = words
    right = tower.embed(tower.tokens([f"desmoplastic {SHORT}"]))
    assert float((tower.embed(overwritten) - right).abs().max()) > 1e-2


@pytest.mark.method_line(22)
def test_trailing_padding_may_go_but_for_its_first_slot(tower: ConchTower) -> None:
    for texts in ([SHORT], [SHORT, LONG], [SHORT, FULL]):
        ids = tower.tokens(texts)
        torch.testing.assert_close(tower.embed(ids), tower.embed(ids, trim=False), atol=1e-5, rtol=0)


@pytest.mark.method_line(22)
def test_a_moved_class_position_and_a_dropped_pad_slot_are_other_vectors(tower: ConchTower) -> None:
    ids = tower.tokens([SHORT])
    right, length = tower.embed(ids), int((ids != PAD).sum())
    moved = tower.text(ids[:, : length + 1])[0]  # open_clip on a cut text: the class embedding moves forward
    dropped = reference_without_first_pad(tower, ids, length)
    assert float((moved - right).abs().max()) > 1e-2
    assert float((dropped - right).abs().max()) > 1e-2


def reference_without_first_pad(tower: ConchTower, ids: Tensor, length: int) -> Tensor:
    text = tower.text
    x = text.token_embedding(ids[:, :length]) + text.positional_embedding[:length]
    x = torch.cat([x, (text.cls_emb + text.positional_embedding[SLOTS]).expand(1, 1, -1)], dim=1)
    causal = torch.full((length + 1, length + 1), float("-inf")).triu(1)
    causal[-1, -1] = float("-inf")  # the class row of a short text does not see itself
    return text.ln_final(text.transformer(x, attn_mask=causal)[:, -1]) @ text.text_projection


@pytest.mark.method_line(23)
def test_the_class_embedding_is_read_out_and_not_the_highest_id(tower: ConchTower) -> None:
    """The highest id of this text stands early: read there, causality hides every later word."""
    text, other = "zzyzx colonic gland", "zzyzx goblet mucin"
    ids = torch.cat([tower.tokens([text]), tower.tokens([other])])
    assert int(ids[0].argmax()) == int(ids[1].argmax()) < int((ids[0] == END).nonzero()) - 1
    x = tower.text.ln_final(causal_only(tower, ids))
    at_highest = x[torch.arange(2), ids.argmax(dim=1)] @ tower.text.text_projection
    ours = tower.embed(ids)
    assert float((at_highest[0] - at_highest[1]).abs().max()) < 1e-5
    assert float((ours[0] - ours[1]).abs().max()) > 1e-2
    np.testing.assert_allclose(ours.numpy(), reference(tower, tower.text.token_embedding(ids), ids), atol=2e-5)


def causal_only(tower: ConchTower, ids: Tensor) -> Tensor:
    text = tower.text
    mask = torch.full((SLOTS, SLOTS), float("-inf")).triu(1)
    return text.transformer(text.token_embedding(ids) + text.positional_embedding[:SLOTS], attn_mask=mask)


@pytest.mark.parametrize("trap", ["no mask", "no padding mask", "straight padding mask", "ln before cls"])
def test_every_known_wrong_reading_is_another_vector(tower: ConchTower, trap: str) -> None:
    """Each was seen in published code; a tower that fell for one would pass no other test by chance."""
    text, ids = tower.text, tower.tokens([SHORT])
    x = torch.cat([text.token_embedding(ids), text.cls_emb.expand(1, 1, -1)], dim=1) + text.positional_embedding
    if trap == "ln before cls":
        x = F.layer_norm(x, (x.shape[-1],))
    straight = torch.cat([ids != PAD, torch.ones(1, 1, dtype=torch.bool)], dim=1)
    shifted = torch.cat([torch.ones(1, 1, dtype=torch.bool), ids != PAD], dim=1)
    open_ = torch.ones(SLOTS + 1, SLOTS + 1, dtype=torch.bool)
    if trap != "no mask":
        open_ = open_.tril()
    if trap in ("straight padding mask", "ln before cls"):
        open_[-1] &= straight[0] if trap == "straight padding mask" else shifted[0]
    mask = torch.zeros(open_.shape).masked_fill(~open_, float("-inf"))
    wrong = text.ln_final(text.transformer(x, attn_mask=mask)[:, -1]) @ text.text_projection
    assert float((wrong - tower.embed(ids)).abs().max()) > 1e-2


@pytest.mark.method_line(24)
def test_tokens_are_framed_padded_lower_case_and_cut_before_their_end(tokenizer_file: Path, shape: ConchShape) -> None:
    tokenizer = ConchTokenizer(tokenizer_file, shape.vocabulary)
    ids = tokenizer(["Colonic GLAND", "colonic gland", FULL, "própria"])
    assert ids.shape == (4, 128)
    assert ids.dtype == torch.int64
    assert torch.equal(ids[0], ids[1])
    assert torch.equal(ids[3], tokenizer(["propria"])[0])
    assert (ids[:, 0] == START).all()
    assert (ids[:, -1] == PAD).all()
    length = int((ids[0] != PAD).sum())
    assert int(ids[0, length - 1]) == END
    assert (ids[0, length:] == PAD).all()
    assert int(ids[2, 126]) == END
    assert (ids[2, :126] != PAD).all()
    assert int(tokenizer([FULL], context_tokens=4)[0, 122]) == END


def test_files_of_the_user_are_read_whole_or_refused(
    tmp_path: Path, tower: ConchTower, tokenizer_file: Path, shape: ConchShape
) -> None:
    state = {f"module.text.{key}": value for key, value in tower.text.state_dict().items()}
    whole = {**state, "module.visual.trunk.cls_token": torch.zeros(3), "module.logit_scale": torch.zeros(())}
    torch.save({"state_dict": whole, "epoch": 3}, tmp_path / "whole.bin")
    read = build_conch(tmp_path / "whole.bin", tokenizer_file, shape)
    ids = tower.tokens([SHORT])
    assert torch.equal(read.embed(ids), tower.embed(ids))
    assert not any(p.requires_grad for p in read.parameters())
    del whole["module.text.cls_emb"]
    torch.save(whole, tmp_path / "less.bin")
    with pytest.raises(BadInput, match="cls_emb does not match"):
        build_conch(tmp_path / "less.bin", tokenizer_file, shape)
    with pytest.raises(BadInput, match="CONCH's has 32007"):
        ConchTokenizer(tokenizer_file)


def test_a_file_that_would_run_code_is_not_read(tmp_path: Path, tokenizer_file: Path, shape: ConchShape) -> None:
    torch.save({"text.cls_emb": Path("x")}, tmp_path / "code.bin")
    with pytest.raises(BadInput, match="not a plain weight file"):
        build_conch(tmp_path / "code.bin", tokenizer_file, shape)
