"""The model and its residual connections."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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


# Loaded when first used, as the other rooms do by ``resformer.lazily``: this one imports nothing but its siblings.
def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f".{_WHERE[name]}", __name__), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
