"""Which chat templates need no process of their own: those that do no more than loop over the messages and print.

Most published templates of chat models do. The rule is a closed list of what may occur, so that time, memory and output
of such a template grow with the conversation, by a small factor; what is not on the list is not plain.
"""

from __future__ import annotations

from jinja2 import Environment, nodes

__all__ = ["is_plain"]

_LONGEST = 8192
_MOST_COPIES = 64
_DEEPEST = 40
_ALLOWED = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.Getattr, nodes.Getitem,
    nodes.Slice, nodes.For, nodes.If, nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not,
    nodes.Add, nodes.Sub, nodes.Concat, nodes.Assign, nodes.Filter, nodes.Test, nodes.Call,
)  # fmt: skip
_FILTERS = ("trim", "length")
_CALLS = ("raise_exception",)


def is_plain(source: str, environment: Environment) -> bool:
    """Whether a template is known to be cheap. Raises jinja2.TemplateError for one that is not well-formed."""
    if len(source) > _LONGEST:
        return False
    try:
        tree = environment.parse(source)
        return all(map(_allowed, _within(tree, 0))) and not _nests_loops(tree, False) and _copies(tree) <= _MOST_COPIES
    except RecursionError:
        return False


def _within(node: nodes.Node, depth: int) -> list[nodes.Node]:
    """Every node. Raises RecursionError for a tree that is deep."""
    if depth > _DEEPEST:
        raise RecursionError
    return [node, *(inner for child in node.iter_child_nodes() for inner in _within(child, depth + 1))]


def _allowed(node: nodes.Node) -> bool:
    if isinstance(node, nodes.Filter):
        return node.name in _FILTERS and not (node.args or node.kwargs or node.dyn_args or node.dyn_kwargs)
    if isinstance(node, nodes.Call):
        return isinstance(node.node, nodes.Name) and node.node.name in _CALLS
    if isinstance(node, nodes.Name):
        return node.ctx == "load" or node.name not in _CALLS
    if isinstance(node, nodes.For):
        return isinstance(node.target, nodes.Name) and not node.recursive
    if isinstance(node, nodes.Assign):
        return isinstance(node.target, nodes.Name)
    if isinstance(node, nodes.Const):
        return node.value is None or isinstance(node.value, (str, bool)) or abs(node.value) < 1 << 31
    return isinstance(node, _ALLOWED)


def _nests_loops(node: nodes.Node, inside: bool) -> bool:
    is_loop = isinstance(node, nodes.For)
    return (is_loop and inside) or any(_nests_loops(child, inside or is_loop) for child in node.iter_child_nodes())


def _copies(tree: nodes.Template) -> int:
    """How many times over one text can hold a message. What a turn of a loop assigns is gone with the next one, so that
    every assignment counts once."""
    assigned, most = 1, 1
    for statement in tree.find_all(nodes.Stmt):
        names = max([1, *(_names(child) for child in statement.iter_child_nodes() if isinstance(child, nodes.Expr))])
        most = max(most, names)
        if isinstance(statement, nodes.Assign):
            assigned *= names
    return assigned * most


def _names(expression: nodes.Expr) -> int:
    return len(list(expression.find_all(nodes.Name))) + isinstance(expression, nodes.Name)
