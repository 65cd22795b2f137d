"""The ONNX project's backend tests, held against the manifest of those that pass."""

import json

from . import wheels
from .process import ROOT, Failed, output, program, say

MANIFEST = ROOT / "tests/conformance.txt"
KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator", "light")
# The data are the same in every wheel of the release; this one is pinned.
WHEEL = ("--platform", "manylinux_2_28_x86_64", "--platform", "manylinux_2_27_x86_64", "--python-version", "3.12", "--implementation", "cp", "--abi", "abi3")
TESTS = 1914
HEADER = """# Backend tests of onnx==1.22.0 that pass, as `millstream test` judges them: kind/name, one a line.
# `tests/run.py --only conformance` fails if one of them fails, and if another one passes: then add it, with
# `tests/run.py --only conformance --write`.
"""


def check(write=False):
    """Runs every test and compares with the manifest, or writes it."""
    data = wheels.unpacked("conformance", WHEEL) / "onnx/onnx/backend/test/data"
    millstream = program()
    results = {}
    for kind in KINDS:
        # Exit status 1 says that some tests did not pass, which the manifest judges.
        report = json.loads(output(millstream, "test", data / kind, "--json", accept=(0, 1)))
        results.update({f"{kind}/{test['name'].rsplit('/', 1)[-1]}": test for test in report["tests"]})
    passed = {name for name, test in results.items() if test["result"] == "pass"}
    count = {r: sum(t["result"] == r for t in results.values()) for r in ("pass", "fail", "unsupported")}
    say(f"conformance: {count['pass']} of {len(results)} pass, {count['fail']} fail, {count['unsupported']} unsupported")
    if write:
        MANIFEST.write_text(HEADER + "".join(f"{name}\n" for name in sorted(passed)))
    listed = {line for line in MANIFEST.read_text().splitlines() if line and not line.startswith("#")}
    problems = [f"listed but {results.get(name, {}).get('result', 'not run')}: {name} {results.get(name, {}).get('reason') or ''}" for name in sorted(listed - passed)]
    problems += [f"passes but is not listed: {name}" for name in sorted(passed - listed)]
    if len(results) != TESTS:
        problems.append(f"{len(results)} tests ran, the data hold {TESTS}")
    for problem in problems:
        say(f"  {problem}")
    if problems:
        raise Failed(f"{len(problems)} differences from {MANIFEST.relative_to(ROOT)}")
