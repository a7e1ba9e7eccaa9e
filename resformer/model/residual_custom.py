"""Residual connections that a checkpoint brings along, by the import path a person wrote in ``residual``.

Empty in the package. ``save_pretrained`` writes this file anew beside the weights when a model uses a class of
one's own, so that the checkpoint loads where that class is not installed.
"""

from .residual import Residual

CUSTOM: dict[str, type[Residual]] = {}
