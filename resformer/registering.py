"""The Auto classes of transformers know ours as soon as both are loaded, and nobody loads one for the other's sake."""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_AUTO = "transformers.models.auto."
_WATCHED = ("transformers.", "resformer.model.")


def register_when_loaded() -> None:
    """Register ``ResformerConfig`` and both models: now if the Auto classes are loaded, else when they are."""
    if _auto_is_loaded():
        _register()
    elif not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch())


def _auto_is_loaded() -> bool:
    return any(name.startswith(_AUTO) for name in sys.modules)


def _register() -> None:
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    from .model import ResformerConfig, ResformerForCausalLM, ResformerModel

    AutoConfig.register(ResformerConfig.model_type, ResformerConfig, exist_ok=True)
    AutoModel.register(ResformerConfig, ResformerModel, exist_ok=True)
    AutoModelForCausalLM.register(ResformerConfig, ResformerForCausalLM, exist_ok=True)


class _Watch(MetaPathFinder):
    """Waits until the outermost of both's modules is loaded: they import each other, and then all of them are whole."""

    def __init__(self) -> None:
        self.under_way: list[str] = []

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not name.startswith(_WATCHED):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Watched(spec.loader, self)
        return spec


class _Watched(Loader):
    """A module's own loader, after whose last one the classes are registered."""

    def __init__(self, loader: Loader, watch: _Watch):
        self.loader, self.watch = loader, watch

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        spec, under_way = module.__spec__, self.watch.under_way
        assert spec is not None
        spec.loader = module.__loader__ = self.loader  # what reads a module's source asks its loader for it
        under_way.append(module.__name__)
        try:
            self.loader.exec_module(module)
        finally:
            under_way.pop()
        if not under_way and self.watch in sys.meta_path and _auto_is_loaded():
            sys.meta_path.remove(self.watch)
            _register()
