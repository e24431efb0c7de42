"""Small faults, one at a time: cosmic-ray's operators, and two that losses ask for."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosmic_ray.ast import Visitor, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators import (
    binary_operator_replacement,
    boolean_replacer,
    comparison_operator_replacement,
    number_replacer,
    remove_decorator,
    unary_operator_replacement,
    zero_iteration_for_loop,
)
from cosmic_ray.operators.operator import Example, Operator
from parso.python.tree import Name

Position = tuple[tuple[int, int], tuple[int, int]]

# Of each sign the nearest alone: most others, such as a shift of a float, raise at once and only swell the share.
_SIGNS = {
    "BinaryOperator": "Add_Sub Sub_Add Mul_Div Div_Mul FloorDiv_Mul Mod_Mul Pow_Mul BitOr_BitAnd BitAnd_BitOr",
    "ComparisonOperator": "Eq_NotEq NotEq_Eq Lt_LtE LtE_Lt Gt_GtE GtE_Gt Lt_GtE Gt_LtE Is_IsNot IsNot_Is",
    "UnaryOperator": "Delete_USub Delete_Not",
}

_METHODS = {
    "detach": "clone",  # which lets the gradient through
    "all": "any",
    "any": "all",
    "amax": "amin",
    "amin": "amax",
    "max": "min",
    "min": "max",
    "sum": "mean",
    "mean": "sum",
    "log": "exp",
    "exp": "log",
    "square": "abs",
}


class ReplaceMethod(Operator):  # type: ignore[misc] # cosmic-ray has no types
    """Call another method of a tensor: one that reduces otherwise, or keeps the gradient."""

    def mutation_positions(self, node: Any) -> Iterator[Position]:
        if isinstance(node, Name) and node.value in _METHODS and _is_called(node):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:  # noqa: ARG002 - one way per place
        return Name(_METHODS[node.value], node.start_pos, node.prefix)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("x.detach()", "x.clone()"),)


def _is_called(name: Any) -> bool:
    trailer = name.parent
    following = trailer.get_next_sibling() if trailer.type == "trailer" and trailer.children[0] == "." else None
    return following is not None and following.type == "trailer" and following.children[0] == "("


class DropStatement(Operator):  # type: ignore[misc]
    """Leave out a call whose value nobody asks for, a check most of the time."""

    def mutation_positions(self, node: Any) -> Iterator[Position]:
        if node.type == "simple_stmt" and node.children[0].type in ("power", "atom_expr"):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:  # noqa: ARG002
        statement = node.children[0]
        node.children[0] = Name("pass", statement.start_pos, statement.get_first_leaf().prefix)
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("check(x)\n", "pass\n"),)


def _operators() -> list[Operator]:
    named = [
        getattr(module, f"Replace{kind}_{signs}")
        for module, kind in (
            (binary_operator_replacement, "BinaryOperator"),
            (comparison_operator_replacement, "ComparisonOperator"),
            (unary_operator_replacement, "UnaryOperator"),
        )
        for signs in _SIGNS[kind].split()
    ]
    plain = [
        boolean_replacer.AddNot,
        boolean_replacer.ReplaceTrueWithFalse,
        boolean_replacer.ReplaceFalseWithTrue,
        boolean_replacer.ReplaceAndWithOr,
        boolean_replacer.ReplaceOrWithAnd,
        number_replacer.NumberReplacer,
        remove_decorator.RemoveDecorator,
        zero_iteration_for_loop.ZeroIterationForLoop,
        ReplaceMethod,
        DropStatement,
    ]
    return [operator() for operator in named + plain]


@dataclass(frozen=True)
class Mutant:
    """A module with one fault.

    Args:
        module: the file, from the root on.
        source: what is in it.
        operator: the fault.
        occurrence: which of the places where the operator could make it.
        line: the number of the line.
    """

    module: str
    source: str
    operator: Operator
    occurrence: int
    line: int

    @functools.cached_property
    def code(self) -> str:
        code: str = mutate_code(self.source, self.operator, self.occurrence)
        return code

    @property
    def before(self) -> str:
        return self.source.splitlines()[self.line - 1].strip()

    @property
    def after(self) -> str:
        """The line as it is now; empty where it is gone."""
        lines = self.code.splitlines()
        return lines[self.line - 1].strip() if len(lines) == len(self.source.splitlines()) else ""

    def __str__(self) -> str:
        return f"{self.module}:{self.line} {type(self.operator).__name__}\n    - {self.before}\n    + {self.after}"


class _Places(Visitor):  # type: ignore[misc]
    """The places of an operator, in the order in which cosmic-ray counts them."""

    def __init__(self, operator: Operator) -> None:
        self.operator = operator
        self.found: list[Position] = []

    def visit(self, node: Any) -> Any:
        self.found += self.operator.mutation_positions(node)
        return node


def mutants_of(root: Path, module: str) -> Iterator[Mutant]:
    """All mutants of a module, but for those of annotations, which nobody evaluates, and of the wording of errors."""
    source = (root / module).read_text()
    silent, tree = list(_silent(ast.parse(source))), get_ast(source)
    for operator in _operators():
        places = _Places(operator)
        places.walk(tree)
        for occurrence, (start, _) in enumerate(places.found):
            star = source.splitlines()[start[0] - 1][start[1] :].startswith("*,")  # of a signature, not a product
            if not star and not any(first <= start < last for first, last in silent):
                yield Mutant(module, source, operator, occurrence, start[0])


def _silent(tree: ast.AST) -> Iterator[Position]:
    for node in ast.walk(tree):
        nodes: list[ast.AST | None] = []
        if isinstance(node, (ast.arg, ast.AnnAssign)):
            nodes = [node.annotation]
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            nodes = [node.returns]
        elif isinstance(node, ast.Assign):
            wording = ast.unparse(node.targets[0]) == "msg"
            nodes = [node.value] if wording or "Callable[" in ast.unparse(node.value) else []  # or a name for a type
        elif isinstance(node, ast.keyword) and node.arg == "strict":  # of `zip`, for readers: lengths are known
            nodes = [node.value]
        if isinstance(node, ast.FunctionDef):  # nobody builds what is abstract, or runs what is for type checkers
            nodes += [each for each in node.decorator_list if ast.unparse(each) in ("abstractmethod", "overload")]
        for silent in nodes:
            if isinstance(silent, ast.expr):
                end = silent.end_lineno or 0, silent.end_col_offset or 0
                yield (silent.lineno, max(silent.col_offset - 1, 0)), end  # a decorator begins at its sign
