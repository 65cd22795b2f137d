"""Wheels: fetched by pip, held against `tests/wheels.txt`, and kept outside of the tree, so that each is fetched once a machine."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from .process import ROOT, Failed, run, say

PINS = ROOT / "tests/wheels.txt"
TRIES = 4


def cache():
    """The folder for what is fetched."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "millstream"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def pins(section):
    """The requirement lines of one section."""
    lines, inside = [], False
    for line in PINS.read_text().splitlines():
        line = line.split("#", 1)[0].strip()
        if line.startswith("["):
            inside = line == f"[{section}]"
        elif inside and line:
            lines.append(line)
    assert lines, f"no section {section} in {PINS}"
    return lines


def folder(section, *more):
    """The cache's folder for a section; another one as soon as a pin changes."""
    key = hashlib.sha256("\n".join([*pins(section), *more]).encode()).hexdigest()[:12]
    return cache() / f"{section}-{key}"


def unpacked(section, python=()):
    """A folder with the section's wheels, each unpacked into a folder of its package's name. `python` are pip's options
    for wheels of another Python than this one, where only the files inside matter."""
    done = folder(section, *python)
    if not done.is_dir():
        part = fresh(done)
        with tempfile.TemporaryDirectory(dir=cache()) as wheels:
            pip(sys.executable, section, "download", "--no-deps", "--only-binary", ":all:", *python, "-d", wheels)
            for wheel in Path(wheels).glob("*.whl"):
                zipfile.ZipFile(wheel).extractall(part / wheel.name.split("-")[0])
        part.rename(done)
    return done


def environment(section):
    """The Python of a virtual environment that holds the section's wheels."""
    done = folder(section, sys.version)
    if not done.is_dir():
        part = fresh(done)
        run(sys.executable, "-m", "venv", part)
        pip(part / "bin/python", section, "install", "--only-binary", ":all:")
        part.rename(done)  # its python finds its packages by its own place, so that it may move
    return done / "bin/python"


def fresh(done):
    """An empty folder that becomes `done` when it is whole."""
    part = done.with_name(done.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    return part


def pip(python, section, action, *options):
    """Runs pip on a section with its hashes, again after a pause if the network fails."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as requirements:
        requirements.write("\n".join(pins(section)) + "\n")
        requirements.flush()
        command = [python, "-m", "pip", action, "--quiet", "--disable-pip-version-check", "--require-hashes", "--retries", "1", *options, "-r", requirements.name]
        for attempt in range(TRIES):
            say(f"fetching the wheels of [{section}], try {attempt + 1} of {TRIES}")
            done = subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, capture_output=True, text=True)
            if done.returncode == 0:
                return
            say(done.stderr.strip()[-2000:])
            if "HASHES" in done.stderr or ("No matching distribution" in done.stderr and "connection" not in done.stderr):
                break  # not the network: another try ends alike
            time.sleep(5 * (attempt + 1))
    raise Failed(
        f"pip could not fetch the wheels of [{section}] (see {PINS.name}). This part needs the Python package index once; "
        f"what was fetched stays in {cache()}. Without a network, run the others: tests/run.py --skip conformance,models,cuda"
    )
