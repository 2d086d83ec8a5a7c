"""Low-rank changes of a transformer's linear layers (LoRA, Hu et al. 2021), and their merging into the weights.

The layers keep their names and keys, so that a checkpoint of the plain encoder fits and a merged model is a plain one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

DOWN, UP = "lora_down", "lora_up"
_ADAPTED = ("qkv", "proj")


class LoraLinear(nn.Linear):
    """A frozen linear layer plus up @ down, of scale 1; ``up`` starts at 0, so that at first nothing changes."""

    lora_down: nn.Parameter
    lora_up: nn.Parameter

    def __init__(self, plain: nn.Linear, rank: int, generator: torch.Generator) -> None:
        super().__init__(plain.in_features, plain.out_features, bias=plain.bias is not None, device="meta")
        self.weight, self.bias = plain.weight, plain.bias
        bound = plain.in_features**-0.5
        down = torch.empty(rank, plain.in_features).uniform_(-bound, bound, generator=generator)
        self.lora_down = nn.Parameter(down.to(plain.weight))
        self.lora_up = nn.Parameter(plain.weight.new_zeros(plain.out_features, rank))
        self.weight.requires_grad_(False)
        if self.bias is not None:
            self.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + functional.linear(functional.linear(x, self.lora_down), self.lora_up)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The plain layer that computes the same."""
        plain = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        plain.weight = nn.Parameter(self.weight + self.lora_up @ self.lora_down)
        plain.bias = self.bias
        return plain


def add_lora(encoder: nn.Module, rank: int, *, seed: int) -> None:
    """Give every block's attention its low-rank changes (qkv and proj), in place; the first factor from ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    for block in encoder.vit.blocks:  # type: ignore[union-attr]
        for name in _ADAPTED:
            setattr(block.attn, name, LoraLinear(getattr(block.attn, name), rank, generator))


def merge_lora(encoder: nn.Module) -> None:
    """Put the changes into the weights and take the factors away, in place."""
    for module in list(encoder.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, LoraLinear):
                setattr(module, name, child.merged())


def lora_rank(encoder: nn.Module) -> int:
    """The rank of an encoder's low-rank changes, 0 without any."""
    return next((len(m.lora_down) for m in encoder.modules() if isinstance(m, LoraLinear)), 0)


def is_factor(key: str) -> bool:
    """Whether a key of a state names a low-rank factor."""
    return key.endswith((DOWN, UP))
