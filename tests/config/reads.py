"""Which fields of the configuration's dataclasses the product reads, as far as annotations tell the type of a name."""

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

Shapes = dict[str, dict[str, str]]
"""By class, its attributes with their annotations."""
Read = tuple[str, str]
"""A class and one of its attributes."""
COPIES = ("with_changes", "replace")
"""Functions that return a value of the kind of their first argument."""


def fields_read(files: Iterable[Path], kinds: Iterable[type]) -> set[Read]:
    """Fields of some dataclasses that are read as ``name.field``, where the name is known to hold one of them."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in files]
    shapes = shapes_of(trees)
    ours = {kind.__name__: {f.name: str(get_type_hints(kind)[f.name]) for f in fields(kind)} for kind in kinds}
    reads: set[Read] = set()
    for tree in trees:
        _Reader(shapes | ours, reads).visit(tree)
    for protocol, attributes in shapes.items():  # what is read of it is read of whatever fulfils it
        for kind, names in ours.items():
            if attributes and set(attributes) <= set(names):
                reads |= {(kind, name) for above, name in reads if above == protocol}
    return {(kind, name) for kind, name in reads if name in ours.get(kind, ())}


def shapes_of(trees: Iterable[ast.Module]) -> Shapes:
    """The classes of some modules."""
    nodes = [node for tree in trees for node in ast.walk(tree)]
    return {node.name: _shape(node) for node in nodes if isinstance(node, ast.ClassDef)}


def _shape(node: ast.ClassDef) -> dict[str, str]:
    """Annotated attributes of a class, and those that its __init__ keeps of annotated arguments."""
    shape = {
        part.target.id: ast.unparse(part.annotation)
        for part in node.body
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
    }
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and part.name == "__init__":
            given = {a.arg: ast.unparse(a.annotation) for a in part.args.args if a.annotation}
            for line in ast.walk(part):
                if isinstance(line, ast.Assign) and isinstance(line.value, ast.Name) and line.value.id in given:
                    shape |= {t.attr: given[line.value.id] for t in line.targets if isinstance(t, ast.Attribute)}
    return shape


class _Reader(ast.NodeVisitor):
    """Follows names through annotated arguments, assignments and attributes."""

    def __init__(self, shapes: Mapping[str, Mapping[str, str]], reads: set[Read]) -> None:
        self.shapes = shapes
        self.reads = reads
        self.names: dict[str, str] = {}
        self.usual: dict[str, str] = {}

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        before, self.names = self.names, self.names | {"self": node.name}
        self.generic_visit(node)
        self.names = before

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        before = dict(self.names)
        for argument in (*node.args.args, *node.args.kwonlyargs):
            if argument.arg != "self":
                self._note(argument.arg, argument.annotation and self._named(ast.unparse(argument.annotation)))
        self.generic_visit(node)
        self.names = before

    def visit_Lambda(self, node: ast.Lambda) -> None:
        before = dict(self.names)
        for argument in node.args.args:  # as functions of the module call it
            self._note(argument.arg, self.usual.get(argument.arg))
        self.generic_visit(node)
        self.names = before

    def visit_Module(self, node: ast.Module) -> None:
        for part in ast.walk(node):
            if isinstance(part, ast.FunctionDef):
                for argument in part.args.args:
                    kind = argument.annotation and self._named(ast.unparse(argument.annotation))
                    if kind:
                        self.usual[argument.arg] = kind
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=False))
            for left, right in pairs:
                if isinstance(left, ast.Name):
                    self._note(left.id, self._kind(right))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.generic_visit(node)
        self._kind(node)

    def _note(self, name: str, kind: str | None) -> None:
        self.names.pop(name, None)
        if kind is not None:
            self.names[name] = kind

    def _kind(self, node: ast.expr) -> str | None:
        """The class of what an expression holds; notes the attributes that are read on the way."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id)
        if isinstance(node, ast.BoolOp):
            return next(filter(None, map(self._kind, node.values)), None)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in COPIES and node.args:
                return self._kind(node.args[0])
            return node.func.id if node.func.id in self.shapes else None
        above = self._kind(node.value) if isinstance(node, ast.Attribute) else None
        if above is None or not isinstance(node, ast.Attribute) or node.attr not in self.shapes[above]:
            return None
        self.reads.add((above, node.attr))
        return self._named(self.shapes[above][node.attr])

    def _named(self, annotation: str) -> str | None:
        """The one class that an annotation names."""
        names = {word for word in re.findall(r"\w+", annotation) if word in self.shapes}
        return names.pop() if len(names) == 1 else None
