from dataclasses import replace

import pytest
import torch

from mpamatch.errors import BadInput, NotFound
from mpamatch.network.encoders import build_encoder, encoder_record, packaged

pytestmark = pytest.mark.torch


def test_pretrained_weights_are_loaded_where_they_belong() -> None:
    record = encoder_record("light")
    source = record.weights
    assert source is not None
    raw = torch.load(packaged.checked_file(source), weights_only=True)
    state = build_encoder(record, pretrained=True).state_dict()
    assert torch.equal(state["conv_stem.weight"], raw["_conv_stem.weight"])
    assert torch.equal(state["blocks.0.0.conv_pw.weight"], raw["_blocks.0._project_conv.weight"])
    # Stages repeat 1, 2, 2, 3, 3, 4, 1: flat block 9 is the second of stage 4, block 15 the only one of stage 6.
    assert torch.equal(state["blocks.4.1.conv_pwl.weight"], raw["_blocks.9._project_conv.weight"])
    assert torch.equal(state["blocks.6.0.bn3.running_var"], raw["_blocks.15._bn2.running_var"])


def test_pretrained_features_tell_images_apart_better_than_random_ones_do() -> None:
    """A wrong key mapping loads without complaint only if shapes agree; activations then explode or die."""
    torch.manual_seed(0)
    with torch.no_grad():
        last = build_encoder(encoder_record("light"), pretrained=True).eval()(torch.randn(2, 3, 96, 96))[-1]
    assert 0.05 < float(last.std()) < 20


def test_a_changed_weight_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    source = encoder_record("light").weights
    assert source is not None
    with pytest.raises(BadInput, match="checksum"):
        packaged.checked_file(replace(source, sha256="0" * 64))
    with pytest.raises(NotFound, match="not installed"):
        packaged.checked_file(replace(source, package="no_such_package_here"))
