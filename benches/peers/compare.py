#!/usr/bin/env python3
"""Times millstream against ONNX Runtime, rten, tract and candle on models that make_models.py made, by turns.

    benches/peers/compare.py MODELS [NAME ...] [--engines onnxruntime,rten,tract,candle] [--threads 1,2] [--rounds 5]
                             [--seconds 2] [--json FILE]

Each engine has a process of its own, which is stopped at all times but its turns, so that its spinning workers take
nothing from the others. At more than one thread ONNX Runtime runs with and without spinning, and its better median
counts. The figure of an engine is the median over its turns' medians; a ratio is the median over neighbouring turns.
Load times, first runs and peak memory (after the first run) are those of a fresh process of each; errors are those
against the outputs stored with the model, over the greatest of them. An engine that cannot run a model, or errs by more
than a tenth, is named and not timed. The machine's own peaks are measured first: `peak` is what share of its fp32
multiply-adds an engine's time comes to, counting each model's operations the obvious way, so that short cuts gain.

Needs stable Rust and, for ONNX Runtime's library and candle's protoc, the Python package index once.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "tests"))
sys.dont_write_bytecode = True

from harness import wheels
from harness.process import environment, run, say, target

PEERS = ("onnxruntime", "rten", "tract", "candle")
WRONG = 0.1
PATIENCE = 300  # seconds for an answer, beside the turn's own


class Worker:
    """A process with a loaded model, stopped between its turns. Where it fails, `problem` says why."""

    def __init__(self, program, engine, folder, threads, spin=False):
        self.label, self.medians, self.fastest, self.problem = engine, [], float("inf"), None
        self.stderr = tempfile.TemporaryFile("w+")
        env = environment(RAYON_NUM_THREADS=str(threads), RTEN_NUM_THREADS=str(threads))
        command = [program, engine, folder, str(threads)] + ["spin"] * spin
        self.process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.stderr, text=True)
        self.start = self.answer(PATIENCE)
        if self.start and not (self.start["max_error"] is not None and self.start["max_error"] <= WRONG):
            self.problem = f"wrong by {self.start['max_error']}"

    def answer(self, patience):
        """The next line that the process writes; it is stopped then."""
        timer = threading.Timer(patience, self.process.kill)
        timer.start()
        line = self.process.stdout.readline()
        timer.cancel()
        if line:
            self.process.send_signal(signal.SIGSTOP)
            return json.loads(line)
        self.process.wait()
        self.stderr.seek(0)
        said = " ".join(self.stderr.read().split())
        self.problem = said or f"ended with status {self.process.returncode}"

    def turn(self, seconds):
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        if done := self.answer(seconds + PATIENCE):
            self.medians.append(done["median_ms"])
            self.fastest = min(self.fastest, done["min_ms"])

    def median(self):
        return statistics.median(self.medians)

    def close(self):
        self.process.kill()
        self.process.communicate()
        self.stderr.close()


def compare(program, engines, folder, threads, rounds, seconds, peak):
    """All figures of one model on so many threads."""
    workers = []
    try:
        for engine in engines:
            spinning = (True, False) if engine == "onnxruntime" and threads > 1 else (True,)
            workers += [Worker(program, engine, folder, threads, spin) for spin in spinning]
        for _ in range(rounds):
            for worker in workers:
                if not worker.problem:
                    worker.turn(seconds)
    finally:
        for worker in workers:
            worker.close()
    row = {"model": folder.name, "threads": threads, "engines": {}, "unable": {w.label: w.problem for w in workers if w.problem}}
    able = sorted((w for w in workers if not w.problem), key=Worker.median)
    ours = next((w for w in able if w.label == "millstream"), None)
    for worker in able:
        # Of ONNX Runtime's two processes the better one comes first.
        if worker.label in row["engines"]:
            continue
        ratios = sorted(mine / its for mine, its in zip(ours.medians, worker.medians)) if ours else [float("nan")]
        row["engines"][worker.label] = {
            **worker.start,
            "median_ms": worker.median(),
            "min_ms": worker.fastest,
            "ratio": statistics.median(ratios),
            "ratio_range": [ratios[0], ratios[-1]],
            "peak": ours.start["operations"] / worker.median() / 1e6 / peak if ours else float("nan"),
        }
    return row


COLUMNS = f"{'model':14} threads  {'engine':12} {'median ms':>10}  ours / its           peak  {'load ms':>8} {'first ms':>9} {'MB':>6}  error"


def show(row):
    at = f"{row['model']:14} {row['threads']:7}"
    for engine, figures in row["engines"].items():
        low, high = figures["ratio_range"]
        say(
            f"{at}  {engine:12} {figures['median_ms']:10.3f}  {figures['ratio']:5.2f} ({low:.2f} … {high:.2f})  {figures['peak']:5.0%}"
            f"  {figures['load_ms']:8.1f} {figures['first_run_ms']:9.1f} {figures['peak_rss_mb']:6.0f}  {figures['max_error']:.0e}"
        )
    for engine, problem in row["unable"].items():
        say(f"{at}  {engine:12} cannot: {problem[:160]}")


def build(engines):
    """The program that holds the engines. `ORT_DYLIB_PATH` tells it where ONNX Runtime's library is."""
    env = environment()
    if "candle" in engines:
        protoc = next(wheels.unpacked("protoc").glob("*/*.data/scripts/protoc"))
        protoc.chmod(0o755)
        env = environment(PROTOC=str(protoc))
    folder, features = target("peers"), ",".join(engine for engine in engines if engine != "onnxruntime")
    command = ("cargo", "build", "--locked", "--release", "--manifest-path", HERE / "Cargo.toml", "--target-dir", folder)
    run(*command, "--features", features, env=env)
    installed = wheels.environment("model-tools").parents[1]
    os.environ["ORT_DYLIB_PATH"] = str(next(installed.glob("lib/python*/site-packages/onnxruntime/capi/libonnxruntime.so*")))
    return ROOT / folder / "release/millstream-peers"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, help="the folder that make_models.py wrote")
    parser.add_argument("names", nargs="*", help="models in it (all)")
    parser.add_argument("--engines", default="onnxruntime,rten,tract", type=lambda text: text.split(","))
    parser.add_argument("--threads", default="1,2", type=lambda text: [int(n) for n in text.split(",")])
    parser.add_argument("--rounds", default=5, type=int)
    parser.add_argument("--seconds", default=2.0, type=float)
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args()
    if unknown := set(options.engines) - set(PEERS):
        parser.error(f"no engine {', '.join(unknown)}")
    names = options.names or sorted(p.parent.name for p in options.models.glob("*/manifest.json"))
    program = build(options.engines)
    peaks = json.loads(subprocess.run([program, "peaks", "1"], check=True, stdout=subprocess.PIPE, text=True).stdout)
    (one, most), (copy, copies) = peaks["gflops"], peaks["copy_gbs"]
    say(f"{peaks['level']}: {one:.0f} GFLOP/s of fp32 on 1 thread, {most:.0f} on {peaks['threads']}; copies {copy:.1f} and {copies:.1f} GB/s, read and written")
    say(COLUMNS)
    rows = []
    for name in names:
        for threads in options.threads:
            peak = most if threads == peaks["threads"] else one * threads
            folder = options.models.resolve() / name
            rows.append(compare(program, ["millstream", *options.engines], folder, threads, options.rounds, options.seconds, peak))
            show(rows[-1])
            if options.json:
                options.json.write_text(json.dumps({"cores": os.cpu_count(), "peaks": peaks, "rows": rows}, indent=1) + "\n")
    say(", ".join(sorted({figures["version"] for row in rows for figures in row["engines"].values()})))


if __name__ == "__main__":
    main()
