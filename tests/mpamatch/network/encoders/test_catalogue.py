import json
from dataclasses import replace
from importlib.metadata import EntryPoint

import pytest
import torch

from mpamatch.errors import BadInput, NotFound
from mpamatch.files.starter import starter_folder
from mpamatch.network.encoders import ENCODERS, EncoderRecord, build_encoder, catalogue, encoder_record, with_options
from mpamatch.network.weights import read_config
from tests.mpamatch.network.small_vit import small_vit

pytestmark = pytest.mark.torch

# Patch, tokens before the image's, width, blocks, parameters in millions: from the vendors' pages, not from the code.
PUBLISHED = {
    "uni": (16, 1, 1024, 24, 303.4),
    "uni2-h": (14, 9, 1536, 24, 681.4),
    "virchow2": (14, 5, 1280, 32, 631.2),
    "h-optimus-0": (14, 5, 1536, 40, 1134.8),
    "h-optimus-1": (14, 5, 1536, 40, 1134.8),
    "phikon": (16, 1, 768, 12, 85.8),
    "kaiko-s16": (16, 1, 384, 12, 21.7),
    "kaiko-s8": (8, 1, 384, 12, 21.7),
    "kaiko-b16": (16, 1, 768, 12, 85.8),
    "kaiko-b8": (8, 1, 768, 12, 85.8),
    "kaiko-l14": (14, 5, 1024, 24, 304.4),
    "lunit-s16": (16, 1, 384, 12, 21.7),
    "lunit-s8": (8, 1, 384, 12, 21.7),
    "dinov2-s": (14, 1, 384, 12, 22.1),
    "dinov2-b": (14, 1, 768, 12, 86.6),
    "dinov2-l": (14, 1, 1024, 24, 304.4),
    "in-vit-s": (16, 1, 384, 12, 21.7),
    "in-vit-b": (16, 1, 768, 12, 85.8),
    "in-r50-vitb": (16, 1, 768, 12, 97.9),
}


@pytest.mark.parametrize("name", ["light", "tiny"])
def test_a_pyramids_features_are_what_its_record_says(name: str) -> None:
    record = encoder_record(name)
    with torch.no_grad():
        features = build_encoder(record, pretrained=False).eval()(torch.zeros(1, 3, 64, 64))
    assert tuple(f.shape[1] for f in features) == record.channels
    assert tuple(64 // f.shape[2] for f in features) == record.strides


def test_every_transformer_of_the_catalogue_is_tested() -> None:
    assert set(PUBLISHED) == {name for name, record in ENCODERS.items() if record.family != "cnn"}


@pytest.mark.method_line(26)
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_transformer_at_its_full_size_gives_its_grid_without_prefix_tokens(name: str) -> None:
    patch, prefix, dim, depth, millions = PUBLISHED[name]
    record, side = encoder_record(name), round(256 / patch)
    record = replace(record, kwargs={**record.kwargs, "weight_init": "skip"})  # there are no values to draw here
    with torch.device("meta"), torch.no_grad():
        encoder = build_encoder(record, pretrained=False).eval()
        features = encoder(torch.zeros(1, 3, 256, 256))
    assert features[-1].shape == (1, dim, side, side)
    assert tuple(f.shape[1] for f in features) == record.channels
    assert encoder.vit.num_prefix_tokens == prefix == record.prefix
    assert len(encoder.vit.blocks) == depth == record.depth
    assert round(sum(p.numel() for p in encoder.parameters()) / 1e6, 1) == millions


@pytest.mark.parametrize("name", PUBLISHED)
def test_one_block_of_each_transformer_computes_finite_features(name: str) -> None:
    record = encoder_record(name)
    record = replace(record, kwargs={**record.kwargs, "depth": 1}, depth=1)
    with torch.no_grad():
        encoder = build_encoder(record, pretrained=False).eval()
        features = encoder(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert all(bool(torch.isfinite(f).all()) for f in features)
    assert float(features[-1].std()) > 0.1


def test_what_a_gated_licence_forbids_is_said_by_its_record() -> None:
    for record in ENCODERS.values():
        assert record.redistributable == (record.licence in ("Apache-2.0", None)), record.name
    assert encoder_record("h-optimus-1").licence_text.endswith("(licence unverified)")  # type: ignore[union-attr]


def test_the_shipped_models_record_is_this_versions() -> None:
    assert read_config(starter_folder()).encoder == encoder_record("light")


@pytest.mark.parametrize("skips", ["none", "vit", "stem"])
def test_a_record_is_known_again_from_json_whatever_its_options(skips: str) -> None:
    from mpamatch.network.weights import _known_record

    for record in [encoder_record("uni2-h"), encoder_record("light")][: 2 if skips == "none" else 1]:
        chosen = with_options(record, skips=skips, decoder_norm="batch")  # type: ignore[arg-type]
        assert _known_record(json.loads(json.dumps(chosen.to_json()))) == chosen


def test_options_that_are_none_are_refused() -> None:
    with pytest.raises(BadInput, match="skips"):
        with_options(encoder_record("uni"), skips="foo")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="skips of its own"):
        with_options(encoder_record("light"), skips="stem")


def test_an_unknown_encoder_is_named_with_what_is_known() -> None:
    with pytest.raises(NotFound, match="light, tiny, uni"):
        encoder_record("huge")


RECORD = small_vit()


def records() -> list[EncoderRecord]:
    return [small_vit(name="second"), small_vit(name="light")]


NO_RECORD = ["a name"]


def test_a_package_adds_encoders_and_a_broken_one_breaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    here = "tests.mpamatch.network.encoders.test_catalogue"
    targets = {"a": f"{here}:RECORD", "b": f"{here}:records", "c": "no_such_package:x", "d": f"{here}:NO_RECORD"}
    entries = [EntryPoint(name, value, catalogue.GROUP) for name, value in targets.items()]
    monkeypatch.setattr(catalogue, "entry_points", lambda group: entries)
    assert encoder_record("small-vit") == small_vit()
    assert encoder_record("second").name == "second"
    assert encoder_record("light").arch == "tf_efficientnet_lite0"
    with pytest.raises(NotFound, match=r"names light again.*no_such_package does not load"):
        encoder_record("huge")
