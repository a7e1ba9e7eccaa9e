"""resformer: a laboratory for the residual connections of Transformers. Importing it registers the Auto classes.

What the programs do, a notebook does in a line:

    run = resformer.train(residual="post*1,highway*1,pre*rest", max_steps=200)
    run.metrics, run.layers, run.summary, run.model(), run.tokenizer(), run.figures()
    resformer.probe(run, "lesion")
    resformer.evaluate(run, "path/of/any/model", source="text.txt")
    resformer.from_pretrained("path/of/a/llama", residual="hyper")
    resformer.sweep("sweep.yaml").verdicts
    resformer.variants()
    resformer.check(MyResidual)
"""

from typing import TYPE_CHECKING

from .lazily import lazily
from .registering import register_when_loaded

if TYPE_CHECKING:
    from .catalogue import variants as variants
    from .checks import check as check
    from .importing import from_pretrained as from_pretrained
    from .model import ResformerConfig as ResformerConfig
    from .model import ResformerForCausalLM as ResformerForCausalLM
    from .model import ResformerModel as ResformerModel
    from .model import Residual as Residual
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

# A model alone needs neither pandas nor a trainer, and help not even a model.
_WHERE = {
    "Probe": "probing",
    "ResformerConfig": "model",
    "ResformerForCausalLM": "model",
    "ResformerModel": "model",
    "Residual": "model",
    "Run": "run",
    "RunConfig": "training",
    "SweepResult": "sweeping",
    "Trainer": "training",
    "check": "checks",
    "evaluate": "scoring",
    "from_pretrained": "importing",
    "open_run": "run",
    "open_sweep": "sweeping",
    "probe": "probing",
    "sweep": "sweeping",
    "train": "run",
    "variants": "catalogue",
}

__all__ = list(_WHERE)

__getattr__, __dir__ = lazily(__name__, _WHERE)

register_when_loaded()
