"""The compiler itself, on a small kernel: everything here compiles, so everything is slow."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dsv4c.codegen import worker
from dsv4c.codegen.build import build_kernels
from dsv4c.codegen.cache import CacheEntry, KernelCache
from dsv4c.codegen.kernel import KernelSource
from dsv4c.codegen.link import link_library
from dsv4c.codegen.resources import Resources, read_resources
from dsv4c.errors import DsvError
from dsv4c.runtime.kernels import KernelLibrary

pytestmark = pytest.mark.slow
MakeSource = Callable[..., KernelSource]


def archs(make_source: MakeSource) -> list[KernelSource]:
    return [make_source(f"reverse_{arch}", arch) for arch in ("sm_90a", "sm_100a")]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> KernelCache:
    return KernelCache(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def built(cache: KernelCache, make_source: MakeSource) -> list[CacheEntry]:
    return build_kernels(archs(make_source), cache=cache)


def test_compiles_for_both_archs_without_a_gpu(built: list[CacheEntry]) -> None:
    assert [entry.arch for entry in built] == ["sm_90a", "sm_100a"]
    for entry in built:
        assert entry.object.read_bytes()[:4] == b"\x7fELF"
        assert entry.resources.smem == 1024
        assert 0 < entry.resources.registers <= 32
        assert entry.resources.spills == 0


@pytest.mark.usefixtures("built")
def test_a_warm_build_compiles_nothing(cache: KernelCache, make_source: MakeSource) -> None:
    seen: list[str] = []
    entries = build_kernels(
        archs(make_source),
        cache=cache,
        frozen=True,
        progress=lambda name, status, seconds: seen.append(f"{name} {status}"),
    )
    assert seen == ["reverse_sm_90a cached", "reverse_sm_100a cached"]
    assert not any(entry.fresh for entry in entries)
    assert "cutlass" not in sys.modules


def test_a_frozen_build_does_not_compile(tmp_path: Path, make_source: MakeSource) -> None:
    with pytest.raises(DsvError, match="DSV401") as raised:
        build_kernels([make_source()], cache=KernelCache(tmp_path), frozen=True)
    assert raised.value.where == "reverse_256"
    assert not list(tmp_path.iterdir())


def test_one_bad_kernel_does_not_keep_the_others_from_being_compiled(
    tmp_path: Path, make_source: MakeSource
) -> None:
    cache = KernelCache(tmp_path)
    good = make_source("good")
    bad = make_source("bad", old="buffer[255 - t]", new="buffer[255 - no_such_name]")
    crash = make_source("crash", old="rows = cute", new="import os; os.abort(); rows = cute")
    with pytest.raises(DsvError, match="DSV401") as raised:
        build_kernels([bad, good, crash], cache=cache)
    text = str(raised.value)
    assert "\x1b" not in text
    assert "SIGABRT" in text or "no_such_name" in text
    assert "bad" in raised.value.what
    assert "crash" in raised.value.what
    assert (tmp_path / "failed" / "bad.py").read_text(encoding="utf-8") == bad.body
    assert build_kernels([good], cache=cache, frozen=True)[0].name == "good"
    with pytest.raises(DsvError, match="ended by SIGABRT"):
        build_kernels([crash], cache=cache)


def test_too_much_shared_memory_is_an_error(tmp_path: Path, make_source: MakeSource) -> None:
    source = make_source(old="SLOTS = 256", new="SLOTS = 65536")
    with pytest.raises(DsvError, match="262144 bytes of shared memory"):
        build_kernels([source], cache=KernelCache(tmp_path))


def test_two_processes_build_the_same_kernels(tmp_path: Path, make_source: MakeSource) -> None:
    script = tmp_path / "build.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from dsv4c.codegen.build import build_kernels\n"
        "from dsv4c.codegen.cache import KernelCache\n"
        "from dsv4c.codegen.kernel import KernelSource\n"
        f"sources = [KernelSource(n, 'k', 'sm_90a', '', {make_source().body!r}, {{}})"
        " for n in 'ab']\n"
        "built = build_kernels(sources, cache=KernelCache(Path(sys.argv[1])), workers=2)\n"
        "print(sum(entry.fresh for entry in built))\n",
        encoding="utf-8",
    )
    command = [sys.executable, str(script), str(tmp_path / "cache")]
    runs = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outcomes = [run.communicate(timeout=200) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outcomes
    assert sum(int(out) for out, _ in outcomes) == 2
    folders = [path.name for path in (tmp_path / "cache" / "kernels").iterdir()]
    assert sorted(name.split("__")[0] for name in folders) == ["a", "b"]


def test_links_into_a_library_whose_functions_check_their_arguments(
    built: list[CacheEntry], tmp_path: Path
) -> None:
    import torch

    path = tmp_path / "libplan.so"
    link_library([entry.object for entry in built], path)
    library = KernelLibrary(path, ["reverse_sm_90a", "reverse_sm_100a"])
    assert library.names == ("reverse_sm_90a", "reverse_sm_100a")
    x = torch.zeros(3, 256, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="device_type=cuda"):
        library["reverse_sm_90a"](x, x)
    with pytest.raises(DsvError, match="DSV604") as raised:
        KernelLibrary(path, ["no_such_kernel"])
    assert raised.value.expected == "no_such_kernel"
    again = tmp_path / "again.so"
    link_library([entry.object for entry in reversed(built)], again)
    assert again.read_bytes() == path.read_bytes()


def test_resources_of_what_is_no_cubin() -> None:
    for data in (b"", b"\x7fELF\x01\x01" + bytes(64), b"no ELF file at all" * 8):
        with pytest.raises(ValueError, match="ELF"):
            read_resources(data, "")


def test_resources_are_those_of_the_cubin(built: list[CacheEntry]) -> None:
    cubin = (built[0].folder / "kernel.cubin").read_bytes()
    found = read_resources(cubin, "")
    assert found == Resources(built[0].resources.registers, 0, 0)


def test_compiler_text_is_cleaned() -> None:
    text = "\x1b[91merror\x1b[0m: x   \n\n\n" + "\n".join(f"line {i}" for i in range(60))
    lines = worker.clean(text).splitlines()
    assert lines[0] == "line 20"
    assert worker.clean("\x1b[91merror\x1b[0m: x   \n\n") == "error: x"
