import json
from pathlib import Path

import pytest
import torch

from mpamatch.errors import BadInput, NotFound
from mpamatch.network.text import build_class_texts
from mpamatch.network.text.clip import ClipTower, build_clip

open_clip = pytest.importorskip("open_clip", reason="the extra text is not installed")

pytestmark = pytest.mark.torch

MODEL = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2},
}
TEXTS = ["colonic gland", "lamina propria and desmoplastic stroma with spindle fibroblasts", "stroma " * 100]


@pytest.fixture(scope="module")
def published() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = open_clip.model.CLIP(**MODEL).eval()
        with torch.no_grad():
            for parameter in model.transformer.parameters():
                parameter.mul_(4)
    return model


@pytest.fixture(scope="module")
def weights_dir(published: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    (folder / "openclip" / "quiltnet-b-32").mkdir(parents=True)
    torch.save(published.state_dict(), folder / "openclip" / "quiltnet-b-32" / "open_clip_pytorch_model.bin")
    config = folder / "openclip" / "quiltnet-b-32" / "open_clip_config.json"
    config.write_text(json.dumps({"model_cfg": MODEL, "preprocess_cfg": {}}), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def tower(weights_dir: Path) -> ClipTower:
    folder = weights_dir / "openclip" / "quiltnet-b-32"
    return build_clip("quiltnet-b-32", folder / "open_clip_pytorch_model.bin", folder / "open_clip_config.json")


def test_vectors_are_those_of_open_clip(tower: ClipTower, published: torch.nn.Module) -> None:
    tokens = open_clip.tokenizer.SimpleTokenizer()(TEXTS)
    with torch.no_grad():
        expected = published.encode_text(tokens)
    # Some CPUs add up in another order in the two: 3e-5 was seen, where a wrong layer is off by tenths.
    torch.testing.assert_close(tower.embed(tower.tokens(TEXTS)), expected, atol=1e-4, rtol=0)


@pytest.mark.method_line(21)
def test_context_that_spells_a_text_gives_that_text(tower: ClipTower) -> None:
    prefix = "a microscope picture of"
    words = tower.tokens([prefix])[0, 1:5]
    context = tower.text.token_embedding(words).expand(3, -1, -1)
    spliced = tower.embed(tower.tokens(TEXTS, 4), context)
    plain = tower.embed(tower.tokens([f"{prefix} {text}" for text in TEXTS]))
    torch.testing.assert_close(spliced, plain, atol=1e-6, rtol=0)


def test_reading_out_before_the_shift_is_another_vector(tower: ClipTower) -> None:
    ids = tower.tokens(TEXTS[:1], 4)
    context = tower.text.token_embedding(ids[:, 1:2]).expand(1, 4, -1)
    x = torch.cat([tower.text.token_embedding(ids[:, :1]), context, tower.text.token_embedding(ids[:, 1:])], dim=1)
    hidden = tower.text.transformer(x + tower.text.positional_embedding, attn_mask=tower.text.attn_mask)
    at = int(ids.argmax())
    unshifted = tower.text.ln_final(hidden)[0, at] @ tower.text.text_projection
    shifted = tower.text.ln_final(hidden)[0, at + 4] @ tower.text.text_projection
    ours = tower.embed(ids, context)[0]
    torch.testing.assert_close(ours, shifted, atol=1e-5, rtol=0)
    assert float((ours - unshifted).abs().max()) > 1e-2


def test_a_run_reads_them_from_the_folder_of_weights(weights_dir: Path) -> None:
    made = build_class_texts(
        "openclip:quiltnet-b-32", [["stroma"], ["gland"]], context_tokens=1, context_per_class=True, seed=0,
        weights_dir=weights_dir,
    )  # fmt: skip
    assert made.width == 16
    assert made.context.shape == (2, 1, 32)
    assert made.identity["licence"] == "MIT"
    torch.testing.assert_close(made().norm(dim=1), torch.ones(2))


def test_what_is_missing_is_named_with_where_to_get_it(weights_dir: Path) -> None:
    knobs = {"context_tokens": 0, "context_per_class": False, "seed": 0}
    texts = [["stroma"], ["gland"]]
    for name, said in (
        ("openclip:quiltnet-b-16", "wisdomik/QuiltNet-B-16"),
        ("openclip:ViT-B-32", "openclip/ViT-B-32"),
        ("conch", "MahmoodLab/CONCH"),
    ):
        for folder in (None, weights_dir):
            with pytest.raises(NotFound, match=said) as caught:
                build_class_texts(name, texts, weights_dir=folder, **knobs)
            assert "\n" not in str(caught.value)
    for name in ("openclip:../x", "bert", "table"):
        with pytest.raises((BadInput, NotFound)):
            build_class_texts(name, texts, weights_dir=weights_dir, **knobs)


def test_a_tower_that_needs_a_hub_is_refused_with_the_way_round() -> None:
    with pytest.raises(BadInput, match="table:FILE"):
        ClipTower({**MODEL, "text_cfg": {"hf_model_name": "some/bert", "vocab_size": 49408}}, "config")
    with pytest.raises(BadInput, match="embed_cls"):
        ClipTower({**MODEL, "text_cfg": {**MODEL["text_cfg"], "embed_cls": True}}, "config")
