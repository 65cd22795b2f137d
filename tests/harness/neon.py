"""The NEON level on a machine of another architecture: built for AArch64, and run by an emulator of its processors."""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from . import wheels
from .process import ROOT, Failed, NotHere, environment, has, output, run, say, target

TRIPLE = "aarch64-unknown-linux-gnu"
LINKER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
PACKAGES = ("gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "qemu-user")
# Where Debian's cross compiler keeps the C library of its target.
LIBRARIES = "/usr/aarch64-linux-gnu"
# A processor without dot products of bytes; by itself the emulator has everything.
OLD_PROCESSOR = "cortex-a53"
# Seconds that rustup may take to fetch a standard library.
PATIENCE = 300
CRATES = ("-p", "millstream-simd", "-p", "millstream-gemm")


def check():
    """Tests of the crates that know instruction sets, and some of them on a processor without products of bytes."""
    if platform.machine() == "aarch64":
        run("cargo", "test", "--locked", *CRATES)
        return
    tools()
    env = toolchain()
    name = f"CARGO_TARGET_{TRIPLE.upper().replace('-', '_')}"
    env = {**env, f"{name}_LINKER": LINKER, f"{name}_RUNNER": f"{EMULATOR} -L {LIBRARIES}"}
    if "RUSTC" not in env and has("cargo", "clippy", "--version"):
        # What the part `lint` does not see.
        run("cargo", "clippy", "--release", "--locked", "--target", TRIPLE, *CRATES, "--all-targets", "--", "-D", "warnings", env=env)
    # With optimisation: an emulator is slow.
    test = ("cargo", "test", "--release", "--locked", "--target", TRIPLE)
    run(*test, *CRATES, "--lib", "--tests", env=env)
    # What is detected, and what depends on it.
    run(*test, *CRATES, "--lib", "--test", "quantised", "--", "level::", "kernels_", "grains_", "windows_", env={**env, "QEMU_CPU": OLD_PROCESSOR})


def tools():
    """Finds a linker and an emulator, or installs them where that can be done."""
    missing = lambda: [tool for tool in (LINKER, EMULATOR) if not has(tool, "--version")]
    if missing() and os.geteuid() == 0 and has("apt-get", "--version"):
        env = environment(DEBIAN_FRONTEND="noninteractive")
        install = ("apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *PACKAGES)
        for command in (install, ("apt-get", "update", "--quiet"), install):
            if missing():
                try:
                    run(*command, env=env)
                except Failed as failure:  # lists that are too old, or a source of somebody else's that doesn't answer
                    say(str(failure))
    if missing():
        raise NotHere(f"no {' and no '.join(missing())}: install {' '.join(PACKAGES)} (Debian's names; this part does so where it runs as root)")


def toolchain():
    """The environment in which cargo can build for the target: this Rust with its standard library for it, or Debian's."""
    installed = lambda: (Path(output("rustc", "--print", "sysroot").strip()) / "lib/rustlib" / TRIPLE / "lib").is_dir()
    if not installed() and shutil.which("rustup"):
        say(f"$ rustup target add {TRIPLE}")
        try:
            subprocess.run(["rustup", "target", "add", TRIPLE], cwd=ROOT, stdin=subprocess.DEVNULL, timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            say(f"rustup gave no answer in {PATIENCE} s")
    if installed():
        return environment()
    say("rustup has no standard library for the target here: taking Debian's Rust")
    try:
        programs = debian()
    except (Failed, OSError) as failure:
        raise NotHere(f"no standard library for {TRIPLE}: rustup could not add it, and Debian's packages could not be had ({failure})") from failure
    return environment(RUSTC=str(programs / "rustc"), RUSTDOC=str(programs / "rustdoc"), CARGO_TARGET_DIR=str(target("neon").resolve()))


def debian():
    """The folder with Debian's newest Rust, unpacked beside its standard library for the target. Nothing is installed."""
    newest = dependencies("libstd-rust-web-dev")[0]
    done = wheels.cache() / f"debian-rust-{newest.rsplit('-', 1)[-1]}"
    if not done.is_dir():
        part = wheels.fresh(done)
        (part / "packages").mkdir()
        here = ["rustc-web", "libstd-rust-web-dev", newest, *(name for name in dependencies(newest) if name.startswith("libllvm"))]
        run("apt-get", "download", *here, cwd=part / "packages")
        # Packages of another architecture need lists of their own.
        (part / "lists/lists/partial").mkdir(parents=True)
        (part / "status").touch()
        places = {"Dir::State": part / "lists", "Dir::State::status": part / "status", "Dir::Cache": part / "lists"}
        options = [f"-o{key}={value}" for key, value in {**places, "APT::Architecture": "arm64", "APT::Architectures": "arm64"}.items()]
        output("apt-get", *options, "update", accept=(0, 100))
        run("apt-get", *options, "download", "libstd-rust-web-dev", cwd=part / "packages")
        for package in (part / "packages").iterdir():
            run("dpkg-deb", "--extract", package, part)
        for spent in ("packages", "lists"):
            shutil.rmtree(part / spent)
        (part / "bin").mkdir()
        for program in ("rustc", "rustdoc"):
            # Its own libraries are not where the loader looks.
            script = part / "bin" / program
            script.write_text(f'#!/bin/sh\nhere=$(dirname "$(dirname "$0")")\nLD_LIBRARY_PATH=$here/usr/lib/x86_64-linux-gnu exec "$here/usr/bin/{program}" "$@"\n')
            script.chmod(0o755)
        part.rename(done)
    return done / "bin"


def dependencies(package):
    """The packages that the newest one of this name needs."""
    found = re.findall(r"^ +Depends: (\S+)", output("apt-cache", "depends", package), re.MULTILINE)
    if not found:
        raise Failed(f"apt knows no package {package}")
    return found
