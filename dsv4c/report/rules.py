"""What one rule or one template did in a plan, and what it is for, from its own file."""

from __future__ import annotations

import ast
from pathlib import Path

import dsv4c
from dsv4c import templates
from dsv4c.ir.graph import Graph
from dsv4c.report.explained import Group, RuleDoc, TemplateDoc
from dsv4c.report.passes import PassesView, RemarkView, fusion_rules


def rule_names(passes: PassesView) -> list[str]:
    """Every pass that ran, every rule that left a remark, every fusion that there is."""
    ran = (one["name"] for one in passes["passes"])
    spoke = (one["rule"] for one in passes["rules"])
    return list(dict.fromkeys([*ran, *spoke, *fusion_rules()]))


def rule_doc(name: str, passes: PassesView) -> RuleDoc | None:
    """A rule or pass: its passes in this plan, and its remarks with equal ones together."""
    if name not in rule_names(passes):
        return None
    remarks = [one for one in passes["remarks"] if one["rule"] == name]
    source = _source(name)
    names = {name, source.stem if source is not None else name}
    applied = sum(one["status"] == "applied" for one in remarks)
    return {
        "kind": "rule",
        "name": name,
        "doc": _doc(source),
        "source": _shown(source),
        "passes": [one for one in passes["passes"] if one["name"] in names],
        "applied": applied,
        "refused": len(remarks) - applied,
        "groups": _groups(remarks),
        "warnings": [text for text in passes["warnings"] if f"rule {name} " in text],
    }


def template_doc(name: str, graph: Graph, remarks: list[RemarkView]) -> TemplateDoc | None:
    """A template: what became of the fused nodes of its kind."""
    if name not in templates.names():
        return None
    nodes = {node.name for node in graph.nodes if node.kind == f"fused.{name}"}
    family = _root() / "codegen" / "kernels" / f"{name}.py"
    return {
        "kind": "template",
        "name": name,
        "doc": _doc(family) if family.is_file() else "",
        "source": f"dsv4c/templates/{name}.py.jinja",
        "nodes": len(nodes),
        "groups": _groups([r for r in remarks if r["rule"] == "lower" and r["node"] in nodes]),
    }


def _groups(remarks: list[RemarkView]) -> list[Group]:
    """Remarks of equal status and text together, refusals first, then by how many they are."""
    found: dict[tuple[str, str], list[RemarkView]] = {}
    for one in remarks:
        found.setdefault((one["status"], one["text"]), []).append(one)
    groups: list[Group] = [
        {
            "status": status,
            "text": text,
            "count": len(ones),
            "layers": sorted({one["layer"] for one in ones if one["layer"] is not None}),
            "example": ones[0]["node"],
        }
        for (status, text), ones in found.items()
    ]
    return sorted(groups, key=lambda group: (group["status"] == "applied", -group["count"]))


def _root() -> Path:
    assert dsv4c.__file__
    return Path(dsv4c.__file__).parent


def _source(rule: str) -> Path | None:
    """The file of a rule: its pass, or the pass whose text has the rule's name."""
    files = [*sorted(_root().glob("passes/*.py")), *sorted(_root().glob("codegen/*.py"))]
    named = [path for path in files if path.stem == rule]
    return next(iter(named or [path for path in files if f'"{rule}"' in path.read_text()]), None)


def _shown(path: Path | None) -> str:
    return path.relative_to(_root().parent).as_posix() if path is not None else ""


def _doc(path: Path | None) -> str:
    text = path.read_text(encoding="utf-8") if path is not None else ""
    return ast.get_docstring(ast.parse(text)) or ""
