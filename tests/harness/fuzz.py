"""Fuzz targets: their corpus on stable Rust; each for a minute where a nightly compiler and a C++ compiler exist."""

import os
import tempfile

from . import wheels
from .process import ROOT, environment, has, output, run, say

FOLDER = ROOT / "fuzz"
SECONDS = 60
CARGO_FUZZ = "0.13.2"


def check():
    """Replays the corpus, and fuzzes where that is possible."""
    run("cargo", "test", "--locked", "--no-default-features", cwd=FOLDER)
    if not has("cargo", "+nightly", "--version") or not has(os.environ.get("CXX", "c++"), "--version"):
        say("no nightly compiler or no C++ compiler here: the corpus was replayed, nothing was fuzzed")
        return
    tool = wheels.cache() / f"cargo-fuzz-{CARGO_FUZZ}"
    if not (tool / "bin/cargo-fuzz").exists():
        run("cargo", "install", "--quiet", "--locked", "--root", tool, "--version", CARGO_FUZZ, "cargo-fuzz")
    env = environment(PATH=f"{tool / 'bin'}{os.pathsep}{os.environ['PATH']}")
    for name in output("cargo", "+nightly", "fuzz", "list", env=env).split():
        with tempfile.TemporaryDirectory() as found:  # what it discovers goes here, not into the stored corpus
            limits = (f"-max_total_time={SECONDS}", "-rss_limit_mb=2048", "-verbosity=0", "-print_final_stats=1")
            run("cargo", "+nightly", "fuzz", "run", name, found, FOLDER / "corpus" / name, "--", *limits, env=env)
