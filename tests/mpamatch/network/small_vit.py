"""A transformer small enough for tests, its record, and files of its weights as a vendor would give them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from mpamatch.network.encoders import ENCODERS, EncoderRecord, build_encoder

DIM, DEPTH = 32, 4


def small_vit(**changes: Any) -> EncoderRecord:
    """Patch 16, 4 blocks of width 32, made for 64 px; ``changes`` of the record over it."""
    kwargs = {"img_size": 64, "embed_dim": DIM, "num_heads": 2, "depth": DEPTH, "init_values": 1e-1}
    record = replace(
        ENCODERS["uni"],
        name="small-vit",
        arch="vit_small_patch16_224",
        kwargs=kwargs,
        channels=(DIM,),
        dim=DIM,
        depth=DEPTH,
        hub_id="someone/small-vit",
        native_px=64,
    )
    return replace(record, **changes)


def vendor_state(record: EncoderRecord, seed: int = 5) -> dict[str, torch.Tensor]:
    """Random weights under the vendor's keys; every tensor is its own, zeros included."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = build_encoder(record, pretrained=False).vit.state_dict()  # type: ignore[union-attr,operator]
        return {key: tensor + 0.02 * torch.randn_like(tensor) for key, tensor in state.items()}


def write_weights(folder: Path, record: EncoderRecord, seed: int = 5) -> Path:
    """``folder`` with the record's file in it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(vendor_state(record, seed), folder / f"{record.name}.safetensors")
    return folder
