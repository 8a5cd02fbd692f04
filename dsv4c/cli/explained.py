"""The documents of `dsv4c explain` as text."""

from __future__ import annotations

from collections.abc import Sequence

import click

from dsv4c.cli.render import byte_count, heading, layer_list, pairs, table, warn
from dsv4c.cli.tuned import print_tiles
from dsv4c.report.explained import (
    CodeDoc,
    Document,
    GoneDoc,
    Group,
    InputDoc,
    KernelDoc,
    NodeDoc,
    OffsetDoc,
    Resources,
    RuleDoc,
    StateDoc,
    TemplateDoc,
    WeightDoc,
)
from dsv4c.report.passes import RemarkView

FEW = 6
"""Names that a line of text shows; --json has all."""


def show(document: Document) -> None:
    """Print a document."""
    match document["kind"]:
        case "node":
            _node(document)
        case "gone":
            _gone(document)
        case "kernel":
            _kernel(document)
        case "offset":
            _offset(document)
        case "weight":
            _weight(document)
        case "state":
            _state(document)
        case "step input":
            _input(document)
        case "rule":
            _rule(document)
        case "template":
            _template(document)
        case "error code":
            _code(document)


def _node(one: NodeDoc) -> None:
    origin = one["origin"]
    if one["inside"] is not None:
        click.echo(f"%{one['inside']} exists only inside the fused node %{one['name']}\n")
    pairs(
        {
            "node": f"%{one['name']}",
            "what": one["op"],
            "attributes": ", ".join(f"{name}={value}" for name, value in one["attrs"].items()),
            "layer": layer_list(origin["layers"]) or "none",
            "checkpoint tensors": ", ".join(origin["tensors"]) or "none",
            "reads of a step": _few(origin["inputs"]),
            "runs on": _runs_on(one),
        }
    )
    if one["body"]:
        heading(f"made of {len(one['body'])} nodes")
        table(
            ("node", "op", "checkpoint tensors"),
            [(part["name"], part["kind"], ", ".join(part["tensors"])) for part in one["body"]],
        )
    heading("operands")
    table(
        ("value", "type", "from"),
        [(x["name"], x["type"], x["made_by"] or x["role"]) for x in one["operands"]],
    )
    heading("results")
    table(
        ("value", "type", "offset", "used by"),
        [(x["name"], x["type"], x["offset"], _few(x["used_by"])) for x in one["results"]],
    )
    _remarks(one["remarks"])
    heading("templates")
    for template in one["templates"]:
        verdict = f"{template['template']} took it: " if template["taken"] else ""
        refused = f"{template['template']} refused: " if template["template"] else "none: "
        click.echo((verdict or refused) + template["reason"])


def _runs_on(one: NodeDoc) -> str:
    if one["resources"] is None:
        return "its torch reference" if one["runs_on"] else "not decided at this stage"
    return f"kernel {one['runs_on']} ({_resources(one['resources'])})"


def _resources(one: Resources) -> str:
    if one["registers"] is None:
        return "not compiled"
    text = f"{one['registers']} registers, {one['spills']} spill bytes, {one['smem']} shared bytes"
    return text + (", edited by hand" if one["hand_edited"] else "")


def _gone(one: GoneDoc) -> None:
    click.echo(f"%{one['name']} is not in the graph: {one['removed_by']} removed it")
    if one["replaced_by"] is not None:
        click.echo(f"its readers read %{one['replaced_by']} instead")
    click.echo(f"\n{one['first_seen']}:\n{one['text']}")
    _remarks(one["remarks"])


def _kernel(one: KernelDoc) -> None:
    pairs(
        {
            "kernel": one["name"],
            "template": one["template"],
            "target": one["arch"],
            "parameters": ", ".join(f"{name}={value}" for name, value in one["params"].items()),
            "resources": _resources(one["resources"]),
            "source": one["source"] or "not rendered",
            "cache key": one["cache_key"] or "none",
            "layers": layer_list(one["layers"]),
            f"{len(one['nodes'])} nodes": _few(one["nodes"]),
            f"{len(one['built'])} nodes as built": _few(one["built"]),
            f"{len(one['tensors'])} checkpoint tensors": _few(one["tensors"]),
        }
    )
    if one["tiles"]:
        heading("tiles")
        print_tiles(one["tiles"])
    heading("rules")
    counts: dict[tuple[str, str, str], int] = {}
    for remark in one["rules"]:
        key = (remark["rule"], remark["status"], remark["text"])
        counts[key] = counts.get(key, 0) + 1
    table(("rule", "status", "times", "what"), [(*k[:2], n, k[2]) for k, n in counts.items()])


def _offset(one: OffsetDoc) -> None:
    click.echo(f"{one['name']}: byte {one['byte']:,} of the arena, in the largest step")
    heading(f"{len(one['values'])} values, one after the other")
    table(
        ("from", "to", "layer", "value", "type", "bytes"),
        [
            (x["first"], x["last"], x["layer"], x["value"], x["type"], x["bytes"])
            for x in one["values"]
        ],
    )


def _weight(one: WeightDoc) -> None:
    pairs(
        {
            "weight": one["name"],
            "format": one["format"],
            "shape": "x".join(map(str, one["dims"])),
            "bytes": byte_count(one["bytes"]),
            "layer": one["layer"],
            "checkpoint tensors": ", ".join(one["tensors"]),
            "in the plan": "; ".join(one["stored"]) or "not a plan",
            "runs on": ", ".join(one["kernels"]) or "not decided at this stage",
        }
    )
    heading("used by")
    table(("node", "op"), [(part["name"], part["kind"]) for part in one["used_by"]])


def _state(one: StateDoc) -> None:
    pairs(
        {
            "state": one["name"],
            "type": one["type"],
            "layer": one["layer"],
            "bytes per sequence": byte_count(one["bytes_per_slot"]),
            "bytes per page of 128 tokens": byte_count(one["bytes_per_page"]),
            "versions": _few(one["versions"]),
            "written by": _few(one["written_by"]),
            "read by": _few(one["read_by"]),
        }
    )


def _input(one: InputDoc) -> None:
    pairs({"step input": one["name"], "type": one["type"], "used by": _few(one["used_by"])})


def _rule(one: RuleDoc) -> None:
    click.echo(f"{one['name']} ({one['source']})\n\n{one['doc']}")
    warn(one["warnings"])
    heading("passes")
    table(
        ("pass", "changed", "nodes before", "nodes after", "looked at", "seconds"),
        [
            (
                f"{x['index']:02} {x['name']}",
                "yes" if x["modified"] else "no",
                *(x["nodes_before"], x["nodes_after"], x["candidates"], x["seconds"]),
            )
            for x in one["passes"]
        ],
    )
    heading(f"applied {one['applied']} times, refused {one['refused']} times")
    _groups(one["groups"])


def _template(one: TemplateDoc) -> None:
    click.echo(f"{one['name']} ({one['source']})\n\n{one['doc']}")
    heading(f"{one['nodes']} nodes of this kind")
    _groups(one["groups"])


def _groups(groups: Sequence[Group]) -> None:
    table(
        ("status", "times", "layers", "example", "what"),
        [
            (x["status"], x["count"], layer_list(x["layers"]), x["example"], x["text"])
            for x in groups
        ],
    )


def _remarks(remarks: Sequence[RemarkView]) -> None:
    heading("rules")
    if not remarks:
        click.echo("no rule looked at it")
        return
    table(
        ("rule", "status", "node", "what"),
        [(x["rule"], x["status"], x["node"], x["text"]) for x in remarks],
    )


def _code(one: CodeDoc) -> None:
    click.echo(f"{one['name']}: {one['meaning']} (exit code {one['exit_code']})")
    click.echo(f"\n{one['cause']}\n\n{one['remedy']}")


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:FEW])
    return f"{shown}, ... {len(names) - FEW} more" if len(names) > FEW else shown or "none"
