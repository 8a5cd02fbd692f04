"""What a run refuses, and which layers it takes; on machines without a GPU, nothing is timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

import dsv4c
from dsv4c import cli, hardware
from dsv4c.bench import run as module
from dsv4c.bench.peers.compare import Layers
from dsv4c.bench.results import Bench, PeerRow, StepRow, encode
from dsv4c.bench.run import Wanted, compile_config, names_plan, one_of_each, run_bench
from dsv4c.errors import DsvError
from dsv4c.models.deepseek_v4.config import parse_config
from dsv4c.models.deepseek_v4.released import read_config
from dsv4c.plan.manifest import Kernel
from dsv4c.plan.plan import Plan


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    import small

    folder = tmp_path_factory.mktemp("small")
    return dsv4c.compile(small.write_small(folder / "model"), folder / "plan")


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "gpus", lambda: ())


def call(*words: str) -> Result:
    return CliRunner().invoke(cli.main, words, prog_name="dsv4c")


def test_a_cpu_plan_has_no_kernels(plan: Plan) -> None:
    with pytest.raises(DsvError, match="DSV601: bench times kernels") as caught:
        run_bench(plan, Wanted([1], 128))
    assert caught.value.where == str(plan.path)
    result = call("bench", str(plan.path))
    assert (result.exit_code, result.stdout) == (7, "")
    assert result.stderr.startswith("DSV601: bench times kernels, and a cpu plan has none\n")


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("config", ["flash", "pro"])
def test_a_config_without_a_gpu(config: str, tmp_path: Path) -> None:
    with pytest.raises(DsvError, match="DSV601: bench needs a GPU"):
        compile_config(config, tmp_path / "plan")
    result = call("bench", config)
    assert (result.exit_code, result.stdout) == (7, "")
    assert "expected: a GPU of sm_90a or sm_100a\n  found:    no GPU\n" in result.stderr
    command = f"dsv4c compile {config} --synthetic --layers"
    assert f"hint:     {command} 0,2" in result.stderr
    assert "--target sm_90a -o PLAN here, dsv4c bench PLAN on it\n" in result.stderr


@pytest.mark.usefixtures("no_gpu")
def test_a_plan_without_a_gpu(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(plan, "target", "sm_90a")
    with pytest.raises(DsvError, match="DSV601: bench needs a GPU and there is none") as caught:
        run_bench(plan, Wanted([1], 128))
    assert (caught.value.where, caught.value.expected) == (str(plan.path), "a GPU of sm_90a")
    assert caught.value.hint == "copy the folder to a machine with one: no compiler is needed there"


def test_torch_that_cannot_use_the_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hardware, "gpus", lambda: (hardware.Gpu("H100", (9, 0), 80 << 30),))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(DsvError, match="DSV601: bench needs a GPU and there is none") as caught:
        compile_config("flash", tmp_path / "plan")
    assert str(caught.value.found).startswith("H100, which torch ")
    assert caught.value.hint == "install torch with CUDA, see dsv4c env"
    assert not (tmp_path / "plan").exists()


def test_a_config_without_the_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hardware, "gpus", lambda: (hardware.Gpu("H100", (9, 0), 80 << 30),))
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(DsvError, match="DSV401: bench compiles a config") as caught:
        compile_config("flash", tmp_path / "plan")
    command = "dsv4c compile flash --synthetic --layers 0,2,3 --target sm_90a -o PLAN"
    assert caught.value.hint == f"elsewhere: {command}"
    assert caught.value.exit_code == 5


def test_words_that_are_neither(tmp_path: Path) -> None:
    result = call("bench", "nosuch")
    assert result.exit_code == 3
    assert result.stderr.startswith("DSV201: there is no such configuration")
    result = call("bench", str(tmp_path))
    assert result.exit_code == 3
    assert result.stderr.startswith("DSV231: there is no plan here")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sequences", "0"], "'0' is not a list of positive numbers such as 1,8,64"),
        (["--sequences", "1,x"], "'1,x' is not a list of positive numbers"),
        (["--context", "0"], "0 is not in the range x>=1."),
        (["--layers", "1"], "--layers goes with a CONFIG only"),
        (["--peers", "absent"], "Directory 'absent' does not exist."),
    ],
)
def test_usage(plan: Plan, words: list[str], message: str) -> None:
    result = call("bench", str(plan.path), *words)
    assert result.exit_code == 2
    assert message in result.stderr


def test_an_earlier_run_is_read_before_anything_is_timed(tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    old.write_text("{}")
    result = call("bench", "flash", "--compare", str(old))
    assert result.exit_code == 2
    assert result.stderr.startswith("DSV101: the bench result cannot be read")
    assert str(old) in result.stderr


@pytest.mark.parametrize("option", ["--out", "--svg"])
def test_the_place_of_a_file_is_checked_before_anything_is_timed(
    option: str, tmp_path: Path
) -> None:
    result = call("bench", "flash", option, str(tmp_path / "absent" / "x"))
    assert result.exit_code == 7
    assert result.stderr.startswith("DSV603: the file cannot be written")
    assert f"no {tmp_path / 'absent'}" in result.stderr


def test_what_names_a_plan(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a model's folder, and not a released model beside a folder of its name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flash").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    names = [str(plan.path), "empty", "flash", "model", "model/config.json", "nothing"]
    assert [name for name in names if names_plan(name)] == [str(plan.path), "empty"]


@pytest.mark.parametrize(("name", "layers"), [("flash", [0, 2, 3]), ("pro", [0, 2])])
def test_one_layer_of_each_kind(name: str, layers: list[int]) -> None:
    assert one_of_each(parse_config(read_config(name), name)) == layers


def measured(plan: Plan, run: Bench, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Steps that a run asks for, on a machine that is made up."""
    asked: list[tuple[Any, ...]] = []

    def step(plan: Plan, card: object, *sizes: Any) -> StepRow:
        asked.append(sizes)
        return run.steps[len(asked) - 1]

    monkeypatch.setattr(module, "require_gpu", lambda *words: None)
    monkeypatch.setattr(module, "measure_card", lambda: run.card)
    monkeypatch.setattr(module, "measure_step", step)
    monkeypatch.setattr(plan, "target", "sm_90a")
    monkeypatch.setattr(plan, "device", lambda: None)
    return asked


def test_steps_of_a_run(plan: Plan, run: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = measured(plan, run, monkeypatch)
    seen: list[tuple[str, int, int]] = []
    found = run_bench(plan, Wanted([1, 8], 4095, 4096), lambda *one: seen.append(one))
    assert asked == [(1, 4095, 1, "*"), (8, 4095, 1, "*"), (8, 4096, 512, "*")]
    assert found.steps == run.steps
    assert (seen[0], seen[-1]) == (("bench", 0, 4), ("bench", 4, 4))
    with pytest.raises(DsvError, match="DSV101: the tokens of a prefill step"):
        run_bench(plan, Wanted([1], 4095, 1000))


def test_a_glob_that_no_kernel_matches(
    plan: Plan, run: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = measured(plan, run, monkeypatch)
    kernel = Kernel("linears_a", "linears", "sm_90a", {}, "key", [], 168, 0, 0)
    manifest = msgspec.structs.replace(plan.manifest, kernels=[kernel])
    monkeypatch.setattr(plan, "manifest", manifest)
    with pytest.raises(DsvError, match="DSV101: no kernel has such a name"):
        run_bench(plan, Wanted([1], 4095, kernel="moe_*"))
    run_bench(plan, Wanted([1], 4095, kernel="lin*"))
    assert asked == [(1, 4095, 1, "lin*")]


def test_peers_are_given_the_plan(
    plan: Plan, run: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    measured(plan, run, monkeypatch)
    asked: list[tuple[object, ...]] = []

    def compare(*given: object, report: object) -> list[PeerRow]:
        asked.append(given)
        return run.peers or []

    monkeypatch.setattr(module, "compare", compare)
    manifest = msgspec.structs.replace(plan.manifest, library="kernels/library.so")
    monkeypatch.setattr(plan, "manifest", manifest)
    assert run_bench(plan, Wanted([1], 4095)).peers is None
    library = plan.path / "kernels/library.so"
    for sequences, compared in (([8, 1, 64], [1, 64]), ([128, 96], [96]), ([8, 256], [8])):
        run.steps.extend(run.steps)
        wanted = Wanted(sequences, 4095, peers=tmp_path)
        assert run_bench(plan, wanted).peers == run.peers
        assert asked.pop() == (tmp_path, library, Layers(plan.path, compared, 4095))


def test_the_command(
    plan: Plan, run: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    measured(plan, run, monkeypatch)
    monkeypatch.setattr("dsv4c.plan.plan.load_plan", lambda path: plan)
    old, out, svg = tmp_path / "old.json", tmp_path / "out.json", tmp_path / "out.svg"
    old.write_bytes(encode(run))
    files = ["--out", str(out), "--svg", str(svg), "--compare", str(old)]
    sizes = ["--sequences", "1,8", "--prefill", "4096"]
    result = call("bench", str(plan.path), *sizes, *files)
    assert result.exit_code == 0, result.output
    for text in (
        "copy, read + write  3.00 TB/s",
        "decode: sequences 8, tokens before the step 4,095",
        "prefill, 4,096 tokens: sequences 8, of 512 each, tokens before the step 4,095",
        "12.00 (10.80 to 14.40)",
        "overlap saves a launch, us      2.00",
        "topk_entries_c *",
        "* what its calls move in turn fits the L2",
        "beside the earlier run",
    ):
        assert text in result.stdout
    assert out.read_bytes().startswith(b'{\n "schema": "dsv4c.bench/1",')
    assert svg.read_text().startswith("<svg ")
