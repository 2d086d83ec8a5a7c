"""A model as another program would run it: through ONNX, in a runtime that shares no code with torch."""

import copy
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch.nn import functional

from mpamatch.network.branch import BranchShape
from mpamatch.network.encoders import encoder_record
from mpamatch.network.encoders.tokens import TokenEncoder, fix_size
from mpamatch.network.model import Segmenter, add_branch, build_segmenter
from tests.mpamatch.network.small_vit import small_vit

pytestmark = pytest.mark.torch


@pytest.mark.method_line(49)
@pytest.mark.parametrize("name", ["light", "tiny", "small-vit"])
def test_an_exported_model_answers_as_the_original(tmp_path: Path, name: str) -> None:
    record = small_vit() if name == "small-vit" else encoder_record(name)
    model = build_segmenter(record, 3, seed=0, pretrained=False).eval()
    _check_export(model, tmp_path / "model.onnx")


@pytest.mark.method_line(49)
@pytest.mark.parametrize(("per_class", "text_width"), [(3, 0), (0, 16), (3, 16)])
def test_an_exported_model_looks_at_its_prototypes_as_the_original(
    tmp_path: Path, per_class: int, text_width: int
) -> None:
    """The gate is open; one class has every row, one a single row, and one neither a row nor a text."""
    model = build_segmenter(encoder_record("tiny"), 3, seed=0, pretrained=False)
    add_branch(model, BranchShape(64, per_class, text_width, attention=True), seed=0)
    branch, drawn = model.eval().branch, torch.Generator().manual_seed(1)
    assert branch is not None
    assert branch.attention is not None
    images = _images()
    with torch.no_grad():
        shut = model(images)
        branch.attention.gamma.fill_(0.5)
        if branch.bank is not None:
            branch.bank.rows[:2] = functional.normalize(torch.randn(2, 3, 64, generator=drawn), dim=-1)
            branch.bank.active[0], branch.bank.active[1, 0] = True, True
        if branch.projection is not None:
            branch.text_vectors[:2] = functional.normalize(torch.randn(2, 16, generator=drawn), dim=1)
        assert float((model(images) - shut).abs().max()) > 0.01
    _check_export(model, tmp_path / "model.onnx")


def _images() -> torch.Tensor:
    return torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))


def _check_export(model: Segmenter, path: Path) -> None:
    images, exported = _images(), copy.deepcopy(model)
    if isinstance(exported.encoder, TokenEncoder):
        fix_size(exported.encoder, 96)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no more packages is called old
        torch.onnx.export(exported, (images,), path, dynamo=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    answered = session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]
    with torch.no_grad():
        assert np.abs(answered - model(images).numpy()).max() < 1e-4
