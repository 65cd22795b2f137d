"""Real models out of their wheels, on every ISA level and number of threads, and on Candle, held against ONNX Runtime's outputs; and
the example of a pipeline whose model remembers."""

import ast
import contextlib
import json
import os
import platform
import shutil
import struct
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


@contextlib.contextmanager
def cheap():
    """A folder with those models that every backend runs within seconds, what stands in for a GPU too."""
    with tempfile.TemporaryDirectory() as few:
        for name in CHEAP:
            os.symlink(made() / name, Path(few) / name)
        yield few


def floats(path):
    """The numbers of an array of float32."""
    data = path.read_bytes()
    length = struct.unpack_from("<H", data, 8)[0]
    header = ast.literal_eval(data[10 : 10 + length].decode())
    if data[:8] != b"\x93NUMPY\x01\x00" or header["descr"] != "<f4":
        raise Failed(f"{path} is no array of float32")
    return list(struct.unpack(f"<{(len(data) - 10 - length) // 4}f", data[10 + length :]))


def heard(millstream, model, frames):
    """What examples/pipelines/voice.toml says of each of these frames, (call, samples, hung up)."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        shutil.copy(ROOT / "examples/pipelines/voice.toml", folder)
        os.symlink(model, folder / "silero_vad.onnx")
        lines = (json.dumps({"call": call, "samples": samples, "hung_up": over}) for call, samples, over in frames)
        (folder / "frames.jsonl").write_text("".join(line + "\n" for line in lines))
        output(millstream, "run", folder / "voice.toml")
        rows = sorted((json.loads(line) for line in open(folder / "voice.jsonl")), key=lambda row: row["line"])
    if [row["call"] for row in rows] != [call for call, _, _ in frames]:
        raise Failed("voice.toml lost frames")
    return [row["speech"][0] for row in rows]


def remembers(folder, millstream):
    """Holds the example against what the model says of a call's first frame, and calls at once against calls one by one."""
    model = folder / "silero_16k/model.onnx"
    frame, first = floats(folder / "silero_16k/in_0.npy"), floats(folder / "silero_16k/out_0.npy")[0]
    # Three calls that begin alike and go on louder each; the first is called again when it is over.
    calls = [[(name, [x * (1 + turn * gain) for x in frame], turn == 3) for turn in range(4)] for gain, name in ((0, "a"), (1, "b"), (3, "c"))]
    calls[0] += [("a", frame, False)]
    at_once = [call[turn] for turn in range(5) for call in calls if turn < len(call)]
    one_by_one = [frame for call in calls for frame in call]
    said = dict(zip(((at_once[i][0], i // 3) for i in range(len(at_once))), heard(millstream, model, at_once)))
    alone = dict(zip(((call[0][0], turn) for call in calls for turn in range(len(call))), heard(millstream, model, one_by_one)))
    near = lambda a, b: abs(a - b) <= TOLERANCE * abs(first)
    good = said.keys() == alone.keys() and all(near(said[key], alone[key]) for key in alone)
    good = good and all(near(alone[key], first) for key in (("a", 0), ("b", 0), ("c", 0), ("a", 4)))
    good = good and not any(near(alone[key], first) for key in (("a", 1), ("b", 1), ("c", 2)))
    if not good:
        raise Failed(f"voice.toml says {said} of calls at once, {alone} of calls one by one, {first} is right for their first frames")


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
    with cheap() as few:
        command = ("cargo", "test", "--locked", "-p", "millstream-tests", "--test", "backends", "whole_models_agree", "--", "--ignored")
        run(*command, env=environment(MILLSTREAM_MODELS=few))
    remembers(folder, millstream)
    say(f"models: {len(NAMES)} models agree with ONNX Runtime on {', '.join(levels())}")
