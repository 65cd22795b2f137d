"""What stands in for NVIDIA's driver and for cuBLASLt: built from the kernels and the shim, and the tests that load them."""

import hashlib
import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor

from . import conformance, models
from .process import ROOT, NotHere, environment, output, run, say, target

HOME = ROOT / "backends/cuda"
FLAGS = ("-std=c++20", "-O1", "-g0", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function")


def check(compiler):
    """Real launches up to the driver's door: the device layer's own tests, the suite of backends with CUDA among them, and ONNX's tests of
    single operators."""
    if sys.platform != "linux":
        raise NotHere(f"the stand-in for the driver is a library for Linux, not for {sys.platform} on {platform.machine()}")
    library = build(compiler)
    paths = [str(library.parent), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    env = environment(LD_LIBRARY_PATH=os.pathsep.join(paths), MILLSTREAM_CUDA="1")
    # Of the whole workspace: its crates are built already, with these features.
    run("cargo", "test", "--locked", "--workspace", "--lib", "--", "--ignored", "--skip", "speed_of_kernels", env=env)
    with models.cheap() as folder:
        env["MILLSTREAM_MODELS"] = folder
        run("cargo", "test", "--locked", "--workspace", "--test", "cuda", "--test", "backends", "--", "--include-ignored", env=env)
    # Together with a test, so that no crate is compiled with other features than for the tests above: the program's alone.
    run("cargo", "build", "--locked", "--workspace", "--features", "millstream-cli/cuda", "--bin", "millstream", "--test", "cuda")
    conformance.check_device(ROOT / target("debug/millstream"), "cuda", env)
    return library


def build(compiler):
    """The library, of objects that are made again only where something changed."""
    folder = target("cuda-stand-in").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    kernels = sorted((HOME / "kernels").glob("*.cu"))
    sources = [*kernels, *(HOME / "shim" / name for name in ("shim.cpp", "fiber.cpp", "collectives.cpp")), HOME / "stand-in/driver.cpp"]
    headers = sorted(path for part in ("kernels", "shim") for path in (HOME / part).iterdir() if path.suffix in (".h", ".cuh"))
    common = hashlib.sha256(repr((compiler, FLAGS)).encode() + b"".join(path.read_bytes() for path in headers)).hexdigest()

    def compiled(source):
        made = hashlib.sha256(common.encode() + source.read_bytes()).hexdigest()[:16]
        at = folder / f"{source.name}.{made}.o"
        if not at.exists():
            for stale in folder.glob(f"{source.name}.*.o"):
                stale.unlink()
            # Under another name until it is whole.
            output(*compiler, *FLAGS, "-x", "c++", "-c", source, "-o", at.with_suffix(".part"))
            at.with_suffix(".part").rename(at)
        return at

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, sources))
    library, blas = folder / "libcuda.so.1", folder / "libcublasLt.so"
    output(*compiler, "-shared", "-Wl,-soname,libcuda.so.1", *objects, "-lm", "-lpthread", "-o", library)
    output(*compiler, *FLAGS, "-shared", HOME / "stand-in/blas.cpp", library, "-o", blas)
    say(f"what stands in for the driver: {library.stat().st_size // 1024} KiB of {len(kernels)} modules; for cuBLASLt: {blas.stat().st_size // 1024} KiB")
    return library
