#!/usr/bin/env python3
"""Makes PTX of compute capability 8.0 of every kernel file, by NVRTC, without a GPU, a driver or a host compiler.

    backends/cuda/ptx.py --cuda FOLDER [--cuda FOLDER …] [--check]

The folders hold `lib` and `include` of NVIDIA's wheels (site-packages/nvidia/cu13). The texts lie in `ptx/`, without comments
and debugging lines; with --check they are compared with what the sources give now, and nothing is written. `tests/run.py
--only cuda` fetches the wheels that the texts are made with, checks them, and writes them with --write."""

import argparse
import ctypes
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
OPTIONS = ("--gpu-architecture=compute_80", "--std=c++17", "--device-as-default-execution-space", "--fmad=true")


class Nvrtc:
    """NVIDIA's run-time compiler as a library."""

    def __init__(self, folders):
        self.includes = [folder / "include" for folder in map(Path, folders) if (folder / "include").is_dir()]
        found = lambda pattern: sorted(path for folder in folders for path in (Path(folder) / "lib").glob(pattern))
        if not found("libnvrtc.so.*"):
            raise FileNotFoundError(f"no libnvrtc in {', '.join(map(str, folders))}")
        for builtins in found("libnvrtc-builtins.so.*"):
            ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)  # which it looks for by name alone
        self.nvrtc = ctypes.CDLL(str(found("libnvrtc.so.*")[-1]))

    def text(self, program, what):
        """The log or the PTX of a program."""
        size = ctypes.c_size_t()
        getattr(self.nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        getattr(self.nvrtc, f"nvrtcGet{what}")(program, buffer)
        return buffer.value.decode()

    def compile(self, source):
        """The PTX of one file; an error holds the compiler's log. Warnings are errors."""
        program = ctypes.c_void_p()
        self.nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.read_bytes(), source.name.encode(), 0, None, None)
        options = [o.encode() for o in (*OPTIONS, *(f"--include-path={path}" for path in (*self.includes, source.parent)))]
        failed = self.nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        log = self.text(program, "ProgramLog").strip()
        if failed or log:
            raise SyntaxError(f"{source.name}: {log}")
        return self.text(program, "PTX")


def stripped(ptx):
    """PTX without what only readers need, and with short names for parameters and labels, which are known within a function."""
    ptx = re.sub(r"//[^\n]*", "", ptx)
    ptx = re.sub(r"\b\w+_param_(\d+)\b", r"p\1", ptx)
    ptx = re.sub(r"\$L__BB\d+_(\d+)", r"$\1", ptx)
    lines = (re.sub(r"\s+", " ", line).strip() for line in ptx.splitlines())
    return "\n".join(line for line in lines if line) + "\n"


def sources():
    """The kernel files; each becomes one module."""
    return sorted((HERE / "kernels").glob("*.cu"))


def make(folders):
    """The PTX of each kernel file by the file's stem."""
    compiler = Nvrtc(folders)
    return {source.stem: stripped(compiler.compile(source)) for source in sources()}


def stale(made):
    """The committed texts that differ from those made now, and those without a source."""
    committed = {path.stem: path.read_text() for path in (HERE / "ptx").glob("*.ptx")}
    return sorted(name for name in made.keys() | committed.keys() if made.get(name) != committed.get(name))


def write(made):
    """Replaces the committed texts."""
    (HERE / "ptx").mkdir(exist_ok=True)
    for path in (HERE / "ptx").glob("*.ptx"):
        path.unlink()
    for name, text in made.items():
        (HERE / "ptx" / f"{name}.ptx").write_text(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuda", required=True, action="append", metavar="FOLDER")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    made = make(options.cuda)
    if options.check:
        different = stale(made)
        print("stale: " + ", ".join(different) if different else "fresh")
        return 1 if different else 0
    write(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
