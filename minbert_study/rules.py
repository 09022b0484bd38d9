"""What a student's file may use: the answer is to be written, not fetched.

The text is read, not run. It is no sandbox: see worker.py, and docs/how-to/teach.md on what can
still be done by somebody who wants to.
"""

import ast
from collections.abc import Sequence, Set
from functools import cache

from .exercise import FILES, PACKAGES, TEMPLATES, load

LIBRARIES = {"__future__", "collections", "dataclasses", "functools", "itertools", "math", "numpy",
             "operator", "torch", "typing"}
# They reach what stands outside the file, or take the place of something that is checked.
OUT_OF_REACH = {"__builtins__", "__import__", "breakpoint", "builtins", "compile", "delattr",
                "eval", "exec", "f_back", "f_builtins", "f_globals", "f_locals", "gc", "getattr",
                "gi_frame", "globals", "importlib", "inspect", "locals", "open", "os", "setattr",
                "subprocess", "sys", "tb_frame", "tb_next", "vars"}
MODULES_OF_TORCH = {"_C", "_dynamo", "_inductor", "hub", "jit", "library", "load",
                    "multiprocessing", "ops", "package", "save", "utils"}
BEHIND_A_DOT = OUT_OF_REACH | MODULES_OF_TORCH
DUNDERS = {"__init__", "__name__", "__len__", "__iter__", "__call__", "__getitem__"}


def faults(source: str, name: str) -> list[str]:
    """What is wrong with a file before it is run, in lines for the student; empty if nothing."""
    exercise = load(name)
    try:
        tree = ast.parse(source)
    except (RecursionError, MemoryError):
        return ["Python cannot read this: it is nested too deeply"]
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        where = f"line {line}: " if line else ""
        return [f"{where}Python cannot read this: {getattr(error, 'msg', error)}"]

    found = []
    for node in ast.walk(tree):
        if (reason := _reason(node, name, exercise.forbidden)) is not None:
            found.append((node.lineno, reason))
    defined = {node.name for node in tree.body
               if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    lines = [f"line {line}: {reason}" for line, reason in sorted(set(found))]
    for wanted in exercise.names:
        if wanted not in defined:
            lines.append(f"{wanted} is missing: define it with def or class, not indented; the "
                         f"file defines {', '.join(sorted(defined)) or 'nothing'}")
    return lines


def _reason(node: ast.AST, name: str, forbidden: Sequence[str]) -> str | None:
    """Why this piece of code is refused; None if it is not."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        is_from = isinstance(node, ast.ImportFrom)
        module = f"{'.' * node.level}{node.module or ''}." if is_from else ""
        for alias in node.names:
            whole = f"{module}{alias.name}"
            first, *words = whole.replace("torch.nn.utils", "torch.nn").split(".")
            if alias.name == "*":
                return f"imports {whole}; name what you import"
            if first not in LIBRARIES and whole not in given_imports(name):
                return _about_import(whole)
            reasons = (_about(word, forbidden, BEHIND_A_DOT) for word in words)
            if (reason := next(filter(None, reasons), None)) is not None:
                return reason
    elif isinstance(node, ast.Name):  # a library's function has a bare name only if it is imported
        reason = _about(node.id, (), OUT_OF_REACH)
        return reason and f"{reason}; if you chose this name, choose another"
    elif isinstance(node, ast.Attribute) and node.attr != "eval":  # eval() is a module's mode
        before = getattr(node.value, "attr", getattr(node.value, "id", None))
        if (before, node.attr) != ("nn", "utils"):
            return _about(node.attr, forbidden, BEHIND_A_DOT)
    return None


def _about_import(whole: str) -> str:
    if whole.split(".")[0] in PACKAGES:
        return (f"imports {whole}, which this exercise does not give you; from the library, use "
                "only what the original file imports")
    return f"imports {whole}; an exercise may import {', '.join(sorted(LIBRARIES))}"


def _about(word: str, forbidden: Sequence[str], refused: Set[str]) -> str | None:
    if word in forbidden:
        return f"{word} is what you are to write here, so you may not use it"
    is_dunder = word.startswith("__") and word.endswith("__") and word not in DUNDERS
    if word in refused or is_dunder:
        return f"{word} is not needed in this exercise and may not be used"
    return None


@cache
def given_imports(name: str) -> set[str]:
    """What the file as handed out imports from the library, in dotted names."""
    tree = ast.parse((TEMPLATES / FILES[name]).read_text(encoding="utf-8"))
    return {f"{node.module}.{alias.name}" for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) for alias in node.names}
