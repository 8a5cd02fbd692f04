"""What differs between two plans or checkpoints: inputs of the compiler, nodes, kernels, order, cost."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypedDict

from dsv4c.ir.graph import Graph, Node
from dsv4c.report.memory import memory_view
from dsv4c.report.selection import Selection
from dsv4c.report.subject import Subject

REFERENCE = "reference"
# One token each of 8 sequences with 2,048 tokens of context, and a full chunk.
STEPS = {
    "decode": {"T": 8, "R": 8, "S": 8, "P": 16, "N": 128},
    "prefill": {"T": 512, "R": 1, "S": 8, "P": 16, "N": 128},
}


class Pair(TypedDict):
    """One figure or fact of both sides; None where a side does not have it."""

    what: str
    a: str | int | float | None
    b: str | int | float | None


class NodeChange(TypedDict):
    """A node of the same name that is not the same: one pair per thing that differs."""

    node: str
    layer: int | None
    changes: list[Pair]


class NodesDiff(TypedDict):
    same: int
    only_a: list[str]
    only_b: list[str]
    changed: list[NodeChange]


class KernelsDiff(TypedDict):
    same: int
    only_a: list[str]
    only_b: list[str]
    changed: list[NodeChange]


class ScheduleDiff(TypedDict):
    """`first` is the first place with different nodes."""

    a: int
    b: int
    first: int | None
    at_first: Pair | None


class Diff(TypedDict):
    equal: bool
    inputs: list[Pair]
    nodes: NodesDiff
    kernels: KernelsDiff
    schedule: ScheduleDiff
    bytes: list[Pair]
    cost: list[Pair]


def diff_view(a: Subject, b: Subject) -> Diff:
    """Everything that differs; figures of `bytes` and `cost` stand there whether they do or not."""
    found: Diff = {
        "equal": False,
        "inputs": _inputs(a, b),
        "nodes": _nodes(a.graph, b.graph),
        "kernels": _kernels(a, b),
        "schedule": _schedule(a.graph, b.graph),
        "bytes": _pairs(_bytes(a), _bytes(b)),
        "cost": _pairs(_cost(a.graph), _cost(b.graph)),
    }
    parts = [found["nodes"], found["kernels"]]
    found["equal"] = (
        not found["inputs"]
        and not any(part["only_a"] or part["only_b"] or part["changed"] for part in parts)
        and found["schedule"]["first"] is None
        and all(pair["a"] == pair["b"] for pair in found["bytes"])
    )
    return found


def _pairs(
    a: Mapping[str, str | int | float | None], b: Mapping[str, str | int | float | None]
) -> list[Pair]:
    return [{"what": name, "a": a.get(name), "b": b.get(name)} for name in dict.fromkeys([*a, *b])]


def _unequal(pairs: Iterable[Pair]) -> list[Pair]:
    return [pair for pair in pairs if pair["a"] != pair["b"]]


def _inputs(a: Subject, b: Subject) -> list[Pair]:
    return _unequal(_pairs(_facts(a), _facts(b)))


def _facts(subject: Subject) -> dict[str, str | int | float | None]:
    """What the compiler was given."""
    facts: dict[str, str | int | float | None] = {"target": subject.target}
    facts["passes"] = ", ".join(str(e["name"]) for e in subject.events if e["kind"] == "pass")
    read = subject.manifest
    if read is None:
        return facts
    if read.source_ir is not None:
        facts["IR file"] = f"{read.source_ir.file} {read.source_ir.sha256[:12]}"
    facts |= {"dsv4c": read.dsv4c, "config.json": read.model.config_sha256[:12]}
    facts |= {
        f"option {name}": getattr(read.options, name) for name in read.options.__struct_fields__
    }
    facts |= {f"tool {name}": version for name, version in read.tools.items()}
    files = {part.file for weight in read.weights.values() for part in weight.components}
    facts |= {name: read.files[name][:12] for name in sorted(files)}
    return facts


def _nodes(a: Graph, b: Graph) -> NodesDiff:
    before, after = ({node.name: node for node in graph.nodes} for graph in (a, b))
    changed: list[NodeChange] = []
    for name in before.keys() & after.keys():
        changes = _unequal(_pairs(_node(before[name], a), _node(after[name], b)))
        if changes:
            layer = after[name].origin.layer
            changed.append({"node": name, "layer": layer, "changes": changes})
    changed.sort(key=lambda one: b.places[one["node"]])
    return {
        "same": len(before.keys() & after.keys()) - len(changed),
        "only_a": [name for name in before if name not in after],
        "only_b": [name for name in after if name not in before],
        "changed": changed,
    }


def _node(node: Node, graph: Graph) -> dict[str, str | int | float | None]:
    """A node's facts as text. What a body holds counts, but not where results lie."""
    facts: dict[str, str | int | float | None] = {
        "op": node.kind,
        "operands": ", ".join(node.inputs),
        "results": ", ".join(f"{value}: {graph.types[value]}" for value in node.outputs),
        "runs on": node.impl or None,
        "tensors": ", ".join(node.origin.tensors),
    }
    facts |= {f"attribute {name}": str(value) for name, value in node.attrs.items()}
    if node.body is not None:
        for part in node.body.nodes:
            attrs = ", ".join(f"{name}={value}" for name, value in sorted(part.attrs.items()))
            text = f"{part.kind}({', '.join(part.inputs)})" + (f" {{{attrs}}}" if attrs else "")
            facts[f"inside %{part.name}"] = text
    return facts


def _kernels(a: Subject, b: Subject) -> KernelsDiff:
    before, after = _kernel_facts(a), _kernel_facts(b)
    changed: list[NodeChange] = [
        {"node": name, "layer": None, "changes": changes}
        for name in before
        if name in after and (changes := _unequal(_pairs(before[name], after[name])))
    ]
    return {
        "same": len(before.keys() & after.keys()) - len(changed),
        "only_a": [name for name in before if name not in after],
        "only_b": [name for name in after if name not in before],
        "changed": changed,
    }


def _kernel_facts(subject: Subject) -> dict[str, dict[str, str | int | float | None]]:
    found: dict[str, dict[str, str | int | float | None]] = {
        node.impl: {} for node in subject.graph.nodes if node.impl not in ("", REFERENCE)
    }
    for name, made in subject.kernels.items():
        files = subject.manifest.files if subject.manifest is not None else {}
        found[name] = {
            "registers": made.registers,
            "spill bytes": made.spills,
            "shared bytes": made.smem,
            "nodes": len(made.nodes),
            "source": files.get(f"kernels/{name}/source.py", "")[:12],
            "edited by hand": "yes" if made.hand_edited else "no",
        }
        found[name] |= {f"parameter {key}": value for key, value in made.params.items()}
    return found


def _schedule(a: Graph, b: Graph) -> ScheduleDiff:
    names = [[node.name for node in graph.nodes] for graph in (a, b)]
    shorter = min(map(len, names))
    places = (i for i in range(shorter) if names[0][i] != names[1][i])
    first = next(places, None if len(names[0]) == len(names[1]) else shorter)
    at: Pair | None = None
    if first is not None:
        one, other = (part[first] if first < len(part) else None for part in names)
        at = {"what": f"step {first}", "a": one, "b": other}
    return {"a": len(names[0]), "b": len(names[1]), "first": first, "at_first": at}


def _bytes(subject: Subject) -> dict[str, str | int | float | None]:
    memory = memory_view(subject.graph, Selection())
    arena = memory["arena"]
    return {
        "weights": memory["weights"],
        "state per sequence": memory["bytes_per_slot"],
        "state per 128 tokens": memory["bytes_per_page"],
        "arena": arena["bytes"] if arena is not None else None,
    }


def _cost(graph: Graph) -> dict[str, str | int | float | None]:
    """FLOPs and bytes of one step; imports the ops, and torch with them."""
    from dsv4c.ir.cost import graph_cost

    found: dict[str, str | int | float | None] = {}
    for step, sizes in STEPS.items():
        cost = graph_cost(graph, sizes)
        found[f"{step}: GFLOP"] = round(cost.flops / 1e9, 6)
        found[f"{step}: MB read"] = round(cost.read / 1e6, 6)
        found[f"{step}: MB written"] = round(cost.write / 1e6, 6)
    return found


def family(name: str) -> str:
    """A value's name with its layer left out: what layers have in common."""
    return re.sub(r"\bL\d+\.|\blayers\.\d+\.", "L*.", name)
