"""Values that an earlier stage had: which pass removed them, and what their readers read now."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dsv4c.ir.graph import Graph
from dsv4c.ir.text import show_node
from dsv4c.report.explained import GoneDoc
from dsv4c.report.passes import RemarkView
from dsv4c.report.provenance import Provenance
from dsv4c.report.subject import Snapshot


def gone_doc(name: str, steps: Sequence[Snapshot], remarks: Sequence[RemarkView]) -> GoneDoc | None:
    """A value that the last stage does not have, or None if no earlier one has it either."""
    having = [i for i, one in enumerate(steps) if one.defines(name)]
    if not having or having[-1] + 1 == len(steps):
        return None
    before, after = steps[having[-1]], steps[having[-1] + 1]
    node = Provenance(before.graph).holders.get(name)
    now = _replacement(name, before.graph, after.graph)
    return {
        "kind": "gone",
        "name": name,
        "text": show_node(node, before.graph) if node is not None else "",
        "first_seen": steps[having[0]].name,
        "removed_by": after.name,
        "replaced_by": now,
        "remarks": [one for one in remarks if about(one, {name, now or name})],
    }


def about(remark: RemarkView, names: set[str]) -> bool:
    """Whether a remark is on one of these values, or its reason names one."""
    mentioned = re.findall(r"%([\w.]+\w)", remark["text"])
    return remark["node"] in names or not names.isdisjoint(mentioned)


def _replacement(name: str, before: Graph, after: Graph) -> str | None:
    """What the readers of a value read after the pass that removed it."""
    for reader in before.consumers.get(name, ()):
        now = after.producers.get(reader.name)
        if now is not None and len(now.inputs) == len(reader.inputs):
            return now.inputs[reader.inputs.index(name)]
    return None
