"""Tables of docs/performance.md from the peers of a document of `dsv4c bench --peers`."""

from __future__ import annotations

from collections.abc import Sequence

from dsv4c.bench.results import Bench, PeerRow


def tables(found: Bench) -> dict[str, str]:
    """The bodies of the page's blocks by name: kernels, and layers in torch."""
    rows, rate = found.peers or [], found.card.copy
    layers = [row for row in rows if " layer" in row.case]
    kernels = [row for row in rows if row not in layers]
    card = f"{found.card.name}, copy rate {rate / 1e12:.2f} TB/s."
    return {
        "peers": f"{_table(kernels, rate)}\n\n{card}",
        "peers layers": f"{_table(layers, None)}\n\n{card}",
    }


def _table(rows: Sequence[PeerRow], rate: float | None) -> str:
    """One line for each shape."""
    head = ["peer", "shape", "us (quartiles)", "peer us (quartiles)", "peer / ours"]
    head += ["error / bound", "peer's", "of copy rate"] if rate else ["difference / bound"]
    lines = ["| " + " | ".join([*head, "note"]) + " |", "|" + "---|" * (len(head) + 1)]
    for row in rows:
        cells = [row.peer, row.case]
        if row.time is None or row.peer_time is None:
            cells += ["-"] * (len(head) - 2)
        else:
            for one in (row.time, row.peer_time):
                cells.append(f"{_us(one.us)} ({_us(one.low)} to {_us(one.high)})")
            cells.append(f"{row.speedup:.2f}")
            cells += [f"{one:.2f}" for one in (*([row.ratio] if rate else []), row.peer_ratio)]
            if rate:
                cells.append(f"{row.bytes / (row.time.us * 1e-6) / rate:.0%}")
        lines.append("| " + " | ".join([*cells, row.note]) + " |")
    return "\n".join(lines)


def _us(us: float) -> str:
    return f"{us:.2f}" if us < 1000 else f"{us:.0f}"
