"""The shape of the repository: links, file lengths, which part may import which."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "dsv4c"
MAX_LINES = 450

# What the modules below a folder may import of dsv4c; `dsv4c.errors` is free to all, and the
# reader of config.json opens it as a file that nobody has vouched for.
MAY_IMPORT = {
    "ir": ("dsv4c.ir",),
    "passes": ("dsv4c.ir", "dsv4c.passes"),
    "models": ("dsv4c.ir", "dsv4c.models", "dsv4c.untrusted"),
    "templates": ("dsv4c.templates",),
}
LIGHT = ("dsv4c", "dsv4c.errors", "dsv4c.settings", "dsv4c.events", "dsv4c.hardware")


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(path: Path, *, at_load: bool = False) -> Iterator[str]:
    """Modules that a file imports; with `at_load`, only those that loading the file imports."""
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield str(node.module)
        deferred = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
            isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        )
        if not (at_load and deferred):
            pending.extend(ast.iter_child_nodes(node))


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@pytest.mark.parametrize("name", ["ir", "passes", "templates", "models"])
def test_top_level_names_link_into_the_package(name: str) -> None:
    link = ROOT / name
    assert link.is_symlink()
    assert link.readlink() == Path("dsv4c") / name
    assert (link / "__init__.py").is_file()


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_import_rules(folder: str) -> None:
    allowed = ("dsv4c.errors", *MAY_IMPORT[folder])
    files = sorted((PACKAGE / folder).rglob("*.py"))
    assert files
    broken = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in files
        for module in imports(path)
        if within(module, "dsv4c") and not any(within(module, package) for package in allowed)
    ]
    assert broken == []


def test_light_modules_load_only_the_standard_library_and_each_other() -> None:
    allowed = {*sys.stdlib_module_names}
    for name in LIGHT:
        path = PACKAGE.joinpath(*name.split(".")[1:])
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        heavy = [
            module
            for module in imports(path, at_load=True)
            if module.split(".")[0] not in allowed and module not in LIGHT
        ]
        assert heavy == [], name


def test_every_third_party_import_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["compile"]]
    declared = {re.split(r"[<>=\[]", line)[0] for line in wanted}
    provided = {"apache-tvm-ffi": {"tvm_ffi"}, "nvidia-cutlass-dsl": {"cutlass", "cuda"}}
    modules = {module for name in declared for module in provided.get(name, {name})}
    found = {module.split(".")[0] for path in sources() for module in imports(path)}
    assert found - {*sys.stdlib_module_names, "dsv4c"} <= modules


def test_no_file_is_long() -> None:
    files = [*sources(), *(ROOT / "tests").rglob("*.py"), *PACKAGE.rglob("*.jinja")]
    long = {
        str(path.relative_to(ROOT)): lines
        for path in files
        if "golden" not in path.parts
        and (lines := len(path.read_text(encoding="utf-8").splitlines())) > MAX_LINES
    }
    assert long == {}


def test_every_package_folder_is_a_package() -> None:
    folders = {path.parent for path in sources()}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


@pytest.mark.slow
def test_a_wheel_holds_the_package_and_its_templates_only(tmp_path: Path) -> None:
    copy = tmp_path / "source"
    copy.mkdir()
    tracked = ["dsv4c", "pyproject.toml", "README.md", "ir", "passes", "templates", "models"]
    present = [name for name in tracked if (ROOT / name).exists()]
    subprocess.run(["cp", "-a", *(str(ROOT / name) for name in present), copy], check=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(tmp_path), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"dsv4c", "dsv4c-0.1.0.dist-info"}
    inside = {name for name in names if name.startswith("dsv4c/")}
    wanted = {
        str(path.relative_to(ROOT))
        for pattern in ("*.py", "*.jinja", "py.typed", "assets/*", "data/*.json")
        for path in PACKAGE.rglob(pattern)
    }
    assert wanted <= inside
