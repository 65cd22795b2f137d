"""Real models out of their wheels, on every ISA level and number of threads, and on Candle, held against ONNX Runtime's outputs."""

import json
import os
import platform
import shutil
import tempfile
from pathlib import Path

from . import wheels
from .process import ROOT, Failed, environment, output, program, run, say

MAKER = ROOT / "benches/make_models.py"
NAMES = ("magika", "ocr4_det", "ocr4_rec", "ocr_cls", "silero_16k")
# Those that Candle, which is not optimised among the tests, runs within seconds.
CHEAP = ("magika", "ocr_cls", "silero_16k")
# Greatest absolute difference over the greatest absolute expected value: sums in another order, nothing more.
TOLERANCE = 1e-3
SECONDS = 0.2


def levels():
    """The ISA levels that this machine has, by the names of MILLSTREAM_LEVEL."""
    try:
        flags = next(line for line in open("/proc/cpuinfo") if line.startswith("flags")).split()
    except (OSError, StopIteration):
        flags = []
    have = ["scalar"]
    have += ["avx2"] if {"avx2", "fma", "f16c"} <= set(flags) else []
    have += ["avx512"] if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= set(flags) else []
    have += ["amx"] if "avx512" in have and {"avx512_vnni", "amx_tile", "amx_int8"} <= set(flags) else []
    have += ["neon"] if platform.machine() == "aarch64" else []
    return have


def made():
    """The folder with the models and their expected outputs."""
    done = wheels.folder("model-tools", MAKER.read_text(), *wheels.pins("model-files"))
    done = done.with_name(done.name.replace("model-tools", "models"))
    if not done.is_dir():
        files, python = wheels.unpacked("model-files"), wheels.environment("model-tools")
        part = wheels.fresh(done)
        (part / ".wheels").mkdir()
        for package in files.iterdir():
            os.symlink(package, part / ".wheels" / package.name)
        run(python, MAKER, part, *NAMES)
        shutil.rmtree(part / ".wheels")
        part.rename(done)
    return done


def check():
    """Runs every model every way; an output too far from the expected one fails."""
    folder, millstream = made(), program()
    wrong = []
    for name in NAMES:
        for level in levels():
            for threads in (1, 2):
                command = (millstream, "bench", folder / name / "model.onnx", "--inputs", folder / name, "--seconds", SECONDS, "--threads", threads, "--json")
                result = json.loads(output(*command, env=environment(MILLSTREAM_LEVEL=level)))
                # JSON has no infinity: other types or shapes than the expected ones, or NaNs, come as null.
                error = float("inf") if result["max_error"] is None else result["max_error"]
                # A level or a number of threads that was asked for and not used does not count.
                good = error <= TOLERANCE and result["level"] == level and result["threads"] == threads
                line = f"{name:11} {result['level']:7} {result['threads']} threads  {result['median_ms']:9.3f} ms  error {error:.1e}"
                say(f"  {line}  {'ok' if good else 'WRONG'}")
                if not good:
                    wrong.append(line)
    if wrong:
        raise Failed(f"{len(wrong)} runs are wrong")
    with tempfile.TemporaryDirectory() as cheap:
        for name in CHEAP:
            os.symlink(folder / name, Path(cheap) / name)
        command = ("cargo", "test", "--locked", "-p", "millstream-tests", "--test", "backends", "whole_models_agree")
        run(*command, env=environment(MILLSTREAM_MODELS=cheap))
    say(f"models: {len(NAMES)} models agree with ONNX Runtime on {', '.join(levels())}")
