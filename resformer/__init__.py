"""resformer: a laboratory for the residual connections of Transformers. Importing it registers the Auto classes.

What the programs do, a notebook does in a line:

    run = resformer.train(residual="post*1,highway*1,pre*rest", max_steps=200)
    run.metrics, run.layers, run.summary, run.model(), run.tokenizer(), run.figures()
    resformer.probe(run, "lesion")
    resformer.evaluate(run, "path/of/any/model", source="text.txt")
    resformer.sweep("sweep.yaml").verdicts
    resformer.variants()
    resformer.check(MyResidual)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from .model import ResformerConfig, ResformerForCausalLM, ResformerModel, Residual

if TYPE_CHECKING:
    from .catalogue import variants as variants
    from .checks import check as check
    from .probing import Probe as Probe
    from .probing import probe as probe
    from .run import Run as Run
    from .run import open_run as open_run
    from .run import train as train
    from .scoring import evaluate as evaluate
    from .sweeping import SweepResult as SweepResult
    from .sweeping import open_sweep as open_sweep
    from .sweeping import sweep as sweep
    from .training import RunConfig as RunConfig
    from .training import Trainer as Trainer

AutoConfig.register(ResformerConfig.model_type, ResformerConfig)
AutoModel.register(ResformerConfig, ResformerModel)
AutoModelForCausalLM.register(ResformerConfig, ResformerForCausalLM)

# Loaded when first used: a model alone needs neither pandas nor a trainer.
_WHERE = {
    "Probe": "probing",
    "Run": "run",
    "RunConfig": "training",
    "SweepResult": "sweeping",
    "Trainer": "training",
    "check": "checks",
    "evaluate": "scoring",
    "open_run": "run",
    "open_sweep": "sweeping",
    "probe": "probing",
    "sweep": "sweeping",
    "train": "run",
    "variants": "catalogue",
}

__all__ = ["ResformerConfig", "ResformerForCausalLM", "ResformerModel", "Residual", *_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_WHERE[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
