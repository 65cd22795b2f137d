"""Starting programs: their output goes straight through, unless somebody reads it."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Failed(Exception):
    """A part of the tests failed; the text says why."""


class NotHere(Exception):
    """A part of the tests cannot run on this machine, whatever its scripts may install; the text says what is missing."""


def say(text):
    """A line of the harness's own, in order with the output of the programs that it starts."""
    print(text, flush=True)


def environment(**changes):
    """This process's environment with changes."""
    return {**os.environ, **changes}


def line(command):
    """A command as a person would type it; of a long list of files its beginning."""
    text = shlex.join(command)
    return text if len(text) <= 300 else f"{text[:200]} ... ({len(command)} arguments)"


def run(*command, env=None, cwd=ROOT):
    """Runs a program to its end; fails with it."""
    command = [str(c) for c in command]
    say(f"$ {line(command)}")
    status = subprocess.run(command, cwd=cwd, env=env, stdin=subprocess.DEVNULL).returncode
    if status != 0:
        raise Failed(f"exit status {status}: {line(command)}")


def output(*command, env=None, cwd=ROOT, accept=(0,)):
    """A program's standard output as text; what it says on standard error is shown if it fails."""
    command = [str(c) for c in command]
    done = subprocess.run(command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode not in accept:
        sys.stdout.write(done.stdout[-4000:])
        sys.stdout.write(done.stderr[-4000:])
        raise Failed(f"exit status {done.returncode}: {line(command)}")
    return done.stdout


def has(*command):
    """True if a program exists and exits with success."""
    try:
        return subprocess.run([str(c) for c in command], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0
    except OSError:
        return False


def program():
    """The `millstream` program, built with optimisation."""
    run("cargo", "build", "--release", "--locked", "-p", "millstream-cli")
    return ROOT / target("release/millstream")


def target(path):
    """A path in cargo's target folder."""
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / path
