"""A small model away from its start, and a batch."""

import torch
from torch.nn.functional import cross_entropy

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


def by_hand(model, inputs, without=None):
    """A pre-norm model, written out: streams after each site, branches, logits and the loss, with their graph.

    ``without``: index of a branch that writes nothing.
    """
    x = model.model.embed_tokens(inputs["input_ids"])
    time = x.shape[1]
    positions = torch.arange(time).unsqueeze(0)
    rotary = model.model.rotary_emb(x, position_ids=positions)
    streams, branches = [x], []
    for block in model.model.layers:
        normed = block.attention_residual.norm(x)
        branches.append(
            block.attention(normed, position_embeddings=rotary, attention_mask=None, past_key_values=None)[0]
        )
        x = x + branches[-1] * (len(branches) - 1 != without)
        streams.append(x)
        branches.append(block.mlp(block.mlp_residual.norm(x)))
        x = x + branches[-1] * (len(branches) - 1 != without)
        streams.append(x)
    logits = model.lm_head(model.model.norm(x))
    loss = cross_entropy(logits.flatten(0, 1), inputs["shift_labels"].flatten())
    return streams, branches, logits, loss
