"""One node cut out of a run: a folder with its operands, reference and bounds, which runs alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dsv4c.errors import DsvError
from dsv4c.folders import work_folder
from dsv4c.ir.graph import Graph, Node
from dsv4c.ir.interp import run_node
from dsv4c.ir.text import parse, show
from dsv4c.ir.types import RowsType, Sym, TensorType, Type, WeightType, evaluate
from dsv4c.ir.values import Operand, State, Weight
from dsv4c.ir.weight_formats import weight_format
from dsv4c.plan.plan import Plan
from dsv4c.runtime import standalone
from dsv4c.runtime.bounds import bound_of, magnitude_of, rounds_inside, state_bound, steps_of
from dsv4c.runtime.executor import REFERENCE, kernel_arguments
from dsv4c.runtime.session import Session

CASE = "case.json"
SCHEMA = "dsv4c.repro/2"
Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Captured:
    """A node's operands as it was about to run; states are copies."""

    node: Node
    operands: Sequence[Operand]


class Capture:
    """A watcher that keeps the operands of one node, of the last step in which it ran."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.found: Captured | None = None

    def before(self, node: Node, operands: Sequence[Operand]) -> None:
        if node.name == self.node:
            self.found = Captured(node, copied(operands))

    def after(self, node: Node, results: Sequence[Operand]) -> None:
        pass


def copied(operands: Sequence[Operand]) -> list[Operand]:
    """The operands, with states and tensors of their own."""
    return [value if isinstance(value, Weight) else value.clone() for value in operands]


def capture(session: Session, node: str, ids: Sequence[int], decode: bool) -> Captured:
    """The operands of a node when the session prefills all but the last id, or decodes the last."""
    watcher = Capture(node)
    slot = session.open()
    try:
        head = ids[:-1] if decode else ids
        if head:
            session.prefill(slot, head, watcher=None if decode else watcher)
        if decode:
            session.prefill(slot, ids[-1:], watcher=watcher)
    finally:
        session.close(slot)
    assert watcher.found is not None, f"%{node} is not in the graph"
    return watcher.found


def write_case(out: Path, plan: Plan, captured: Captured, weights_of: Plan | None = None) -> None:
    """Write the folder; an earlier one at the same place is replaced.

    Args:
        out: the folder.
        plan: has the node, its kernel and its source.
        captured: operands for that node.
        weights_of: the plan that read the weights, where it is another one.

    Raises:
        DsvError: DSV102 if there is something else at `out`.
    """
    node = plan.graph.producers[captured.node.name]
    operands = captured.operands
    packed = () if node.impl == REFERENCE else (weights_of or plan).packed(node)
    arguments = kernel_arguments(operands, packed)
    names = [f"in{i:03d}" for i in range(len(arguments))]
    with work_folder(out.resolve(), _require_replaceable) as work:
        with torch.inference_mode():
            expected, results = _expected(node, operands, arguments, plan.graph)
        _save(dict(zip(names, arguments, strict=True)), work / "inputs.safetensors")
        _save(expected, work / "expected.safetensors")
        (work / "node.ir").write_text(show(alone(node, plan.graph)), encoding="utf-8")
        kernel = None if node.impl == REFERENCE else node.impl
        case: Json = {
            "schema": SCHEMA,
            "plan": plan.manifest.model.name,
            "node": node.name,
            "kind": node.kind,
            "layer": node.origin.layer,
            "kernel": kernel,
            "arch": None if kernel is None else plan.target,
            "arguments": names,
            "results": results,
            "scratch": _scratch(node, operands, plan.graph),
        }
        (work / CASE).write_text(json.dumps(case, indent=1) + "\n", encoding="utf-8")
        shutil.copyfile(standalone.__file__, work / "run.py")
        if kernel is not None:
            shutil.copyfile(plan.path / "kernels" / kernel / "source.py", work / "source.py")
            if plan.manifest.library is not None:
                shutil.copyfile(plan.path / plan.manifest.library, work / "library.so")
        if out.exists():
            shutil.rmtree(out)
        work.rename(out.resolve())


def _scratch(node: Node, operands: Sequence[Operand], graph: Graph) -> list[Json]:
    """Shapes of the memory that a kernel wants beside its results."""
    env: dict[str, int] = {}
    for value, operand in zip(node.inputs, operands, strict=True):
        type_ = graph.types[value]
        if isinstance(type_, TensorType) and isinstance(operand, torch.Tensor):
            for dim, size in zip(type_.dims, operand.shape, strict=True):
                if isinstance(dim, Sym) and dim == Sym(dim.name):
                    env[dim.name] = size
    return [
        {
            "shape": [evaluate(dim, env) for dim in one.type.dims],
            "dtype": _TORCH[one.type.dtype],
            "zeroed": one.zeroed,
        }
        for one in node.scratch
    ]


def alone(node: Node, graph: Graph) -> Graph:
    """A graph of one node, at stage `model` so that it needs no buffers."""
    values = (*node.inputs, *node.outputs)
    inputs = tuple(dict.fromkeys(node.inputs))
    types: dict[str, Type] = {value: graph.types[value] for value in values}
    sources = {
        value: graph.sources[value]
        for value in node.inputs
        if isinstance(types[value], WeightType) and value in graph.sources
    }
    return Graph(graph.name, "model", inputs, (node,), node.outputs, types, sources)


def reference_run(text: str, arguments: Sequence[torch.Tensor]) -> Callable[[], list[torch.Tensor]]:
    """What runs the one node of an IR text as a plan on `cpu` does.

    Args:
        text: of `node.ir`.
        arguments: tensors, components of weights and buffers of states, in the order of operands.
    """
    graph = parse(text)
    (node,) = graph.nodes
    waiting = iter(arguments)
    operands: list[Operand] = []
    for value in node.inputs:
        type_ = graph.types[value]
        if isinstance(type_, WeightType):
            parts = weight_format(type_.format).components
            operands.append(Weight(type_, tuple(next(waiting) for _ in parts)))
        elif isinstance(type_, TensorType):
            operands.append(next(waiting))
        else:
            operands.append(State(type_, next(waiting)))

    def run() -> list[torch.Tensor]:
        with torch.inference_mode():
            results = run_node(node, copied(operands), graph.types)
        return [one.buffer if isinstance(one, State) else _tensor(one) for one in results]

    return run


def _expected(
    node: Node, operands: Sequence[Operand], arguments: Sequence[torch.Tensor], graph: Graph
) -> tuple[dict[str, torch.Tensor], list[Json]]:
    """Tensors of the reference and of the bounds, and what is to be known of each result.

    A state's `argument` is the place of the buffer that becomes its next version.
    """
    copies = copied(operands)
    exact = run_node(node, copies, graph.types, "exact")
    tensors: dict[str, torch.Tensor] = {}
    results: list[Json] = []
    fused, steps = node.body is not None, steps_of(node)
    for number, (value, r) in enumerate(zip(node.outputs, exact, strict=True)):
        facts: Json = {"value": value, "argument": None, "layout": None}
        if isinstance(r, State):
            tensors[f"result{number}"] = r.buffer
            step, inner = state_bound(r.type, fused)
            before = operands[next(i for i, one in enumerate(copies) if one is r)]
            place = next(i for i, one in enumerate(arguments) if _is_buffer(one, before))
            facts |= {"argument": place, "step": step, "inner": inner, "layout": _layout(r)}
        else:
            r = _tensor(r)
            type_ = graph.types[value]
            assert isinstance(type_, TensorType)
            facts |= {"shape": list(r.shape), "dtype": _TORCH[type_.dtype]}
            tensors[f"result{number}"] = r
            if r.is_floating_point():
                magnitude = magnitude_of(node, value, operands)
                rounds = rounds_inside(node, value)
                bound = bound_of(r, type_.dtype, *magnitude, steps, rounds)
                tensors[f"bound{number}"] = bound
        results.append(facts)
    return tensors, results


_TORCH = {"f32": "float32", "bf16": "bfloat16", "i32": "int32", "i64": "int64", "u8": "uint8"}


def _layout(state: State) -> Json:
    """How `run.py` decodes a state's buffer; partial rows are plain f32."""
    if isinstance(state.type, RowsType):
        facts: Json = {
            "format": "f32",
            "width": state.type.width,
            "rope": 0,
            "page": state.type.rows,
        }
        return facts | {"data_bytes": 4 * state.type.width, "scale_bytes": 0}
    layout = state.type.layout
    names = ("format", "width", "rope", "page", "data_bytes", "scale_bytes")
    return {name: getattr(layout, name) for name in names}


def _is_buffer(tensor: torch.Tensor, operand: Operand) -> bool:
    return isinstance(operand, State) and tensor.data_ptr() == operand.buffer.data_ptr()


def _tensor(value: Operand) -> torch.Tensor:
    assert isinstance(value, torch.Tensor)
    return value


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: one.contiguous().clone().cpu() for name, one in tensors.items()}, path)


def _require_replaceable(out: Path) -> None:
    if not out.exists() or (out.is_dir() and ((out / CASE).is_file() or not any(out.iterdir()))):
        return
    raise DsvError(
        "DSV102",
        "the output path exists and is not a cut-out node",
        where=str(out),
        expected="a new path, an empty folder or an earlier repro",
        hint="choose another path",
    )
