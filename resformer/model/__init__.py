"""The model and its residual connections."""

from typing import TYPE_CHECKING

from ..lazily import lazily

if TYPE_CHECKING:
    from .configuration_resformer import ResformerConfig as ResformerConfig
    from .initialization import buffer as buffer
    from .initialization import parameter as parameter
    from .initialization import starting as starting
    from .modeling_resformer import ResformerForCausalLM as ResformerForCausalLM
    from .modeling_resformer import ResformerModel as ResformerModel
    from .normalization import make_norm as make_norm
    from .residual import OptimizerHint as OptimizerHint
    from .residual import Residual as Residual
    from .residual import Site as Site

_WHERE = {
    "OptimizerHint": "residual",
    "ResformerConfig": "configuration_resformer",
    "ResformerForCausalLM": "modeling_resformer",
    "ResformerModel": "modeling_resformer",
    "Residual": "residual",
    "Site": "residual",
    "buffer": "initialization",
    "make_norm": "normalization",
    "parameter": "initialization",
    "starting": "initialization",
}

__all__ = list(_WHERE)

__getattr__, __dir__ = lazily(__name__, _WHERE)
