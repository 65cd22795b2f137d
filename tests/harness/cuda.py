"""The CUDA kernels without a GPU: compiled for sm_80 and sm_90, and their arithmetic checked on the host shim."""

import importlib.util
import itertools
import os
import platform
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import candle_cuda, cuda_mutants, stand_in, wheels
from .process import ROOT, Failed, NotHere, output, say, target

HOME = ROOT / "backends/cuda"
ARCHITECTURES = ("sm_80", "sm_90")
# The texts are part of the program; what is larger than this would be better made when it is needed.
MOST_PTX = 4 << 20
FLAGS = ("-std=c++20", "-O1", "-g0", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function")
MACHINE = ("shim.cpp", "fiber.cpp", "collectives.cpp")
# Sanitizers of kernels and checks, of the shim's machine, and how many schedules are run. A third of them each goes in
# order, interleaved, and greedily.
SANITIZERS = {
    "address": (("-fsanitize=address,undefined", "-fno-sanitize-recover=all"), ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"), 6),
    "thread": (("-fsanitize=thread",), ("-DSHIM_TSAN",), 3),
    "none": ((), (), 6),
}
# A broken kernel is caught within so many schedules, or the shim is no good.
MUTANT_SCHEDULES = 6
PATIENCE = 120


def check(write=False):
    """Contracts, PTX, registers and spills; the checks under sanitizers; kernels broken on purpose; launches by the stand-in driver, Candle's too."""
    compile_kernels(write)
    compiler, sanitizers = host_compiler()
    run_checks(compiler, sanitizers)
    break_kernels(compiler, sanitizers)
    candle_cuda.check(compiler, stand_in.check(compiler))


# ---- Compiling for GPUs ----


def compile_kernels(write):
    """Makes PTX, holds it against the committed texts and the comments' promises, and translates it for each architecture."""
    if platform.machine() != "x86_64" or sys.platform != "linux":
        raise NotHere(f"NVIDIA's compiler is fetched for Linux on x86-64, not for {sys.platform} on {platform.machine()}")
    fetched = wheels.unpacked("cuda")
    folders = sorted(path for path in fetched.glob("*/nvidia/cu13"))
    ptxas = next(path for path in (folder / "bin/ptxas" for folder in folders) if path.is_file())
    ptxas.chmod(0o755)  # which unpacking does not keep
    maker = module(HOME / "ptx.py")
    try:
        made = maker.make(folders)
    except SyntaxError as error:
        raise Failed(str(error)) from error
    size = sum(map(len, made.values()))
    if size > MOST_PTX:
        raise Failed(f"the PTX is {size} bytes, and may be {MOST_PTX}")
    if write:
        maker.write(made)
    if stale := maker.stale(made):
        raise Failed(f"PTX that is not what the sources give: {', '.join(stale)}; tests/run.py --only cuda --write")
    promises = {source.stem: contracts(source) for source in maker.sources()}
    for name, text in made.items():
        hold(name, promises[name], text)
    jobs = [(name, architecture) for name in made for architecture in ARCHITECTURES]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        used = list(pool.map(lambda job: translate(ptxas, *job, promises[job[0]]), jobs))
    entries = sum(map(len, promises.values()))
    say(f"{entries} entries in {len(made)} modules ({size // 1024} KiB of PTX), for {' and '.join(ARCHITECTURES)}: no spills, at most {max(used)} registers")


def module(path):
    """A Python file as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def contracts(source):
    """What the comments of a kernel file promise: name of an entry → block, registers, number of arguments."""
    found, arguments = {}, None
    lines = [line[2:].strip() if line.startswith("//") else "" for line in source.read_text().splitlines()]
    for at, line in enumerate(lines):
        if not line.startswith("entries:"):
            continue
        text = line.removeprefix("entries:")
        launch = lines[at + 1]
        terms = re.fullmatch(r"launch: block=(\d+) grid=(.+) shared=(.+) registers=(\d+)", launch)
        if not terms:
            raise Failed(f"{source.name}: the line after `{line}` does not say how to launch: {launch}")
        rest = " ".join(itertools.takewhile(bool, lines[at + 2 :]))
        told = re.match(r"args: (.*?)\.(\s|$)", re.sub(r"\([^()]*\)", "", rest))
        if not told:
            raise Failed(f"{source.name}: no arguments after `{line}`")
        if not told[1].startswith("as above"):
            arguments = len(told[1].split(","))
        for name in itertools.chain.from_iterable(map(expanded, text.split())):
            if name in found:
                raise Failed(f"{source.name}: {name} is promised twice")
            found[name] = (int(terms[1]), int(terms[4]), arguments)
    return found


def expanded(pattern):
    """Every word of a pattern with braces: a_{b,c} gives a_b and a_c."""
    parts = re.split(r"\{([^}]*)\}", pattern)
    choices = [part.split(",") if i % 2 else [part] for i, part in enumerate(parts)]
    return ["".join(words) for words in itertools.product(*choices)]


def hold(name, promised, ptx):
    """The entries of a PTX text are those promised, with their blocks and numbers of arguments."""
    made = {}
    for entry in re.split(r"\.visible \.entry ", ptx)[1:]:
        head = entry.split("{", 1)[0]
        made[re.match(r"\w+", head)[0]] = (int(re.search(r"\.maxntid (\d+)", head)[1]), len(re.findall(r"\.param ", head)))
    if made.keys() != promised.keys():
        raise Failed(f"{name}.cu: in the comments and not in the PTX, or the other way: {', '.join(sorted(made.keys() ^ promised.keys()))}")
    if any(int(alignment) < 16 for alignment in re.findall(r"\.shared \.align (\d+)", ptx)):
        raise Failed(f"{name}.cu: shared memory that is not aligned for loads of 16 bytes, which the shim's always is")
    for entry, (block, arguments) in made.items():
        if (block, arguments) != (promised[entry][0], promised[entry][2]):
            raise Failed(f"{name}.cu: {entry} has a block of {block} and {arguments} arguments; its comment says {promised[entry][0]} and {promised[entry][2]}")


def translate(ptxas, name, architecture, promised):
    """Machine code of a module: nothing may spill, and registers stay within what the comments allow. The most used."""
    command = [str(ptxas), f"-arch={architecture}", "-O3", "-v", str(HOME / "ptx" / f"{name}.ptx"), "-o", os.devnull]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"ptxas: {name} for {architecture}: {done.stderr[-2000:]}")
    used = {}
    for part in done.stderr.split("Compiling entry function '")[1:]:
        entry = part.split("'", 1)[0]
        registers = used[entry] = int(re.search(r"Used (\d+) registers", part)[1])
        if re.search(r"[1-9]\d* bytes spill", part):
            raise Failed(f"{entry} spills registers on {architecture}: {part.splitlines()[2].strip()}")
        if registers > promised[entry][1]:
            raise Failed(f"{entry} uses {registers} registers on {architecture}, and its comment allows {promised[entry][1]}")
    if used.keys() != promised.keys():
        raise Failed(f"ptxas said nothing of {', '.join(sorted(promised.keys() - used.keys()))}")
    return max(used.values())


# ---- Running on the shim ----


def host_compiler():
    """A compiler of C++20 and the sanitizers that work with it: this machine's, or zig's out of a wheel, which has none."""
    probe = target("cuda-shim/probe").resolve()
    probe.mkdir(parents=True, exist_ok=True)
    source = probe / "probe.cpp"
    source.write_text("#include <source_location>\nint main() { return std::source_location::current().line() == 0; }\n")

    def works(compiler, flags):
        program = probe / "probe"
        built = subprocess.run([*compiler, "-std=c++20", *flags, str(source), "-o", str(program)], capture_output=True)
        return built.returncode == 0 and subprocess.run([*still(), str(program)], capture_output=True).returncode == 0

    for name in filter(None, (os.environ.get("CXX"), "g++", "clang++")):
        if shutil.which(name) and works([name], ()):
            found = [kind for kind in ("address", "thread") if works([name], SANITIZERS[kind][0])]
            say(f"checks are compiled by {name}, with the sanitizers: {', '.join(found) or 'none'}")
            return [name], found or ["none"]
    zig = [str(wheels.environment("zig")), "-m", "ziglang", "c++"]
    if not works(zig, ()):
        raise NotHere("no compiler of C++20: neither g++ nor clang++ is here, and zig's does not work")
    say("checks are compiled by zig c++, which has no sanitizers: bounds and races are not checked here")
    return zig, ["none"]


def still():
    """A prefix that turns address randomisation off, which older ThreadSanitizers do not bear."""
    return ["setarch", "-R"] if shutil.which("setarch") else []


def build(compiler, sanitizer, family, tree, folder):
    """A family's checks as a program; `tree` holds `kernels` and `shim`, and the shim's objects are shared."""
    kernels, _, _ = SANITIZERS[sanitizer]
    objects = target(f"cuda-shim/{sanitizer}").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / family
    machine = [str(objects / f"{source}.o") for source in (*MACHINE, "checks/check.cpp")]
    output(*compiler, *FLAGS, *kernels, tree / f"shim/checks/{family}.cpp", *machine, "-lm", "-lpthread", "-o", program)
    return program


def build_machine(compiler, sanitizer):
    """The objects that all programs share."""
    kernels, machine, _ = SANITIZERS[sanitizer]
    objects = target(f"cuda-shim/{sanitizer}").resolve()
    (objects / "checks").mkdir(parents=True, exist_ok=True)
    for source in (*MACHINE, "checks/check.cpp"):
        flags = machine if source in MACHINE else kernels
        output(*compiler, *FLAGS, *flags, "-c", HOME / "shim" / source, "-o", objects / f"{source}.o")


def execute(program, schedules):
    """Runs a program of checks; its exit status and what it said."""
    try:
        done = subprocess.run([*still(), str(program), str(schedules)], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return None, f"no end within {PATIENCE} s"
    return done.returncode, done.stdout + done.stderr


def run_checks(compiler, sanitizers):
    """Every family of checks under every sanitizer."""
    families = sorted(path.stem for path in (HOME / "shim/checks").glob("*.cpp") if path.stem != "check")
    for sanitizer in sanitizers:
        build_machine(compiler, sanitizer)
    jobs = [(family, sanitizer) for sanitizer in sanitizers for family in families]

    def one(job):
        family, sanitizer = job
        program = build(compiler, sanitizer, family, HOME, target(f"cuda-shim/{sanitizer}/checks").resolve())
        return execute(program, SANITIZERS[sanitizer][2])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for (family, sanitizer), (status, text) in zip(jobs, pool.map(one, jobs)):
            if status != 0:
                raise Failed(f"{family} under the sanitizer {sanitizer}: exit status {status}\n{text[-4000:]}")
            say(f"{family:16} {sanitizer:8} {text.splitlines()[-1]}")


def break_kernels(compiler, sanitizers):
    """Kernels with one mistake each: the checks must find it, or they are no checks."""
    mutants = [mutant for mutant in cuda_mutants.MUTANTS if mutant.sanitizer in (None, *sanitizers)]

    def one(mutant):
        sanitizer = mutant.sanitizer or sanitizers[0]
        folder = target(f"cuda-shim/mutants/{mutant.name.replace(' ', '-')}").resolve()
        shutil.rmtree(folder, ignore_errors=True)
        for part in ("kernels", "shim"):
            shutil.copytree(HOME / part, folder / part)
        source = folder / "kernels" / mutant.file
        text = source.read_text()
        if text.count(mutant.old) != 1:
            raise Failed(f"the mutant `{mutant.name}` does not fit {mutant.file}: its text is there {text.count(mutant.old)} times")
        source.write_text(text.replace(mutant.old, mutant.new))
        return execute(build(compiler, sanitizer, mutant.family, folder, folder), MUTANT_SCHEDULES)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for mutant, (status, text) in zip(mutants, pool.map(one, mutants)):
            if status == 0:
                raise Failed(f"nobody notices in {mutant.file}: {mutant.name}")
            signs = ("not ", "shim:", "ERROR:", "WARNING:", "runtime error", "no end")
            line = next((line for line in text.splitlines() if any(sign in line for sign in signs)), "")
            say(f"caught in {mutant.file}: {mutant.name} ({line.strip()[:110]})")
    if len(mutants) < len(cuda_mutants.MUTANTS):
        say(f"{len(cuda_mutants.MUTANTS) - len(mutants)} broken kernels need a sanitizer that is not here")
