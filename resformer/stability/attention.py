"""What attention does: entropies and logits, through the attention function that transformers lets one register."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask
from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward

from ..model.losses import softcap
from .signal import evenly_spaced

NAME = "resformer_measured"
QUERIES = 128
FIRST = 8
"""Queries that see no more keys than these say nothing about entropy."""

Statistics = dict[str, torch.Tensor]


@contextmanager
def watching_attention(model: nn.Module, measured: bool = True) -> Iterator[dict[int, Statistics]]:
    """While it is open, a forward pass leaves each layer's statistics here, by layer index.

    The result of attention is that of torch's scaled dot-product attention, whatever the model was set to, or of the
    formula where logits are capped, which that cannot.

    Args:
        measured: false for that alone.
    """
    found: dict[int, Statistics] = {}
    config: Any = model.config
    caps = (getattr(config, key, None) for key in ("attention_logit_softcapping", "attn_logit_softcapping"))
    compute, mask = (eager_attention_forward, eager_mask) if any(caps) else (sdpa_attention_forward, sdpa_mask)

    def attend(module, query, key, value, attention_mask, scaling=None, **kwargs):
        if measured:
            with torch.no_grad():
                found[module.layer_idx] = statistics(query, key, attention_mask, scaling, kwargs.get("softcap"))
        return compute(module, query, key, value, attention_mask, scaling=scaling, **kwargs)

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, mask)
    before, config._attn_implementation = config._attn_implementation, NAME
    try:
        yield found
    finally:
        config._attn_implementation = before


def statistics(
    query: torch.Tensor,
    key: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None = None,
    cap: float | None = None,
) -> Statistics:
    """Of queries ``[batch, heads, time, dim]`` and keys ``[batch, key heads, time, dim]``, at up to 128 evenly spaced
    queries (as lingua does).

    Args:
        mask: true where a key may be seen, ``[batch, 1, time, time]``; by default causal.
        scaling: of the logits; by default 1 / sqrt(dim).
        cap: c in ``c tanh(logits / c)``, or none.

    Returns:
        ``attention_logit_max``: the largest logit that a softmax sees (Wortsman et al. 2023, arXiv:2309.14322). Over
        queries that see more than eight keys ``attention_entropy``: the mean in nats (Zhai et al. 2023,
        arXiv:2303.06296); ``attention_entropy_share``: its mean as a share of the log of the number of keys; and
        ``attention_entropy_share_min``: that share's smallest over heads.
    """
    time = query.shape[2]
    at = evenly_spaced(time, QUERIES, query.device)
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)

    def of(chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of these queries, and which keys they see."""
        found = query[:, :, chosen].float() @ key.float().mT
        found = softcap(found * (query.shape[-1] ** -0.5 if scaling is None else scaling), cap)
        if mask is None:
            seen = torch.arange(time, device=query.device) <= chosen.unsqueeze(1)
        else:
            seen = mask[..., chosen, :] if mask.dtype == torch.bool else mask[..., chosen, :] == 0
        seen = seen.expand(found.shape)
        return found.masked_fill(~seen, -torch.inf), seen

    logits, visible = of(at)
    parts = [logits] if time <= QUERIES else (of(part)[0] for part in torch.arange(time).split(QUERIES))
    result = {"attention_logit_max": torch.stack([part.amax() for part in parts]).amax()}
    log_weights = logits.log_softmax(-1)
    entropy = -(log_weights.exp() * log_weights.masked_fill(~visible, 0)).sum(-1)
    keys = visible.sum(-1)
    counted = keys > FIRST
    if counted.any():
        share = torch.where(counted, entropy / keys.clamp(min=2).log(), torch.nan)
        result["attention_entropy"] = entropy[counted].mean()
        result["attention_entropy_share"] = share[counted].mean()
        result["attention_entropy_share_min"] = share.nanmean(dim=(0, 2)).amin()
    return result
