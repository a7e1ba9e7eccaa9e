"""Small models of every kind."""

import torch

from resformer import ResformerConfig, ResformerForCausalLM
from resformer.model.specification import KINDS

EVERY_KIND = sorted(KINDS)
MIXES = [
    "post*1,highway*1,deepnorm*1,pre*rest",
    ["pre", "gru", {"attention": "peri", "mlp": "rezero"}, "lns"],
    {"attention": "layerscale(init=0.5)*1,plain*rest", "mlp": "res_post"},
]
VOCABULARY = 29


def build(residual="pre", seed: int = 0, **options) -> ResformerForCausalLM:
    """Four blocks, 32 wide, grouped queries; in eval mode, and away from special starts such as all zeros."""
    torch.manual_seed(seed)
    shape = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
             "num_key_value_heads": 2, "max_position_embeddings": 64}  # fmt: skip
    model = ResformerForCausalLM(ResformerConfig(**(shape | options), residual=residual)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def tokens(batch: int = 2, length: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.randint(2, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))
