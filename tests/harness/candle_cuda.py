"""Our operators on Candle's CUDA devices without a GPU: compiled with Candle's own feature, linked with what stands in for NVIDIA's
libraries, and launched by real cudarc on the host shim. None of Candle's own kernels is compiled (see ../../backends/candle/stand-in/nvcc)."""

import json
import os
import re
from pathlib import Path

from . import stand_in
from .process import ROOT, environment, output, run, say, target

NVCC = ROOT / "backends/candle/stand-in/nvcc"
# What Candle calls when a device is opened and closed: it answers that all is well. Everything else ends the program.
ANSWERED = {"cublasCreate_v2", "cublasSetStream_v2", "cublasDestroy_v2"}
ANSWERED |= {"curandCreateGenerator", "curandSetStream", "curandSetPseudoRandomGeneratorSeed", "curandDestroyGenerator"}
# Under these names the linker looks for the rest; the driver's and cuBLASLt's stand-ins are their own.
NAMES = ("cublas", "curand", "nvrtc", "cudart")


def check(compiler, driver):
    """Builds the libraries beside the stand-in driver, and runs the crate's tests with the feature `cuda`."""
    folder = libraries(compiler, driver)
    paths = [str(folder / "lib"), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    env = environment(
        NVCC=NVCC,
        PATH=os.pathsep.join([str(NVCC.parent), os.environ["PATH"]]),
        CUDA_HOME=str(folder),
        CUDA_COMPUTE_CAP="80",
        LD_LIBRARY_PATH=os.pathsep.join(paths),
    )
    run("cargo", "test", "--locked", "-p", "millstream-candle", "--features", "cuda", "--test", "cuda", env=env)


def libraries(compiler, driver):
    """A folder that looks like CUDA's to the linker: its `lib` holds the stand-ins, and the rest as functions that end the program."""
    folder = target("candle-cuda-home").resolve()
    lib = folder / "lib"
    lib.mkdir(parents=True, exist_ok=True)
    for name, library in (("libcuda.so", driver), ("libcuda.so.1", driver), ("libcublasLt.so", driver.with_name("libcublasLt.so"))):
        link(lib / name, library)
    real = set(re.findall(r"\b(cu\w+)\(", "".join(path.read_text() for path in (stand_in.HOME / "stand-in").glob("*.cpp"))))
    packages = json.loads(output("cargo", "metadata", "--locked", "--format-version", "1"))["packages"]
    bindings = Path(next(p for p in packages if p["name"] == "cudarc")["manifest_path"]).parent / "src"
    texts = ((bindings / part / "sys/mod.rs").read_text() for part in ("driver", "cublas", "cublaslt", "curand", "nvrtc"))
    names = sorted(set(re.findall(r"^ +fn ((?:cu|nvrtc)\w+)\(", "".join(texts), re.M)) - real)
    ended = 'std::fprintf(stderr, "%s: nothing stands in for it\\n", __func__), std::abort(), 1'
    bodies = (f"int {name}() {{ return {0 if name in ANSWERED else ended}; }}" for name in names)
    source = folder / "rest.cpp"
    source.write_text("\n".join(['#include <cstdio>', "#include <cstdlib>", 'extern "C" {', *bodies, "}"]))
    rest = lib / "libcuda_rest.so"
    output(*compiler, *stand_in.FLAGS, "-shared", "-Wl,-soname,libcuda_rest.so", source, "-o", rest)
    for name in NAMES:
        link(lib / f"lib{name}.so", rest)
    say(f"for Candle's linker: {len(names)} functions of NVIDIA's libraries that nobody may call")
    return folder


def link(at, to):
    """A link that may be there already."""
    at.unlink(missing_ok=True)
    at.symlink_to(to)
