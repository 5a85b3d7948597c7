"""The CUDA sources compile for every architecture, within the registers that keep its multiprocessors full."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from shortlist.errors import install_hint
from shortlist.kernels.gpu import options
from shortlist.kernels.nvidia import CompileError, headers, machine_code
from shortlist.kernels.occupancy import ARCHITECTURES, Resources, compile_source, occupancy, read_report
from shortlist.kernels.report import ENOUGH, VARIANTS, Variant, compiled, main

SPILLS = """
extern "C" __global__ void __launch_bounds__(1024) k(float* p) {
    float x[200];
    for (int i = 0; i < 200; i++) x[i] = p[i * 1024 + threadIdx.x];
    for (int j = 0; j < 3; j++) {
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 200; i++) x[i] = x[i] * x[(i + 7) % 200] + p[i];
    }
    for (int i = 0; i < 200; i++) p[i * 1024 + threadIdx.x] = x[i];
}
"""


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: f"{variant.kernel}-{variant.label}".replace(" ", "-"))
def test_compiles_without_spills_and_fills_the_multiprocessor_or_says_why_not(
    variant: Variant, architecture: str
) -> None:
    found = compiled(variant, architecture)
    assert not found["spilled"]
    assert found["occupancy"] >= ENOUGH or found["reason"]


def test_all_kernels_are_compiled() -> None:
    sources = {path.stem for path in Path(__file__).parents[2].glob("kernels/*/*.cu")}
    assert {variant.kernel for variant in VARIANTS} == sources


def test_spills_are_seen(tmp_path: Path) -> None:
    source = tmp_path / "spills.cu"
    source.write_text(SPILLS)
    assert compile_source(source, (), "sm_90").spilled > 0


def test_an_error_names_the_source_and_carries_the_log(tmp_path: Path) -> None:
    source = tmp_path / "wrong.cu"
    source.write_text('extern "C" __global__ void k() { nonsense; }')
    with pytest.raises(CompileError, match=r'wrong\.cu(.|\n)*"nonsense" is undefined'):
        compile_source(source, (), "sm_89")


def test_resources_are_read_from_the_report() -> None:
    report = """ptxas info    : Function properties for k
ptxas         .     16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 4928 bytes smem, 404 bytes cmem[0]"""
    assert read_report(report, 100) == Resources(registers=40, shared=5028, spilled=20)


@pytest.mark.parametrize(
    ("architecture", "threads", "registers", "shared", "fraction", "limit"),
    [
        ("sm_90", 256, 32, 0, 1.0, "threads"),
        ("sm_90", 256, 40, 0, 0.75, "registers"),
        ("sm_80", 128, 64, 0, 0.5, "registers"),
        ("sm_89", 128, 32, 20_000, 4 * 4 / 48, "shared memory"),
        ("sm_90", 32, 32, 0, 0.5, "blocks"),
        ("sm_120", 1024, 32, 0, 32 / 48, "threads"),
    ],
)
def test_occupancy_is_that_of_the_scarcest_resource(
    architecture: str, threads: int, registers: int, shared: int, fraction: float, limit: str
) -> None:
    found = occupancy(ARCHITECTURES[architecture], threads, Resources(registers, shared, 0))
    assert (found.fraction, found.limited_by) == (pytest.approx(fraction), limit)


@pytest.mark.parametrize("flag", ["-ftz=true", "-fmad=true", "-prec-div=false", "-prec-sqrt=false"])
def test_arithmetic_is_exact(flag: str, tmp_path: Path) -> None:
    source = tmp_path / "k.cu"
    source.write_text('extern "C" __global__ void k(float* x) { x[0] = x[1] * x[2] + x[3] / sqrtf(x[4]); }')
    exact, loose = (machine_code(source, (*options(), *more), "sm_90")[0] for more in ((), (flag,)))
    assert exact != loose


def test_the_same_source_gives_the_same_code(tmp_path: Path) -> None:
    source = tmp_path / "k.cu"
    source.write_text('extern "C" __global__ void k(float* x) { x[0] = x[1] * x[2]; }')
    plain, repeated = (machine_code(source, (*options(), *more), "sm_90")[0] for more in ((), ("-ftz=false",)))
    assert plain == repeated


def test_missing_packages_are_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=re.escape(install_hint("cuda"))):
        headers()


def test_the_report_is_one_table_of_kernels_and_one_of_floors(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shortlist.kernels.report.VARIANTS", VARIANTS[:1])
    assert main([]) == 0
    kernels, floors = capsys.readouterr().out.split("\n\n")
    assert len(kernels.splitlines()) == 2 + len(ARCHITECTURES)
    assert floors.startswith("| job")
