"""resformer: a laboratory for the residual connections of Transformers. Importing it registers the Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from .model import ResformerConfig, ResformerForCausalLM, ResformerModel, Residual

AutoConfig.register(ResformerConfig.model_type, ResformerConfig)
AutoModel.register(ResformerConfig, ResformerModel)
AutoModelForCausalLM.register(ResformerConfig, ResformerForCausalLM)

__all__ = ["ResformerConfig", "ResformerForCausalLM", "ResformerModel", "Residual"]
