"""Fuzz targets: their corpus on stable Rust; each for a minute where a nightly compiler and cargo-fuzz exist."""

from .process import ROOT, has, output, run, say

FOLDER = ROOT / "fuzz"
SECONDS = 60


def check():
    """Replays the corpus, and fuzzes where that is possible."""
    run("cargo", "test", "--locked", cwd=FOLDER)
    if not has("cargo", "+nightly", "fuzz", "--version"):
        say("no nightly compiler with cargo-fuzz here: the corpus was replayed, nothing was fuzzed")
        return
    for name in output("cargo", "+nightly", "fuzz", "list", cwd=ROOT).split():
        run("cargo", "+nightly", "fuzz", "run", name, "--", f"-max_total_time={SECONDS}", "-rss_limit_mb=2048", cwd=ROOT)
