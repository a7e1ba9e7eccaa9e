"""The model and its residual connections."""

from .configuration_resformer import ResformerConfig
from .modeling_resformer import ResformerForCausalLM, ResformerModel
from .residual import OptimizerHint, Residual, Site

__all__ = ["OptimizerHint", "ResformerConfig", "ResformerForCausalLM", "ResformerModel", "Residual", "Site"]
