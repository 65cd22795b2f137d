#!/usr/bin/env python3
"""Runs every test of the project. Needs stable Rust, Python 3 and the package registries, and sets up the rest itself.

    tests/run.py                        everything
    tests/run.py --only lint,stdless    some parts
    tests/run.py --skip models          all but some parts
"""

import argparse
import sys
import time

sys.dont_write_bytecode = True

from harness import conformance, cuda, fuzz, models, neon, stdless
from harness.process import ROOT, Failed, NotHere, environment, output, run, say, target


def lint():
    """Formatting, clippy and the documentation's links, warnings being errors."""
    # By file: cargo fmt does not see the modules that macros declare.
    run("rustfmt", "--check", "--edition", "2024", *output("git", "ls-files", "*.rs").split())
    run("cargo", "clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings")
    run("cargo", "doc", "--locked", "--workspace", "--no-deps", env=environment(RUSTDOCFLAGS="-D warnings"))


def workspace():
    """Unit, integration, property and documentation tests of every crate."""
    run("cargo", "test", "--locked", "--workspace")


def loom():
    """Every interleaving of the edges' credit ledger and close protocol."""
    env = environment(RUSTFLAGS="--cfg loom", CARGO_TARGET_DIR=str(target("loom")))
    run("cargo", "test", "--locked", "--release", "-p", "millstream-edge", "--test", "loom", env=env)


def main():
    parts = {
        "lint": lint,
        "workspace": workspace,
        "loom": loom,
        "fuzz": fuzz.check,
        "stdless": stdless.check,
        "neon": neon.check,
        "cuda": cuda.check,
        "conformance": conformance.check,
        "models": models.check,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = lambda text: [name for name in text.split(",") if name in parts or parser.error(f"no part {name}: {', '.join(parts)}")]
    parser.add_argument("--only", type=names, default=list(parts), metavar="PART,…", help=f"of {', '.join(parts)}")
    parser.add_argument("--skip", type=names, default=[], metavar="PART,…")
    parser.add_argument("--write", action="store_true", help="write the conformance manifest and the PTX instead of comparing with them")
    options = parser.parse_args()
    parts["conformance"] = lambda: conformance.check(options.write)
    parts["cuda"] = lambda: cuda.check(options.write)

    summary = []
    for name in [name for name in parts if name in options.only and name not in options.skip]:
        say(f"\n=== {name}")
        start, result, problem = time.monotonic(), "ok", ""
        try:
            parts[name]()
        except Failed as failure:
            result, problem = "FAILED", str(failure)
        except NotHere as absence:
            result, problem = "NOT RUN", str(absence)
        if problem:
            say(f"{result}: {problem}")
        summary.append((name, time.monotonic() - start, result, problem))
    say("\n=== summary")
    for name, seconds, result, problem in summary:
        say(f"{name:12} {result:7} {seconds:6.0f} s  {problem}")
    passed, failed, absent = (sum(result == what for _, _, result, _ in summary) for what in ("ok", "FAILED", "NOT RUN"))
    say(f"\n{passed} passed, {failed} failed" + (f", {absent} not run: this machine lacks what they need" if absent else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
