#!/usr/bin/env python3
"""Times millstream against ONNX Runtime on models that make_models.py made, by turns, each in a process of its own.

    benches/peers/compare.py MODELS [NAME ...] [--threads 1,2] [--rounds 5] [--seconds 2] [--json FILE]

A turn of ONNX Runtime wakes its process, which is stopped at all other times, so that its spinning workers take nothing
from the other side; a turn of millstream is one `millstream bench`. At more than one thread ONNX Runtime runs with and
without spinning, and its better median counts. The figure of a side is the median over its turns' medians; ratios come
from neighbouring turns. Load times and peak memory are those of a fresh process of each side.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
sys.dont_write_bytecode = True

from harness import wheels
from harness.process import output, program, say

# What an ONNX Runtime process runs: it loads the model, then answers each line (seconds) with a line of milliseconds.
WORKER = r"""
import json, resource, sys, time
begun = time.perf_counter()
import numpy as np, onnxruntime as ort
folder, threads, spinning = sys.argv[1], int(sys.argv[2]), sys.argv[3]
manifest = json.load(open(folder + "/manifest.json"))
inputs = {i["name"]: np.load(folder + "/" + i["file"]) for i in manifest["inputs"]}
options = ort.SessionOptions()
options.intra_op_num_threads = threads
options.inter_op_num_threads = 1
options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
start = time.perf_counter()
session = ort.InferenceSession(folder + "/model.onnx", options, providers=["CPUExecutionProvider"])
load = (time.perf_counter() - start) * 1e3
session.run(None, inputs)
print(json.dumps({"load_ms": load, "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6}), flush=True)
for line in sys.stdin:
    times, end = [], time.perf_counter() + float(line)
    for _ in range(3):
        session.run(None, inputs)
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        session.run(None, inputs)
        times.append((time.perf_counter() - start) * 1e3)
    times.sort()
    print(times[len(times) // 2], flush=True)
"""


class OnnxRuntime:
    """A process with a loaded model, stopped between its turns."""

    def __init__(self, python, folder, threads, spinning):
        command = [python, "-c", WORKER, folder, str(threads), spinning]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.start = json.loads(self.process.stdout.readline())
        self.process.send_signal(signal.SIGSTOP)
        self.medians = []

    def turn(self, seconds):
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        self.medians.append(float(self.process.stdout.readline()))
        self.process.send_signal(signal.SIGSTOP)

    def close(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.close()
        self.process.wait()


def compare(python, millstream, folder, threads, rounds, seconds):
    """All figures of one model on so many threads."""
    peers = [OnnxRuntime(python, folder, threads, spinning) for spinning in (("1",) if threads == 1 else ("1", "0"))]
    turns = []
    try:
        for _ in range(rounds):
            for peer in peers:
                peer.turn(seconds)
            bench = (millstream, "bench", folder / "model.onnx", "--inputs", folder, "--threads", threads, "--seconds", seconds, "--json")
            turns.append(json.loads(output(*bench)))
    finally:
        for peer in peers:
            peer.close()
    peer = min(peers, key=lambda p: statistics.median(p.medians))
    ratios = sorted(turn["median_ms"] / other for turn, other in zip(turns, peer.medians))
    return {
        "model": folder.name,
        "threads": threads,
        "level": turns[0]["level"],
        "max_error": max(float("inf") if turn["max_error"] is None else turn["max_error"] for turn in turns),
        "millstream_ms": statistics.median(turn["median_ms"] for turn in turns),
        "onnxruntime_ms": statistics.median(peer.medians),
        "ratio": statistics.median(ratios),
        "ratio_range": [ratios[0], ratios[-1]],
        "load_ms": [statistics.median(turn["load_ms"] for turn in turns), peer.start["load_ms"]],
        "peak_rss_mb": [statistics.median(turn["peak_rss_mb"] for turn in turns), peer.start["peak_rss_mb"]],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, help="the folder that make_models.py wrote")
    parser.add_argument("names", nargs="*", help="models in it (all)")
    parser.add_argument("--threads", default="1,2", type=lambda text: [int(n) for n in text.split(",")])
    parser.add_argument("--rounds", default=5, type=int)
    parser.add_argument("--seconds", default=2.0, type=float)
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args()
    names = options.names or sorted(p.parent.name for p in options.models.glob("*/manifest.json"))
    python, millstream = wheels.environment("model-tools"), program()
    rows = []
    say(f"{'model':14} threads  millstream  ONNX Runtime   ratio (from … to)   load ms         peak MB         error")
    for name in names:
        for threads in options.threads:
            row = compare(python, millstream, options.models.resolve() / name, threads, options.rounds, options.seconds)
            rows.append(row)
            low, high = row["ratio_range"]
            load, peak = (f"{a:6.0f} / {b:<6.0f}" for a, b in (row["load_ms"], row["peak_rss_mb"]))
            say(f"{name:14} {threads:7}  {row['millstream_ms']:10.3f}  {row['onnxruntime_ms']:12.3f}   {row['ratio']:5.2f} ({low:.2f} … {high:.2f})   {load}  {peak}  {row['max_error']:.0e}")
            if options.json:
                options.json.write_text(json.dumps({"cores": os.cpu_count(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
