"""What a connection keeps inside, as numbers: gates, scales, weights over depth, mixing of streams."""

from __future__ import annotations

import numpy as np
import torch

LISTED = 64
GATES = ("gate", "carry")


def numbers(found: dict[str, torch.Tensor], width: int) -> dict[str, torch.Tensor]:
    """Scalars of named tensors, as ``name``, ``name[3]``, ``name.mean``, ...

    Activations ``[batch, time, ...]`` with few entries for each token are listed by their mean over tokens, others get
    mean and deviation, and gates also the share below 0.05 or above 0.95 (``saturated``). Parameters are
    listed where they are few, or else get mean, deviation, smallest and largest.

    Args:
        width: of the stream; a vector of that size is one number for each channel, and never listed.
    """
    scalars: dict[str, torch.Tensor] = {}
    for name, raw in found.items():
        tensor = raw.detach().float()
        activation = tensor.ndim >= 3
        entries = tensor.flatten(0, 1).mean(0) if activation else tensor
        if entries.numel() == 1 and not activation:
            scalars[name] = entries.reshape(())
        elif 1 < entries.numel() <= LISTED and width not in entries.shape:
            for place in np.ndindex(tuple(entries.shape)):
                scalars[f"{name}[{','.join(map(str, place))}]"] = entries[place]
        else:
            scalars |= {f"{name}.mean": tensor.mean(), f"{name}.std": tensor.std(correction=0)}
            if not activation:
                scalars |= {f"{name}.min": tensor.min(), f"{name}.max": tensor.max()}
        if activation and name in GATES:
            scalars[f"{name}.saturated"] = ((tensor < 0.05) | (tensor > 0.95)).float().mean()
    return scalars
