"""What a node, value, kernel, place in the arena, weight, checkpoint tensor, state, rule or template is.

Everything is read from the plan: no torch, no weights. See `dsv4c.report.explained` for the shapes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property

from dsv4c import templates
from dsv4c.errors import CODES, DsvError
from dsv4c.ir.graph import Node
from dsv4c.ir.types import CacheType, RowsType, WeightType
from dsv4c.report.explained import (
    CodeDoc,
    Document,
    InputDoc,
    KernelDoc,
    NodeDoc,
    OffsetDoc,
    Operand,
    Part,
    Resources,
    StateDoc,
    TemplateView,
    WeightDoc,
)
from dsv4c.report.gone import about, gone_doc
from dsv4c.report.kernels import tiles_view
from dsv4c.report.passes import PassesView, passes_view
from dsv4c.report.provenance import Provenance
from dsv4c.report.rules import rule_doc, rule_names, template_doc
from dsv4c.report.selection import Selection, layer_of
from dsv4c.report.subject import Subject

REFERENCE = "reference"
_OFFSET = re.compile(r"(?:offset:)?(\d+)")


def explain_code(name: str) -> CodeDoc | None:
    """The page of an error code, or None if `name` is none."""
    from dsv4c.error_pages import PAGES

    code = name.upper()
    if code not in CODES:
        return None
    return {
        "kind": "error code",
        "name": code,
        "meaning": CODES[code],
        "exit_code": DsvError(code, "").exit_code,
        "cause": PAGES[code].cause,
        "remedy": PAGES[code].remedy,
    }


def explain(subject: Subject, what: str) -> Document:
    """The document of a name.

    Args:
        subject: a plan or a checkpoint.
        what: a name; values may have their `%`, places in the arena are `offset:4096` or `4096`.

    Raises:
        DsvError: DSV101, there is nothing of this name; the hint has near ones.
    """
    return Explainer(subject).explain(what.removeprefix("%"))


class Explainer:
    """Looks names up in one plan or checkpoint."""

    def __init__(self, subject: Subject) -> None:
        self.subject, self.graph = subject, subject.graph
        self.index = Provenance(subject.graph)

    @cached_property
    def passes(self) -> PassesView:
        return passes_view(self.subject.events, Selection())

    def explain(self, what: str) -> Document:
        lookups: tuple[Callable[[str], Document | None], ...] = (
            explain_code,
            self._node,
            self._kernel,
            self._input,
            self._tensor,
            self._offset,
            lambda name: rule_doc(name, self.passes),
            lambda name: template_doc(name, self.graph, self.passes["remarks"]),
            lambda name: gone_doc(name, self.subject.snapshots(), self.passes["remarks"]),
        )
        for look in lookups:
            if (found := look(what)) is not None:
                return found
        raise self._unknown(what)

    def _node(self, name: str) -> NodeDoc | None:
        node = self.index.holders.get(name)
        if node is None:
            return None
        graph, body = self.graph, node.body.nodes if node.body is not None else ()
        names = {*node.outputs, *(value for part in body for value in part.outputs)}
        offsets = node.offsets[: len(node.outputs)] or (None,) * len(node.outputs)
        return {
            "kind": "node",
            "name": node.name,
            "inside": None if name in node.outputs else name,
            "op": node.kind,
            "attrs": dict(node.attrs),
            "runs_on": node.impl,
            "resources": None if node.impl in ("", REFERENCE) else self._resources(node.impl),
            "origin": self.index.origin(node),
            "body": [_part(part) for part in body],
            "operands": [self._operand(value) for value in node.inputs],
            "results": [
                {
                    "name": value,
                    "type": str(graph.types[value]),
                    "offset": offset,
                    "used_by": [user.name for user in self.index.users(value)],
                }
                for value, offset in zip(node.outputs, offsets, strict=True)
            ],
            "remarks": [one for one in self.passes["remarks"] if about(one, names)],
            "templates": self._templates(node),
        }

    def _operand(self, value: str) -> Operand:
        maker, type_ = self.graph.producers.get(value), self.graph.types[value]
        if maker is not None:
            return {"name": value, "type": str(type_), "role": "node", "made_by": maker.name}
        if isinstance(type_, WeightType):
            return {"name": value, "type": str(type_), "role": "weight", "made_by": None}
        state = isinstance(type_, CacheType | RowsType)
        role = "state" if state else "step input"
        return {"name": value, "type": str(type_), "role": role, "made_by": None}

    def _templates(self, node: Node) -> list[TemplateView]:
        """What the lowering said about a node, or why it had nothing to say."""
        asked = [one for one in self.passes["remarks"] if one["rule"] == "lower"]
        said = [one for one in asked if one["node"] in node.outputs]
        if said:
            kind = str(node.attrs.get("kind", node.op))
            return [
                {"template": kind, "taken": one["status"] == "applied", "reason": one["text"]}
                for one in said
            ]
        if self.subject.target == "cpu":
            reason = "the target cpu runs every node by its reference"
        elif node.body is None:
            reason = "templates take fused nodes; no rule fused this one"
        else:
            reason = "this graph is not lowered yet"
        return [{"template": "", "taken": False, "reason": reason}]

    def _resources(self, name: str) -> Resources:
        made = self.subject.kernels.get(name)
        return {
            "registers": made.registers if made else None,
            "spills": made.spills if made else None,
            "smem": made.smem if made else None,
            "hand_edited": made.hand_edited if made else False,
        }

    def _kernel(self, name: str) -> KernelDoc | None:
        nodes = [node for node in self.graph.nodes if node.impl == name != REFERENCE]
        if not nodes:
            return None
        made = self.subject.kernels.get(name)
        origins = [self.index.origin(node) for node in nodes]
        family = made.kind if made else str(nodes[0].attrs.get("kind", nodes[0].op))
        source = self.subject.path / "kernels" / name / "source.py"
        outputs = {value for node in nodes for value in node.outputs}
        return {
            "kind": "kernel",
            "name": name,
            "family": family,
            "arch": self.subject.target,
            "params": dict(made.params) if made else {},
            "template": f"dsv4c/templates/{family}.py.jinja",
            "source": str(source) if source.is_file() else "",
            "cache_key": made.cache_key if made else "",
            "resources": self._resources(name),
            "tiles": tiles_view(made),
            "nodes": [node.name for node in nodes],
            "layers": sorted({layer for one in origins for layer in one["layers"]}),
            "tensors": list(dict.fromkeys(t for one in origins for t in one["tensors"])),
            "built": list(dict.fromkeys(name for one in origins for name in one["built"])),
            "rules": [one for one in self.passes["remarks"] if one["node"] in outputs],
        }

    def _input(self, name: str) -> StateDoc | WeightDoc | InputDoc | None:
        if name not in self.graph.inputs:
            return None
        type_ = self.graph.types[name]
        if isinstance(type_, WeightType):
            return self._weight(name, type_)
        users = [node.name for node in self.index.users(name)]
        if not isinstance(type_, CacheType | RowsType):
            return {"kind": "step input", "name": name, "type": str(type_), "used_by": users}
        versions = self.index.versions(name)
        readers = dict.fromkeys(u.name for value in versions for u in self.index.users(value))
        writers = [node for node in versions.values() if node is not None]
        return {
            "kind": "state",
            "name": name,
            "type": str(type_),
            "layer": layer_of(name, self.graph),
            "bytes_per_slot": type_.nbytes({"S": 1, "N": 0}),
            "bytes_per_page": type_.nbytes({"S": 0, "N": 1}),
            "versions": list(versions),
            "written_by": writers,
            "read_by": [reader for reader in readers if reader not in writers],
        }

    def _tensor(self, name: str) -> WeightDoc | None:
        weight = self.index.weight_of(name)
        if weight is None:
            return None
        type_ = self.graph.types[weight]
        assert isinstance(type_, WeightType)
        return self._weight(weight, type_)

    def _weight(self, name: str, type_: WeightType) -> WeightDoc:
        users = self.index.users(name)
        manifest = self.subject.manifest
        stored = list(manifest.weights[name].components) if manifest is not None else []
        packed = manifest.packed if manifest is not None else []
        stored += [part for one in packed if name in one.weights for part in one.components]
        readers = [
            _part(part)
            for user in users
            for part in (user.body.walk() if user.body is not None else [user])
            if name in part.inputs
        ]
        return {
            "kind": "weight",
            "name": name,
            "format": type_.format,
            "dims": list(type_.dims),
            "bytes": type_.nbytes({}),
            "layer": layer_of(name, self.graph),
            "tensors": list(self.graph.sources[name]),
            "stored": [f"{part.file}: {part.tensor} {part.dtype} {part.shape}" for part in stored],
            "used_by": readers,
            "kernels": list(dict.fromkeys(user.impl for user in users if user.impl)),
        }

    def _offset(self, name: str) -> OffsetDoc | None:
        match = _OFFSET.fullmatch(name)
        if match is None or not (stays := self.index.stays(int(match[1]))):
            return None
        byte, graph = int(match[1]), self.graph
        return {
            "kind": "offset",
            "name": f"offset:{byte}",
            "byte": byte,
            "values": [
                {
                    "value": stay.value,
                    "node": stay.node,
                    "type": str(stay.type),
                    "layer": graph.producers[stay.node].origin.layer,
                    "bytes": stay.type.nbytes(graph.step),
                    "first": stay.first,
                    "last": stay.last,
                }
                for stay in stays
            ],
        }

    def _unknown(self, what: str) -> DsvError:
        from difflib import get_close_matches

        names = {
            *self.index.holders,
            *self.graph.inputs,
            *self.index.tensors,
            *(node.impl for node in self.graph.nodes),
            *rule_names(self.passes),
            *templates.names(),
            *CODES,
        }
        near = get_close_matches(what, sorted(names), 3, 0.6)
        return DsvError(
            "DSV101",
            "there is nothing of this name",
            where=str(self.subject.path),
            expected="a node, value, kernel, weight, checkpoint tensor, state, offset:N, rule, "
            "template or error code",
            found=what,
            hint=f"did you mean {' or '.join(near)}?" if near else "dsv4c inspect lists the names",
        )


def _part(node: Node) -> Part:
    return {"name": node.name, "kind": node.kind, "tensors": list(node.origin.tensors)}
