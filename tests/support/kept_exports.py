"""Exports of the small network, kept on disk while the code that makes them stays the same."""

import ast
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alignseg_infer.export.graph.options import ExportOptions

ROOT = Path(__file__).parents[2]
DOOR = ROOT / "alignseg_infer" / "__init__.py"
EXPORTER = ROOT / "alignseg_infer" / "export" / "to_onnx.py"
PACKAGES = ("numpy", "onnx", "onnx-ir", "onnxruntime", "onnxscript", "torch")
KEPT_VERSIONS = 2  # of the code: a branch that is left and taken up again finds its exports


class KeptExports:
    """Exports of one checkpoint, each made once by all workers and all runs together.

    Args:
        folder: Where they are kept. What earlier code has made is removed from it.
        checkpoint: Whose exports they are.
    """

    def __init__(self, folder: Path, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.folder = folder / hash_of_code(checkpoint)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.touch()
        for old in sorted(folder.iterdir(), key=lambda path: -path.stat().st_mtime)[KEPT_VERSIONS:]:
            shutil.rmtree(old, ignore_errors=True)

    def copy_to(self, target: Path, options: "ExportOptions") -> None:
        """Write the export with `options` as `target`, a file of the caller's own."""
        from filelock import FileLock

        options = replace(options, upsampling=options.chosen_upsampling)
        name = hashlib.sha256(json.dumps(asdict(options)).encode()).hexdigest()[:16]
        kept = self.folder / f"{name}.onnx"
        with FileLock(kept.with_suffix(".lock")):
            if not kept.exists():
                export(self.checkpoint, kept, options)
            shutil.copyfile(kept, target)


def export(checkpoint: Path, path: Path, options: "ExportOptions") -> None:
    """Export `checkpoint`; `path` appears when it is complete."""
    from alignseg_infer.export.to_onnx import onnx_from_checkpoint
    from alignseg_infer.models.checkpoint import load_checkpoint

    onnx_from_checkpoint(load_checkpoint(checkpoint), path, options)


def hash_of_code(checkpoint: Path) -> str:
    """Return a name for all that an export depends on, apart from its options."""
    facts = hashlib.sha256(checkpoint.read_bytes())
    for path in sorted(imported_files(EXPORTER)):
        facts.update(f"{path.relative_to(ROOT)} {path.stat().st_size}\n".encode())
        facts.update(path.read_bytes())
    facts.update(str([(package, version(package)) for package in PACKAGES]).encode())
    return facts.hexdigest()[:16]


@cache
def imported_files(start: Path) -> frozenset[Path]:
    """Return `start` and the files of ours that it imports, however far down.

    The package's door counts as a file, but what it shows to others is not followed.
    """
    found: set[Path] = set()
    waiting = [start]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        if path != DOOR:
            waiting += [file for name in imported_names(path) for file in files_of(name)]
    return frozenset(found)


def imported_names(path: Path) -> Iterator[str]:
    """Yield what may be a module among the names that a file imports, at any depth of it."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files_of(name: str) -> Iterator[Path]:
    """Yield the files that run when a name is imported: packages above it, and its own."""
    path = ROOT
    for part in name.split("."):
        path /= part
        yield from (
            file for file in (path.with_suffix(".py"), path / "__init__.py") if file.exists()
        )
