"""What a checkpoint carries so that a person's own residual connections load where they are not installed."""

import ast
import importlib
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType

from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import logging

logger = logging.get_logger(__name__)


def write_custom_code(config, directory) -> None:
    """Copy the files of the classes that ``config.residual`` names by import path, and list them.

    Their imports from ``resformer`` become imports of the sibling files that travel along; a file that is called like
    one of the package's own gets another name.

    Args:
        config: a ``ResformerConfig``.
        directory: folder of the checkpoint, which already holds the package's own code.
    """
    classes = {c.kind: c.residual_class for block in config.connections() for c in block.values() if ":" in c.kind}
    if not classes:
        return
    directory = Path(directory)
    homes = {kind: Path(inspect.getfile(found)) for kind, found in classes.items()}
    names = _names(classes.values())
    for source, name in names.items():
        (directory / name).write_text(_travelling(source, names), encoding="utf-8")
    lines = ['"""Residual connections that this checkpoint brings along."""', ""]
    for number, (kind, found) in enumerate(classes.items()):
        lines.append(f"from .{Path(names[homes[kind]]).stem} import {found.__name__} as custom_{number}")
    entries = [f'    "{kind}": custom_{number},' for number, kind in enumerate(classes)]
    lines += ["", "CUSTOM = {", *entries, "}", ""]
    (directory / "residual_custom.py").write_text("\n".join(lines), encoding="utf-8")


def _names(classes: Iterable[type]) -> dict[Path, str]:
    """Each file that travels, with all that it imports relatively, and its name in the checkpoint."""
    names: dict[Path, str] = {}
    taken = {path.name for path in Path(__file__).parent.glob("*.py")}
    for found in sorted(classes, key=inspect.getfile):
        home = inspect.getfile(found)
        # In a loaded checkpoint a person's file lies beside the package's, under the name that it was given there.
        seam = next(base for base in found.__mro__ if base.__name__ == "Residual" and "step" in vars(base))
        has_travelled = Path(home).parent == Path(inspect.getfile(seam)).parent
        for source in map(Path, (home, *get_relative_import_files(home))):
            name = source.name
            while name in taken and not has_travelled and source not in names:
                name = f"own_{name}"
            names.setdefault(source, name)
            taken.add(name)
    return names


def _travelling(source: Path, names: Mapping[Path, str]) -> str:
    """The file's text with its imports of ``resformer`` and of renamed siblings as they are in the checkpoint."""
    text = source.read_text(encoding="utf-8")
    lines = text.encode().splitlines(keepends=True)
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]
    for node in sorted(imports, key=lambda node: node.lineno, reverse=True):
        first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
        head, tail = lines[first][: node.col_offset], lines[last][node.end_col_offset :]
        between = b"; " if head.strip() else b"\n" + head
        if written := _rewritten(node, source, names):
            lines[first : last + 1] = [head + between.join(line.encode() for line in written) + tail]
    return b"".join(lines).decode()


def _rewritten(node: ast.Import | ast.ImportFrom, source: Path, names: Mapping[Path, str]) -> list[str]:
    """The import as it must be in the checkpoint, one line for each file; none where it stays as it is."""
    if isinstance(node, ast.Import):
        if any(alias.name.split(".")[0] == "resformer" for alias in node.names):
            _warn(node, source)
        return []
    module = node.module or ""
    if node.level == 1:
        renamed = names.get(source.parent / f"{module}.py")
        stem = Path(renamed).stem if renamed else module
        return [] if stem == module else [f"from .{stem} import {', '.join(map(_written, node.names))}"]
    if node.level or module.split(".")[0] != "resformer":
        return []
    lines = []
    for alias in node.names:
        found = getattr(importlib.import_module(module), alias.name, None)
        home = found.__name__ if isinstance(found, ModuleType) else _home(found, module)
        if not home.startswith("resformer.model."):
            _warn(node, source)
            return []
        stem = home.rsplit(".", 1)[1]
        lines.append(f"from . import {_written(alias)}" if isinstance(found, ModuleType)
                     else f"from .{stem} import {_written(alias)}")  # fmt: skip
    return lines


def _home(found: object, module: str) -> str:
    """The file that defines what ``module`` offers: a package only hands on what its files define."""
    is_package = module in ("resformer", "resformer.model")
    return getattr(found, "__module__", "") if is_package else module


def _written(alias: ast.alias) -> str:
    return f"{alias.name} as {alias.asname}" if alias.asname else alias.name


def _warn(node: ast.Import | ast.ImportFrom, source: Path) -> None:
    logger.warning(
        f"{source.name}, line {node.lineno}: {ast.unparse(node)!r} stays as it is, so the checkpoint loads only where "
        "resformer is installed; import what you need by name from resformer or resformer.model"
    )
