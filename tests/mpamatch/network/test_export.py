"""A model as another program would run it: through ONNX, in a runtime that shares no code with torch."""

import copy
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from mpamatch.network.encoders import encoder_record
from mpamatch.network.encoders.tokens import TokenEncoder, fix_size
from mpamatch.network.model import build_segmenter
from tests.mpamatch.network.small_vit import small_vit

pytestmark = pytest.mark.torch


@pytest.mark.method_line(49)
@pytest.mark.parametrize("name", ["light", "small-vit"])
def test_an_exported_model_answers_as_the_original(tmp_path: Path, name: str) -> None:
    record = small_vit() if name == "small-vit" else encoder_record(name)
    model = build_segmenter(record, 3, seed=0, pretrained=False).eval()
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    exported = copy.deepcopy(model)
    if isinstance(exported.encoder, TokenEncoder):
        fix_size(exported.encoder, 96)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no more packages is called old
        torch.onnx.export(exported, (images,), tmp_path / "model.onnx", dynamo=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    answered = session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]
    with torch.no_grad():
        assert np.abs(answered - model(images).numpy()).max() < 1e-4
