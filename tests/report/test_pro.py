"""A plan of DeepSeek-V4-Pro, 61 layers: everything has an origin, and looking at it is quick."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import bare
import pytest

from dsv4c.ir.text import parse
from dsv4c.models.deepseek_v4.build import BuildOptions
from dsv4c.models.deepseek_v4.config import parse_config
from dsv4c.passes.base import run_passes
from dsv4c.pipeline import largest_step, pipeline
from dsv4c.report.provenance import Provenance
from dsv4c.report.subject import Subject, open_subject

FIRST_OUTPUT, MEMORY = 1.5, 1 << 30
# A process inherits the peak memory of the one that starts it: a small one must be in between.
MEASURED = """
import os, sys
_, status, used = os.wait4(os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ), 0)
seconds = used.ru_utime + used.ru_stime
print(os.waitstatus_to_exitcode(status), used.ru_maxrss * 1024, seconds, file=sys.stderr)
"""


@pytest.fixture(scope="module")
def pro(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def get(target: str) -> Path:
        if target not in made:
            made[target] = bare.write_bare_plan(tmp_path_factory.mktemp("pro") / target, target)
        return made[target]

    return get


@pytest.fixture(scope="module")
def subject(pro: Callable[[str], Path]) -> Subject:
    return open_subject(pro("sm_90a"), "cpu")


def test_every_node_has_an_origin(subject: Subject) -> None:
    built = {node.name for node in parse(subject.snapshots()[0].text).nodes}
    index = Provenance(subject.graph)
    assert len(subject.graph.nodes) > 800
    for node in subject.graph.nodes:
        origin = index.origin(node)
        assert set(origin["built"]) <= built, node.name
        assert origin["built"], node.name
        assert origin["tensors"] or origin["inputs"] or origin["layers"], node.name


def test_every_kernel_leads_to_nodes_tensors_and_a_rule(subject: Subject) -> None:
    from dsv4c.report.explain import Explainer

    explainer = Explainer(subject)
    assert len({subject.kernels[name].kind for name in subject.kernels}) > 10
    for name in subject.kernels:
        made = explainer.explain(name)
        assert made["kind"] == "kernel"
        assert made["nodes"]
        assert made["built"]
        assert {one["rule"][:5] for one in made["rules"]} <= {"fuse_", "lower", "merge"}
        assert "lower" in {one["rule"] for one in made["rules"]}
    tensors = {
        tensor
        for name in subject.kernels
        for made in [explainer.explain(name)]
        if made["kind"] == "kernel"
        for tensor in made["tensors"]
    }
    assert f"layers.{60}.attn.wo_a.weight" in tensors


def test_every_place_and_weight_leads_to_nodes(subject: Subject) -> None:
    assert subject.manifest is not None
    index, graph = Provenance(subject.graph), subject.graph
    for offset in {offset for node in graph.nodes for offset in node.offsets if offset >= 0}:
        stays = index.stays(offset)
        assert all(stay.node in graph.producers for stay in stays)
        assert stays, offset
    for weight in graph.weights:
        assert graph.sources[weight], weight
        assert index.users(weight), weight
        assert all(index.weight_of(tensor) == weight for tensor in graph.sources[weight])
    for state in graph.states:
        versions = index.versions(state)
        assert list(versions)[-1] in graph.outputs
        assert None not in list(versions.values())[1:]


@pytest.mark.parametrize("target", ["cpu", "sm_90a"])
@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "{}"],
        ["inspect", "{}", "passes"],
        ["inspect", "{}", "kernels"],
        ["inspect", "{}", "ir", "--layer", "3"],
        ["explain", "{}", "L3.attn.o"],
        ["explain", "{}", "L5.attn.angles"],
        ["explain", "{}", "layers.60.ffn.experts.w1"],
    ],
)
def test_looking_is_quick_and_small(
    pro: Callable[[str], Path], target: str, words: list[str]
) -> None:
    command = [sys.executable, "-m", "dsv4c", *(word.format(pro(target)) for word in words)]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *command], capture_output=True, text=True, check=True
    )
    status, peak, seconds = done.stderr.split()[-3:]
    assert done.stdout
    assert int(status) == 0
    assert int(peak) < MEMORY
    # Processor time: the wall clock of a machine that others use says nothing.
    assert float(seconds) < FIRST_OUTPUT


def peak_memory() -> int:
    """Bytes that this process has had resident at most since the peak was last reset."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def test_build_and_passes_of_both_targets_take_at_most_5_seconds() -> None:
    config, options = parse_config(bare.PRO), BuildOptions()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, begin = peak_memory(), time.process_time()
    for target in ("cpu", "sm_90a"):
        graph = bare.build(config, options)
        run_passes(graph, pipeline(target, largest_step(options.chunk)))
    assert time.process_time() - begin < 5
    assert peak_memory() - before < MEMORY
