"""The text form of a graph: `parse(show(g)) == g`.

    graph "tiny" stage(model) {
      in %ids: i32[T]
      in %embed: weight<bf16>[2048, 256] = "embed.weight"
      %x: bf16[T, 256] = embed(%ids, %embed) @ "embed.weight"
      return %x
    }

After `@` stand the layer (`L3`) and the checkpoint tensors; after `!` what runs the node, in
brackets where its outputs and scratch lie, and in parentheses the scratch it wants. A planned
graph's first line has the step that its arena is laid out for. A fused node has its body between
braces.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager

from dsv4c.errors import DsvError
from dsv4c.ir.graph import STAGES, Attr, Graph, Node, Origin, Scratch
from dsv4c.ir.types import TensorType, Type, parse_type


def show(graph: Graph) -> str:
    """Text of a graph, newline at the end."""
    step = ", ".join(f"{name}={size}" for name, size in graph.step.items())
    head = f"graph {json.dumps(graph.name)} stage({graph.stage})"
    lines = [head + (f" step({step}) {{" if step else " {")]
    for value in graph.inputs:
        sources = ", ".join(json.dumps(name) for name in graph.sources.get(value, ()))
        lines.append(f"  in %{value}: {graph.types[value]}" + (f" = {sources}" if sources else ""))
    lines += _node_lines(graph, "  ")
    lines += ["  return " + ", ".join(f"%{value}" for value in graph.outputs), "}"]
    return "\n".join(lines) + "\n"


def show_node(node: Node, graph: Graph) -> str:
    """Text of one node, its body included."""
    return "\n".join(_one(node, graph, ""))


def _node_lines(graph: Graph, indent: str) -> Iterator[str]:
    for node in graph.nodes:
        yield from _one(node, graph, indent)


def _one(node: Node, graph: Graph, indent: str) -> Iterator[str]:
    results = ", ".join(f"%{value}: {graph.types.get(value, '?')}" for value in node.outputs)
    operands = ", ".join(f"%{value}" for value in node.inputs)
    attrs = {k: v for k, v in node.attrs.items() if not (node.body and k == "kind")}
    text = f"{indent}{results} = {node.kind}({operands})"
    if attrs:
        text += " {" + ", ".join(f"{k}={_attr_text(v)}" for k, v in attrs.items()) + "}"
    origin = [f"L{node.origin.layer}"] if node.origin.layer is not None else []
    origin += [json.dumps(name) for name in node.origin.tensors]
    if origin:
        text += " @ " + " ".join(origin)
    if node.impl:
        text += f" ! {node.impl}"
        text += f"[{', '.join(map(str, node.offsets))}]" if node.offsets else ""
        text += f" scratch({', '.join(map(_scratch_text, node.scratch))})" if node.scratch else ""
    if node.body is None:
        yield text
        return
    yield text + " {"
    yield from _node_lines(node.body, indent + "  ")
    yield f"{indent}}}"


def _scratch_text(scratch: Scratch) -> str:
    return ("zeroed " if scratch.zeroed else "") + str(scratch.type)


def _attr_text(value: Attr) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(str, value)) + "]"
    return json.dumps(value)


_HEAD = re.compile(r'graph ("(?:[^"\\]|\\.)*") stage\((\w+)\)(?: step\(([^()]+)\))? \{')
_INPUT = re.compile(r'in %(\S+): ([^"=]+(?:<[^>]*>)?[^"=]*?)(?: = (".*"))?')
_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"')
_NODE = re.compile(
    r"(?P<results>%.+?) = (?P<kind>[a-z]\w*(?:\.\w+)?)\((?P<operands>[^()]*)\)"
    r'(?: \{(?P<attrs>(?:"(?:[^"\\]|\\.)*"|[^{}"])+)\})?'
    r'(?: @(?P<origin>(?: (?:L\d+|"(?:[^"\\]|\\.)*"))+))?'
    r"(?: ! (?P<impl>\w+)(?:\[(?P<offsets>[-\d, ]+)\])?(?: scratch\((?P<scratch>[^()]+)\))?)?"
    r"(?P<open> \{)?"
)
_VALUE = re.compile(r"%([^,\s]+)")
_RESULT = re.compile(r"%([^:\s]+): ([a-z]\w*(?:<[^>]*>)?(?:\[[^\]]*\])?)")
_SCRATCH = re.compile(r"(zeroed )?([a-z]\w*\[[^\]]*\])")
_SIZE = re.compile(r"(\w+)=(\d+)")
_ATTR = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\[[^\]]*\]|[^,\s]+)')


def parse(text: str) -> Graph:
    """The graph that a text stands for. Raises DsvError DSV221 with the line that is wrong."""
    lines = [(i, line.strip()) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    number, line = lines[0] if lines else (1, "")
    head = _HEAD.fullmatch(line)
    if head is None or head[2] not in STAGES:
        raise _error(number, line, f'graph "NAME" stage({"|".join(STAGES)}) {{')
    with _reading(number, line, "step(T=512, ...)"):
        step = {match[1]: int(match[2]) for match in _items(_SIZE, head[3] or "")}
    inputs: list[str] = []
    types: dict[str, Type] = {}
    sources: dict[str, tuple[str, ...]] = {}
    at = 1
    while at < len(lines) and lines[at][1].startswith("in "):
        number, line = lines[at]
        with _reading(number, line, 'in %NAME: TYPE = "TENSOR", ...'):
            match = _matched(_INPUT, line)
            inputs.append(match[1])
            types[match[1]] = parse_type(match[2])
            if match[3]:
                found = _items(_STRINGS, match[3])
                sources[match[1]] = tuple(json.loads(part[0]) for part in found)
        at += 1
    nodes, at = _parse_nodes(lines, at, types)
    number, line = lines[min(at, len(lines) - 1)]
    with _reading(number, line, "a node, or `return %VALUE, ...` and `}`"):
        if [text for _, text in lines[at + 1 :]] != ["}"] or not line.startswith("return "):
            raise ValueError(line)
        outputs = _values(line.removeprefix("return "))
    return Graph(json.loads(head[1]), head[2], tuple(inputs), nodes, outputs, types, sources, step)


def _parse_nodes(
    lines: list[tuple[int, str]], at: int, types: dict[str, Type]
) -> tuple[tuple[Node, ...], int]:
    nodes: list[Node] = []
    while at < len(lines) and lines[at][1].startswith("%"):
        number, line = lines[at]
        with _reading(number, line, "%VALUE: TYPE = op(%OPERAND, ...) {ATTR=...} @ ORIGIN"):
            match = _matched(_NODE, line)
            results = [(part[1], parse_type(part[2])) for part in _items(_RESULT, match["results"])]
            inputs = _values(match["operands"])
            pairs = [(part[1], part[2]) for part in _items(_ATTR, match["attrs"] or "")]
            attrs: dict[str, Attr] = {name: _attr(text) for name, text in pairs}
            scratch = tuple(map(_scratch, _items(_SCRATCH, match["scratch"] or "")))
        unknown = [value for value in inputs if value not in types]
        if unknown:
            raise _error(number, line, f"%{unknown[0]} to be defined above")
        outputs = tuple(name for name, _ in results)
        op, _, kind = match["kind"].partition(".")
        body: Graph | None = None
        at += 1
        if match["open"]:
            inner = {value: types[value] for value in inputs}
            body_nodes, at = _parse_nodes(lines, at, inner)
            if at >= len(lines) or lines[at][1] != "}":
                raise _error(number, line, "a body that ends with `}`")
            body = Graph(kind, "model", inputs, body_nodes, outputs, inner)
            attrs = {"kind": kind, **attrs}
            at += 1
        types.update(results)
        offsets = tuple(int(part) for part in (match["offsets"] or "").split(",") if part)
        origin, impl = _origin(match["origin"] or ""), match["impl"] or ""
        nodes.append(Node(op, inputs, outputs, attrs, origin, body, impl, scratch, offsets))
    return tuple(nodes), at


def _matched(pattern: re.Pattern[str], text: str) -> re.Match[str]:
    match = pattern.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return match


def _items(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    """Matches separated by commas. Raises ValueError if anything else is in the text."""
    if pattern.sub("", text).strip(", "):
        raise ValueError(text)
    return list(pattern.finditer(text))


def _values(text: str) -> tuple[str, ...]:
    return tuple(part[1] for part in _items(_VALUE, text))


def _attr(text: str) -> Attr:
    value = json.loads(text)
    if isinstance(value, list) and all(type(item) is int for item in value):
        return tuple(value)
    if not isinstance(value, bool | int | float | str):
        raise ValueError(text)
    return value


def _scratch(match: re.Match[str]) -> Scratch:
    type_ = parse_type(match[2])
    if not isinstance(type_, TensorType):
        raise ValueError(match[0])
    return Scratch(type_, match[1] is not None)


def _origin(text: str) -> Origin:
    layer = re.match(r" L(\d+)", text)
    tensors = tuple(json.loads(part) for part in _STRINGS.findall(text))
    return Origin(int(layer[1]) if layer else None, tensors)


@contextmanager
def _reading(number: int, line: str, expected: str) -> Generator[None]:
    """Errors of what is read inside name the line."""
    try:
        yield
    except ValueError:
        raise _error(number, line, expected) from None
    except DsvError as error:
        where = f"line {number}"
        raise DsvError(
            "DSV221", error.what, where=where, expected=error.expected, found=error.found
        ) from None


def _error(number: int, line: str, expected: str) -> DsvError:
    return DsvError(
        "DSV221", "IR text cannot be read", where=f"line {number}", expected=expected, found=line
    )
