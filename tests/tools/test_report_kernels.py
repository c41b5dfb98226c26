"""tools/report_kernels.py: its parsers, and the properties of the kernels that it verifies.

The verified kernels are those for sm_90, from the built library if it contains them (as it does on
a machine without a GPU), else compiled for the test.
"""

import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import report_kernels
from helpers.paths import ROOT, TOOLS
from kernel_report import build, command, disassembly
from kernel_report.contracts import CONTRACTS, WIDE, Contract, contract_of
from kernel_report.control_flow import ControlFlow
from kernel_report.disassembly import (
    SIZES,
    Kernel,
    disassemble,
    parse_instruction,
    parse_kernels,
)
from kernel_report.gpus import GPUS
from kernel_report.roofline import row_of, work_of

from sprout_fast.errors import UserError

TOOL = TOOLS / "report_kernels.py"
H100 = GPUS["sm_90"]

# sm_90 code from nvcc 13.0 for `while (v.x < least) v.x *= v.y;` on each of a thread's float4.
SASS = """
		Function : _ZN11sprout_fast16double_up_kernelI13__nv_bfloat16fEEvP6float4if
        /*0000*/                   LDC R1, c[0x0][0x28] ;               /* 0x00000a00ff017 */
                                                                        /* 0x000ff00000000 */
        /*0010*/                   S2R R0, SR_TID.X ;
        /*0020*/                   S2UR UR4, SR_CTAID.X ;
        /*0030*/                   LDC R9, c[0x0][RZ] ;
        /*0040*/                   IMAD R0, R9, UR4, R0 ;
        /*0050*/                   ULDC UR4, c[0x0][0x218] ;
        /*0060*/                   ISETP.GE.AND P0, PT, R0, UR4, PT ;
        /*0070*/               @P0 EXIT ;
        /*0080*/                   LDC.64 R12, c[0x0][0x208] ;
        /*0090*/                   LDC.64 R2, c[0x0][0x210] ;
        /*00a0*/                   R2UR UR4, R12 ;
        /*00b0*/                   R2UR UR5, R13 ;
        /*00c0*/                   LDC R11, c[0x0][0x21c] ;
        /*00d0*/                   IMAD.WIDE R2, R0, 0x10, R2 ;
        /*00e0*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*00f0*/                   BSSY B0, 0x160 ;
        /*0100*/                   FSETP.GEU.AND P0, PT, R4, R11, PT ;
        /*0110*/               @P0 BRA 0x150 ;
        /*0120*/                   FMUL R4, R5, R4 ;
        /*0130*/                   FSETP.GEU.AND P0, PT, R4, R11, PT ;
        /*0140*/              @!P0 BRA 0x120 ;
        /*0150*/                   BSYNC B0 ;
        /*0160*/                   R2UR UR4, R12 ;
        /*0170*/                   R2UR UR5, R13 ;
        /*0180*/                   STG.E.128 desc[UR4][R2.64], R4 ;
        /*0190*/                   ULDC UR4, c[0x0][0xc] ;
        /*01a0*/                   IMAD R0, R9, UR4, R0 ;
        /*01b0*/                   ULDC UR4, c[0x0][0x218] ;
        /*01c0*/                   ISETP.GE.AND P0, PT, R0, UR4, PT ;
        /*01d0*/              @!P0 BRA 0x90 ;
        /*01e0*/                   EXIT ;
        /*01f0*/                   BRA 0x1f0;
        /*0200*/                   NOP;
"""
RESOURCES = """
Resource usage:
 Common:
  GLOBAL:0
 Function _ZN11sprout_fast16double_up_kernelI13__nv_bfloat16fEEvP6float4if:
  REG:16 STACK:8 SHARED:1056 LOCAL:4 CONSTANT[0]:544 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
ELF = """
.nv.info._ZN11sprout_fast16double_up_kernelI13__nv_bfloat16fEEvP6float4if
	<0x8>
	Attribute:	EIATTR_MAX_THREADS
	Format:	EIFMT_SVAL
	Value:	0x40 0x2 0x1 
	<0x9>
"""  # noqa: W291 - as printed by cuobjdump


@pytest.fixture
def parsed():
    (kernel,) = parse_kernels(SASS, RESOURCES, ELF)
    return kernel


def code(*lines):
    """Parse lines of SASS as instructions 16 bytes apart."""
    return [
        parse_instruction(f"        /*{16 * i:04x}*/  {line} ;") for i, line in enumerate(lines)
    ]


def test_parses_resources(parsed):
    assert parsed.name == "double_up<bf16, fp32>"
    assert (parsed.registers, parsed.stack, parsed.shared, parsed.local) == (16, 8, 1056, 4)
    assert parsed.threads == 128
    assert len(parsed.code) == 33 and parsed.code[-1].opcode == "NOP"
    row = row_of(parsed, H100)
    assert row.loads == {128: 1} and row.stores == {128: 1}
    assert row.shared == 32 and row.stack == 12 and row.occupancy == 1.0


@pytest.mark.parametrize(
    "line, width",
    [
        ("LDG.E.U8 R2, desc[UR4][R2.64]", 1),
        ("@P0 LDG.E.U16.CONSTANT R2, desc[UR4][R2.64]", 2),
        ("LDG.E R2, desc[UR4][R2.64+-0x4]", 4),
        ("@!P1 STG.E.64 desc[UR4][R2.64], R4", 8),
        ("STG.E.128.STRONG.GPU [R8.64+0x30], R32", 16),
        ("LDG.E.ENL2.256 R4, R8, desc[UR4][R2.64]", 32),
        ("LDS.128 R4, [R2]", 0),
        ("LDL.64 R4, [R1]", 0),
    ],
)
def test_access_width(line, width):
    assert code(line)[0].global_bytes == width


def test_loops_and_paths(parsed):
    flow = ControlFlow(parsed.code)
    outer, inner = sorted(flow.loops, key=lambda loop: -len(loop.blocks))
    assert inner.blocks < outer.blocks and len(inner.blocks) == 1
    work = work_of(parsed, Contract(moved=8))
    # One iteration: 0x90 to 0x1d0 with one iteration of the inner loop; four elements of 8 bytes.
    assert (work.elements, work.instructions, work.once) == (4, 21 / 4, 10)
    # The inner loop once per element: 3 more iterations of 3 instructions.
    assert work_of(parsed, Contract(moved=8, samples=True)).instructions == (21 + 9) / 4
    assert work_of(parsed, Contract(moved=8, iterations=2)).instructions == (21 + 10 / 2) / 4


def test_path_prefers_wide_accesses_to_length():
    flow = ControlFlow(
        code(
            "@P0 BRA 0x40",
            "LDG.E R2, [R2.64]",
            "FADD R2, R2, R2",
            "BRA 0x50",
            "LDG.E.128 R4, [R2.64]",
            "EXIT",
            "BRA 0x60",
        )  # fmt: skip
    )
    wide = [sum(i.global_bytes for i in b if i.global_bytes >= WIDE) for b in flow.blocks]
    _, (moved, length) = flow.best_path(None, lambda b: (wide[b], len(flow.blocks[b])))
    assert (moved, length) == (16, 3)


def test_other_forms_of_branches():
    # sm_80 exits a loop by a conditional CALL; a condition may be an operand of the branch; a
    # diverged warp's path and a subroutine are not followed.
    flow = ControlFlow(
        code(
            "FADD R2, R2, R2",
            "@P1 CALL.REL.NOINC 0x30",
            "BRA 0x0",
            "BRA.DIV UR4, 0x80",
            "@P0 BRA P2, 0x0",
            "CALL.REL.NOINC 0x70",
            "EXIT",
            "RET.REL.NODEC R4 0x0",
            "BRA 0x30",
        )  # fmt: skip
    )
    reached = {i.address for block in flow.order for i in flow.blocks[block]}
    assert reached == {0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60}
    assert len(flow.loops) == 1
    with pytest.raises(NotImplementedError, match="indirect branch"):
        ControlFlow(code("BRX R2 -0x30", "EXIT"))


@pytest.mark.parametrize(
    "arch, registers, shared, threads, expected",
    [
        ("sm_90", 32, 0, 256, 1.0),
        ("sm_90", 33, 0, 256, 48 / 64),  # allocated as 40 registers: six blocks
        ("sm_90", 32, 100 * 1024, 256, 16 / 64),  # shared memory for two blocks
        ("sm_80", 32, 80 * 1024, 256, 16 / 64),  # 81 KiB including the reserved 1 KiB
        ("sm_80", 255, 0, 32, 8 / 64),
        ("sm_80", 16, 0, 32, 32 / 64),  # limited by the number of blocks
        ("sm_120", 16, 0, 32, 24 / 48),
    ],
)
def test_occupancy(arch, registers, shared, threads, expected):
    assert GPUS[arch].occupancy(registers, shared, threads) == expected


def test_h100_peak_matches_the_datasheet():
    assert 2 * H100.issue_rate == pytest.approx(67e12, rel=0.01)  # an FMA counts as two operations


# Properties of the compiled kernels


@pytest.fixture(scope="module")
def kernels() -> list[Kernel]:
    try:
        return disassemble(build.compiled_files("sm_90"), "sm_90")
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def single(kernels):
    """Kernels without float64."""
    return [kernel for kernel in kernels if not kernel.computes_in_double]


def test_every_op_has_its_kernels(kernels):
    sources = (ROOT / "csrc" / "ops" / "cuda").glob("*_kernel.cuh")
    declared = re.findall(r"\n\s*(?:__launch_bounds__\([^)]*\)\s+)?(\w+)_kernel\(const", "".join(
        file.read_text() for file in sources
    ))  # fmt: skip
    assert {kernel.op for kernel in kernels} >= set(declared) and len(declared) > 10


def test_no_spills_and_no_local_memory(kernels):
    misses = [k.name for k in kernels if k.stack or k.local or k.local_accesses]
    assert not misses


# Elements that a thread processes at a time, by the sizes of the first two types: what the sources
# call k...Elements. For ops not listed here, kPacket of the first type.
PACKETS = {
    "gaussian_mixup": lambda images, out: 16,
    "gaussian_mixup_planes": lambda images, out: 48 // out,
    "gaussian_mixup_pixels": lambda images, out: 48 // out,
    "gaussian_mixup_backward": lambda grad, images: 8,
    "generalized_cross_entropy": lambda logits, target: 8,
    "generalized_cross_entropy_backward": lambda logits, target: 8,
    "pgd_step": lambda x, grad: 16 // max(x, grad),
}


@pytest.mark.parametrize("op", sorted(CONTRACTS.keys() - {"gaussian_mixup_strided"}))
def test_128_bit_accesses_of_aligned_data(single, op):
    """All accesses are as wide as the contract says; otherwise there would be fewer elements.

    They are 128 bits wide, and narrower only for a type that is narrower than another one, or for
    the four pixels of a plane.
    """
    found = [kernel for kernel in single if kernel.op == op]
    assert found
    for kernel in found:
        contract = contract_of(kernel)
        work = work_of(kernel, contract)
        assert work is not None, kernel.name
        sizes = [SIZES[name] for name in kernel.arguments if name in SIZES][:2]
        packet = PACKETS[op](*sizes) if op in PACKETS else 8 if sizes[0] == 2 else 4
        assert work.elements == packet, f"{kernel.name}: {work.elements} elements per iteration"
        assert WIDE in (contract.load, contract.store)
        if op in ("gaussian_mixup", "gaussian_mixup_planes"):
            assert work.loaded == contract.moved - contract.stored, kernel.name


# Of losses, a thread has eight elements of every type, of rows that are in the L2 cache.
HALF_SECTORS = {
    "gaussian_mixup_strided",
    "generalized_cross_entropy",
    "generalized_cross_entropy_backward",
    "sprout_loss_rows",
    "sprout_loss_grad",
}


@pytest.mark.parametrize("op", sorted(CONTRACTS.keys() - HALF_SECTORS))
def test_requests_fill_sectors(single, op):
    rows = [row_of(kernel, H100) for kernel in single if kernel.op == op]
    assert rows
    for row in rows:
        # The meter adds to its sums by atomics, and stores nothing else.
        assert row.store_sectors == (None if op == "meter_step" else 1), row.kernel
        assert row.load_sectors in (1, None), row.kernel


@pytest.mark.parametrize(
    "lines, loads, stores",
    [
        # The two halves of a thread's 32 bytes; the same 512 bytes apart, next to other lanes'.
        (["LDG.E.128 R4, [R2.64]", "LDG.E.128 R8, [R2.64+0x10]"], 2, None),
        (["LDG.E.128 R4, [R2.64]", "LDG.E.128 R8, [R2.64+0x200]"], 1, None),
        (["STG.E.128 [R2.64+-0x10], R4", "STG.E.128 [R2.64], R8"], None, 2),
        # The register has changed between them.
        (["STG.E.128 [R2.64], R4", "IADD3 R2, R2, R5, RZ", "STG.E.128 [R2.64+0x10], R8"], None, 1),
        (["LDG.E.128 R4, desc[UR4][R2.64]", "STG.E.128 desc[UR4][R2.64+0x10], R4"], 1, 1),
    ],
)
def test_sectors(parsed, lines, loads, stores):
    work = work_of(replace(parsed, code=tuple(code(*lines, "EXIT"))), Contract(moved=4))
    assert (work.load_sectors, work.store_sectors) == (loads, stores)


def test_special_functions_and_conversions(parsed):
    lines = [
        "LDG.E.128 R4, [R2.64]", "I2F.U32 R5, R4", "MUFU.LG2 R5, R5", "I2FP.F32.U32 R6, R4", "EXIT",
    ]  # fmt: skip
    kernel = replace(parsed, symbol="log_gamma_kernel<float>", code=tuple(code(*lines)))
    row = row_of(kernel, GPUS["sm_80"])
    assert row.elements_per_iteration == 2
    assert row.special_ps == pytest.approx(1e12 * (2 / 2) / (108 * 16 * 1.41e9))


@pytest.fixture(scope="module", params=["sm_80", "sm_90"])
def mixups(request):
    """gaussian_mixup's rows for an architecture, from the library if it has its kernels."""
    try:
        files = build.compiled_files(request.param, "gaussian_mixup")
        found = disassemble(files, request.param)
    except UserError as error:
        pytest.skip(str(error))
    return {kernel.name: row_of(kernel, GPUS[request.param]) for kernel in found}


@pytest.mark.parametrize("out", ["bf16", "fp16"])
@pytest.mark.parametrize("kernel", ["gaussian_mixup<{}, fp32>", "gaussian_mixup_planes<{}>"])
def test_gaussian_mixup_uint8_to_16_bits(mixups, kernel, out):
    """It moves 4 bytes per element and is memory bound, from either layout, on A100 and H100."""
    row = mixups[kernel.format(f"uint8, {out}")]
    assert row.bytes_per_element <= 4.1
    assert row.issue_ps < row.memory_ps
    assert row.special_ps < row.memory_ps
    assert not row.stack and not row.local_accesses


def test_gaussian_mixup_uint8_to_float32(mixups):
    for kernel in ("gaussian_mixup<uint8, fp32, fp32>", "gaussian_mixup_planes<uint8, fp32>"):
        assert mixups[kernel].issue_ps < mixups[kernel].memory_ps


def test_gaussian_mixup_of_any_layout(mixups):
    """Less than half of the instructions of the kernel that does not depend on three channels."""
    any_layout = mixups["gaussian_mixup_pixels<uint8, bf16>"].instructions_per_element
    assert (
        any_layout
        < mixups["gaussian_mixup_strided<uint8, bf16, fp32>"].instructions_per_element / 2
    )


def test_iterations_match_the_source():
    text = (ROOT / "csrc" / "ops" / "cuda" / "gaussian_mixup_kernel.cuh").read_text()
    iterations = int(re.search(r"kMixupIterations = (\d+)", text)[1])
    assert CONTRACTS["gaussian_mixup"]("uint8", "bf16", "fp32").iterations == iterations


# The command line


@pytest.fixture
def report(capsys, kernels, monkeypatch):
    """Run the program in this process, on the kernels already disassembled."""
    monkeypatch.setattr(command, "compiled_files", lambda arch: [])
    monkeypatch.setattr(command, "disassemble", lambda files, arch: kernels)

    def run(*arguments):
        status = report_kernels.main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return run


def test_prints_a_row_for_every_kernel(report, kernels):
    status, out, _ = report("--arch", "sm_90")
    assert status == 0 and "roofline of H100" in out
    assert all(kernel.name in out for kernel in kernels)


def test_json_and_selection(report, tmp_path):
    file = tmp_path / "kernels.json"
    status, out, _ = report("--only", "^pgd_step<fp32, bf16", "--json", file)
    assert status == 0 and "sample_mixup" not in out
    (row,) = json.loads(file.read_text())["sm_90"]
    assert row["kernel"] == "pgd_step<fp32, bf16, fp32>" and row["bytes_per_element"] == 14


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--arch", "sm_70"], "--arch sm_70: .*sm_100, sm_120, sm_80, sm_86, sm_89, sm_90"),
        (["--only", "("], r"--only \(: not a valid regular expression"),
        (["--only", "softmax"], "--only softmax: matches no kernel"),
        (["--arhc", "sm_90"], r"unknown option --arhc; did you mean --arch\?"),
    ],
)
def test_usage_errors_are_one_line(report, arguments, message):
    status, _, err = report(*arguments)
    assert status == 2
    assert re.fullmatch(f"report_kernels.py: error: {message}.*\n", err)


def test_without_a_disassembler(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(disassembly, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="install the CUDA toolkit or the package triton"):
        disassembly.cuobjdump()


def test_without_a_compiler(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "LIBRARY", tmp_path / "none.so")
    monkeypatch.delenv("CUDACXX", raising=False)
    monkeypatch.setattr(build.shutil, "which", lambda name, path=None: None)
    with pytest.raises(
        UserError, match="nvcc to compile it was not found; install the CUDA toolkit"
    ):
        build.compiled_files("sm_80")


def test_as_a_command():
    done = subprocess.run(
        [sys.executable, TOOL, "--arch", "h100"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert re.fullmatch(
        "report_kernels.py: error: --arch h100: .*sm_100, sm_120, sm_80, sm_86, sm_89, sm_90\n",
        done.stderr,
    )
