"""What a checkpoint carries so that a person's own residual connections load where they are not installed."""

import inspect
import re
from pathlib import Path

from transformers.dynamic_module_utils import get_relative_import_files

_ABSOLUTE_IMPORT = re.compile(r"^(\s*)from resformer\.model\.(\w+) import", re.MULTILINE)


def write_custom_code(config, directory) -> None:
    """Copy the files of the classes that ``config.residual`` names by import path, and list them.

    Their imports from ``resformer.model`` become imports of the sibling files that travel along.

    Args:
        config: a ``ResformerConfig``.
        directory: folder of the checkpoint, which already holds the package's own code.
    """
    classes = {c.kind: c.residual_class for block in config.connections() for c in block.values() if ":" in c.kind}
    if not classes:
        return
    directory = Path(directory)
    for source in sorted({inspect.getfile(found) for found in classes.values()}):
        for file in (source, *get_relative_import_files(source)):
            text = Path(file).read_text(encoding="utf-8")
            target = directory / Path(file).name
            target.write_text(_ABSOLUTE_IMPORT.sub(r"\1from .\2 import", text), encoding="utf-8")
    imports = [f"from .{Path(inspect.getfile(c)).stem} import {c.__name__}" for c in classes.values()]
    entries = [f'    "{kind}": {found.__name__},' for kind, found in classes.items()]
    header = '"""Residual connections that this checkpoint brings along."""'
    table = "\n".join([header, "", *sorted(set(imports)), "", "CUSTOM = {", *entries, "}", ""])
    (directory / "residual_custom.py").write_text(table, encoding="utf-8")
