"""The ONNX project's backend tests, held against the manifest of those that pass."""

import json

from . import wheels
from .process import ROOT, Failed, output, program, say

MANIFEST = ROOT / "tests/conformance.txt"
KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator", "light")
# The data are the same in every wheel of the release; this one is pinned.
WHEEL = ("--platform", "manylinux_2_28_x86_64", "--platform", "manylinux_2_27_x86_64", "--python-version", "3.12", "--implementation", "cp", "--abi", "abi3")
TESTS = 1914
# What CUDA's plans pass beside the manifest: nodes that no plan holds may carry sequences and optionals there.
BEYOND = {"node/test_identity_opt", "node/test_identity_sequence"}
HEADER = """# Backend tests of onnx==1.22.0 that pass, as `millstream test` judges them: kind/name, one a line.
# `tests/run.py --only conformance` fails if one of them fails, and if another one passes: then add it, with
# `tests/run.py --only conformance --write`.
"""


def check(write=False):
    """Runs every test and compares with the manifest, or writes it."""
    results = run_tests(program(), KINDS)
    if write:
        MANIFEST.write_text(HEADER + "".join(f"{name}\n" for name in sorted(passed(results))))
    problems = [f"{len(results)} tests ran, the data hold {TESTS}"] if len(results) != TESTS else []
    compare(results, listed(), problems)


def check_device(millstream, device, env):
    """Runs the tests of single operators on another device: what the manifest lists passes there too, and nothing else but
    `BEYOND`."""
    results = run_tests(millstream, ("node",), "--device", device, env=env)
    compare(results, {name for name in listed() if name.startswith("node/")} | BEYOND, [])


def run_tests(millstream, kinds, *options, env=None):
    """What `millstream test` says of every test of these kinds, by kind/name."""
    data = wheels.unpacked("conformance", WHEEL) / "onnx/onnx/backend/test/data"
    results = {}
    for kind in kinds:
        # Exit status 1 says that some tests did not pass, which the manifest judges.
        report = json.loads(output(millstream, "test", data / kind, "--json", *options, env=env, accept=(0, 1)))
        results.update({f"{kind}/{test['name'].rsplit('/', 1)[-1]}": test for test in report["tests"]})
    count = {r: sum(t["result"] == r for t in results.values()) for r in ("pass", "fail", "unsupported")}
    where = " ".join(("conformance", *options))
    say(f"{where}: {count['pass']} of {len(results)} pass, {count['fail']} fail, {count['unsupported']} unsupported")
    return results


def passed(results):
    """The names of those that pass."""
    return {name for name, test in results.items() if test["result"] == "pass"}


def listed():
    """The manifest's names."""
    return {line for line in MANIFEST.read_text().splitlines() if line and not line.startswith("#")}


def compare(results, wanted, problems):
    """Fails unless exactly those pass that are wanted, and there are no other problems."""
    found = passed(results)
    problems += [f"listed but {results.get(name, {}).get('result', 'not run')}: {name} {results.get(name, {}).get('reason') or ''}" for name in sorted(wanted - found)]
    problems += [f"passes but is not listed: {name}" for name in sorted(found - wanted)]
    for problem in problems:
        say(f"  {problem}")
    if problems:
        raise Failed(f"{len(problems)} differences from {MANIFEST.relative_to(ROOT)}")
