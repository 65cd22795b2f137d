"""The kernel without an operating system: built where no std can be found, and run as a program of nothing but itself."""

import shutil
import subprocess
from pathlib import Path

from .process import ROOT, Failed, environment, output, run, say, target

TRIPLE = "x86_64-unknown-linux-gnu"
KERNEL = ("simd", "tensor", "graph", "onnx", "safetensors", "gemm", "ops", "compile", "engine")
PROGRAM = ROOT / "examples/bare-metal"


def sysroot():
    """A sysroot with core and alloc, and without std: a dependency that needs std cannot compile against it."""
    real = Path(output("rustc", "--print", "sysroot").strip()) / "lib/rustlib" / TRIPLE / "lib"
    made = target("stdless/sysroot").resolve()
    libraries = made / "lib/rustlib" / TRIPLE / "lib"
    shutil.rmtree(made, ignore_errors=True)
    libraries.mkdir(parents=True)
    for name in ("core", "alloc", "compiler_builtins"):
        found = [f for f in real.glob(f"lib{name}-*") if f.suffix in (".rlib", ".rmeta")]
        if not found:
            raise Failed(f"no {name} in {real}")
        for file in found:
            (libraries / file.name).symlink_to(file)
    return made


def check():
    """Checks the kernel crates, then builds and runs the bare-metal program, all against the sysroot without std."""
    flags = f"--sysroot={sysroot()}"
    # With a target named, these flags do not reach build scripts and procedural macros, which run on the host.
    env = environment(CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS=flags, CARGO_TARGET_DIR=str(target("stdless").resolve()))
    packages = [option for crate in KERNEL for option in ("-p", f"millstream-{crate}")]
    # Code is made for the program below, of the same crates.
    run("cargo", "check", "--locked", "--target", TRIPLE, *packages, env=env)
    # The facade without its std feature is the same kernel under one name.
    run("cargo", "check", "--locked", "--target", TRIPLE, "-p", "millstream", "--no-default-features", "--features", "onnx,safetensors", env=env)

    run("cargo", "build", "--locked", "--release", "--target", TRIPLE, env=env, cwd=PROGRAM)
    binary = target(f"stdless/{TRIPLE}/release/bare-metal").resolve()
    kinds = segments(binary)
    if kinds & {2, 3}:
        raise Failed(f"{binary.name} has a dynamic section or an interpreter: it is not a program of nothing but itself")
    say(f"$ {binary.name}  ({binary.stat().st_size // 1024} KiB, static, no interpreter)")
    done = subprocess.run([binary], stdin=subprocess.DEVNULL, timeout=120)
    if done.returncode != 0:
        raise Failed(f"{binary.name}: exit status {done.returncode}")


def segments(binary):
    """The types of the program headers of a 64-bit little-endian ELF file (2 = dynamic, 3 = interpreter)."""
    elf = binary.read_bytes()
    assert elf[:6] == b"\x7fELF\x02\x01", binary
    word = lambda at, size: int.from_bytes(elf[at : at + size], "little")
    start, size, count = word(32, 8), word(54, 2), word(56, 2)
    return {word(start + i * size, 4) for i in range(count)}
