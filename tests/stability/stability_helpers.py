"""A small model away from its start, a batch, and a few recorded steps of it."""

from pathlib import Path

import pandas as pd
import torch
from torch.nn.functional import cross_entropy

from resformer import ResformerConfig, ResformerForCausalLM
from resformer.stability.endstate import StabilityWatch
from resformer.stability.instruments import Instruments

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


def wide(rows) -> dict[tuple[int, str, str], float]:
    return {(layer, sublayer, metric): value for layer, sublayer, metric, value in rows}


class Recorded:
    """A run of AdamW on one batch, with its instruments; layers.parquet in ``folder``."""

    def __init__(self, kind, folder: Path, every: int = 1):
        self.file, self.model, self.inputs = folder / "layers.parquet", build(kind), batch(time=20)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        watch = StabilityWatch(1.0)
        self.instruments = Instruments(self.file, self.model, self.inputs, [self.optimizer], every=every, watch=watch)

    def train(self, first: int, last: int) -> pd.DataFrame:
        """Steps ``first`` to ``last``, and the table then."""
        for step in range(first, last + 1):
            self.optimizer.zero_grad()
            loss = self.model(**self.inputs, use_cache=False).loss
            loss.backward()
            with self.instruments.around(step, 0.01):
                self.optimizer.step()
            self.instruments.take(step, loss.item(), 2.0)
        self.instruments.write()
        return pd.read_parquet(self.file)


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
