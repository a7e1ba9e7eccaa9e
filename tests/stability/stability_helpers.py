"""A small model away from its start, and a batch."""

import torch

from resformer import ResformerConfig, ResformerForCausalLM

VOCABULARY = 23


def build(residual="pre", seed: int = 0, noise: float = 0.1, **options) -> ResformerForCausalLM:
    torch.manual_seed(seed)
    shape = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
             "max_position_embeddings": 64}  # fmt: skip
    model = ResformerForCausalLM(ResformerConfig(**(shape | options), residual=residual)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * noise)
    return model


def batch(sequences: int = 2, time: int = 12, seed: int = 0) -> dict[str, torch.Tensor]:
    tokens = torch.randint(2, VOCABULARY, (sequences, time + 1), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": tokens[:, :-1], "shift_labels": tokens[:, 1:]}
