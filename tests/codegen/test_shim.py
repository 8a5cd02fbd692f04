"""The launch that every kernel of a library goes through, with a driver that only looks at it."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

import dsv4c.codegen

SHIM = Path(dsv4c.codegen.__file__).parent / "native" / "ffi_shim.c"
DRIVER = """
#include "%s"
uint32_t count, ids[4];
void *stream;
const char *cudaGetErrorName(int code) { (void)code; return ""; }
const char *cudaGetErrorString(int code) { (void)code; return ""; }
int __real_cudaLaunchKernelExC(const launch_config *config, const void *kernel, void **arguments) {
  (void)kernel, (void)arguments;
  count = config->count;
  stream = config->stream;
  for (uint32_t i = 0; i < count; i++) ids[i] = config->attributes[i].id;
  return 7;
}
int launch(void) {
  launch_attribute given[3] = {{.id = 4}, {.id = 6}, {.id = 9}};
  launch_config config = {{1, 2, 3}, {4, 5, 6}, 7, &count, given, 3};
  return __wrap_cudaLaunchKernelExC(&config, 0, 0);
}
size_t sizes(int which) { return which ? sizeof(launch_config) : sizeof(launch_attribute); }
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "driver.c").write_text(DRIVER % SHIM)
    made = folder / "driver.so"
    command = [compiler, "-shared", "-fPIC", "-Wall", "-Werror", str(folder / "driver.c")]
    subprocess.run([*command, "-o", str(made)], check=True)
    return ctypes.CDLL(str(made))


def test_structures_are_those_of_the_runtime(driver: ctypes.CDLL) -> None:
    assert [driver.sizes(0), driver.sizes(1)] == [72, 56]


@pytest.mark.parametrize(("value", "kept"), [(None, [4, 6, 9]), ("1", [4, 6, 9]), ("0", [4, 9])])
def test_the_switch_takes_one_attribute_away(
    driver: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch, value: str | None, kept: list[int]
) -> None:
    monkeypatch.delenv("DSV4C_PDL", raising=False)
    if value is not None:
        monkeypatch.setenv("DSV4C_PDL", value)
    assert driver.launch() == 7
    count = ctypes.c_uint32.in_dll(driver, "count").value
    assert list((ctypes.c_uint32 * 4).in_dll(driver, "ids"))[:count] == kept
    assert ctypes.c_void_p.in_dll(driver, "stream").value == ctypes.addressof(
        ctypes.c_uint32.in_dll(driver, "count")
    )
