"""The model and its residual connections."""

from .configuration_resformer import ResformerConfig
from .initialization import buffer, parameter, starting
from .modeling_resformer import ResformerForCausalLM, ResformerModel
from .normalization import make_norm
from .residual import OptimizerHint, Residual, Site

__all__ = [
    "OptimizerHint",
    "ResformerConfig",
    "ResformerForCausalLM",
    "ResformerModel",
    "Residual",
    "Site",
    "buffer",
    "make_norm",
    "parameter",
    "starting",
]
