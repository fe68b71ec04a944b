"""A hash of the code that a run executes, so that results of different code are never averaged.

It covers the modules of opad_core that the given ones import, also indirectly. Comments, docstrings and formatting do
not count.
"""

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


def code_hash(modules: Iterable[str], *, weights: Iterable[Path] = (), root: Path = ROOT) -> str:
    """Return the hash of modules, such as "opad_core.methods.lora", of all they import from opad_core, and of weights.

    `root` is the folder that holds opad_core.
    """
    found: set[str] = set()
    waiting = [*modules]
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += imports(root, module)
    digest = hashlib.sha256()
    for module in sorted(found):
        digest.update(f"{module}\0{_meaning(root, module)}\0".encode())
    for file in weights:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


@cache
def _tree(root: Path, module: str) -> ast.Module:
    path = root / Path(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text())


@cache
def _meaning(root: Path, module: str) -> str:
    tree = ast.parse(ast.unparse(_tree(root, module)))  # a copy
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [part for part in node.body if not _is_text(part)] or [ast.Pass()]
    return ast.dump(tree)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


@cache
def imports(root: Path, module: str) -> list[str]:
    """Return the modules of opad_core that a module imports itself."""
    names = []
    for node in ast.walk(_tree(root, module)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("opad_core"):
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names if alias.name.startswith("opad_core")]
    return [name for name in names if _exists(root, name)]


def _exists(root: Path, module: str) -> bool:
    path = root / Path(*module.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()
