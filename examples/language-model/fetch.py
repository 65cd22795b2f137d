"""Fetches the source packages that packages.tsv lists, by name and pinned version.

Every package comes through the ordinary client of its registry: Debian packages through apt-get (binary
packages where they carry sources, else source packages, whose entries are switched on in a private copy of the
machine's own configuration, so that nothing on the machine changes), crates through cargo, wheels through
pip, npm packages through npm. The clients check what they download against the published digests, and
nothing of a package is run. The archives stay packed, in a cache folder outside of the tree; a package
that is there already is not fetched again.

    python3 fetch.py [--allow-missing]
"""

import argparse
import csv
import os
import pathlib
import re
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "millstream" / "languages"
BATCH = 20


def recipe():
    """The rows of packages.tsv: client, package, version, split."""
    with open(HERE / "packages.tsv", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def folder(row):
    """Where the archives of one package lie."""
    version = row["version"].replace(":", "%3a")
    return CACHE / row["client"] / (row["package"].replace("/", "+") + "@" + version)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--allow-missing", action="store_true", help="go on without packages that are not to be had")
    arguments = arguments.parse_args()
    wanted = [row for row in recipe() if not (folder(row) / "complete").exists()]
    missing = []
    for client, download in (("apt", apt), ("apt-source", AptSource()), ("cargo", cargo), ("npm", npm), ("pip", pip)):
        rows = [row for row in wanted if row["client"] == client]
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            print(f"{client}: {start + len(batch)} of {len(rows)}", flush=True)
            if not download(batch):
                # One name that is gone fails the whole call: find out which one it is.
                missing += [row for row in batch if not download([row])]
    for row in missing:
        print(f"not to be had: {row['client']} {row['package']} {row['version']}", file=sys.stderr)
    if missing and not arguments.allow_missing:
        sys.exit("the packages above could not be fetched; --allow-missing goes on without them")


def apt(rows):
    """Debian binary packages, of languages whose packages are their sources."""
    inbox = empty("apt-inbox")
    names = [f"{row['package']}={row['version']}" for row in rows]
    if subprocess.run(["apt-get", "-qq", "-o", "APT::Sandbox::User=", "download", *names], cwd=inbox).returncode != 0:
        return False
    for row in rows:
        place(row, inbox.glob(f"{row['package']}_*.deb"))
    return True


class AptSource:
    """Debian source packages, from the suites that this machine's apt is set up for."""

    def __init__(self):
        self.root = CACHE / "apt-source-state"
        self.options = None

    def __call__(self, rows):
        if self.options is None:
            self.prepare()
        inbox = self.root / "inbox"
        inbox.mkdir(exist_ok=True)
        names = [f"{row['package']}={row['version']}" for row in rows]
        done = subprocess.run(["apt-get", *self.options, "-qq", "source", "--download-only", *names], cwd=inbox)
        if done.returncode != 0:
            return False
        for row in rows:
            version = row["version"].split(":", 1)[-1]
            description = inbox / f"{row['package']}_{version}.dsc"
            files = set(re.findall(r"^ [0-9a-f]{64} \d+ (\S+)$", description.read_text(), re.M))
            place(row, [description, *(inbox / name for name in sorted(files))])
        return True

    def prepare(self):
        sources = self.root / "sources.list.d"
        for needed in (sources, self.root / "lists" / "partial", self.root / "cache"):
            needed.mkdir(parents=True, exist_ok=True)
        for file in sorted(pathlib.Path("/etc/apt/sources.list.d").glob("*.sources")):
            text = file.read_text()
            if "debian" in file.name:
                (sources / file.name).write_text(text.replace("Types: deb\n", "Types: deb-src\n"))
        one_line = pathlib.Path("/etc/apt/sources.list")
        if one_line.exists():
            lines = [line for line in one_line.read_text().splitlines() if line.startswith("deb ") and "debian" in line]
            (sources / "source.list").write_text("".join("deb-src" + line[3:] + "\n" for line in lines))
        self.options = [
            option
            for setting in (
                "Dir::Etc::sourcelist=/dev/null",
                f"Dir::Etc::sourceparts={sources}",
                f"Dir::State::lists={self.root / 'lists'}",
                f"Dir::Cache={self.root / 'cache'}",
                "APT::Sandbox::User=",
            )
            for option in ("-o", setting)
        ]
        subprocess.run(["apt-get", *self.options, "-qq", "update"], check=True)


def cargo(rows):
    """Crates, out of the cache that cargo fills when it fetches a package that depends on them."""
    project, home = empty("cargo-inbox"), CACHE / "cargo-home"
    (project / "src").mkdir()
    (project / "src" / "lib.rs").touch()
    manifest = '[package]\nname = "sources"\nversion = "0.0.0"\nedition = "2024"\n\n[dependencies]\n'
    for row in rows:
        manifest += f'{row["package"]} = {{ version = "={row["version"]}", default-features = false }}\n'
    (project / "Cargo.toml").write_text(manifest)
    environment = dict(os.environ, CARGO_HOME=str(home))
    if subprocess.run(["cargo", "fetch", "--quiet"], cwd=project, env=environment).returncode != 0:
        return False
    for row in rows:
        place(row, home.glob(f"registry/cache/*/{row['package']}-{row['version']}.crate"))
    shutil.rmtree(home)
    return True


def npm(rows):
    """npm packages; no script of theirs is run."""
    for row in rows:
        inbox = empty("npm-inbox")
        name = f"{row['package']}@{row['version']}"
        command = ["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", inbox, name]
        if subprocess.run(command, stdout=subprocess.DEVNULL).returncode != 0:
            return False
        place(row, inbox.glob("*.tgz"))
    return True


def pip(rows):
    """Python wheels; a package that has none for this machine is not to be had."""
    for row in rows:
        inbox = empty("pip-inbox")
        name = f"{row['package']}=={row['version']}"
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:", "--dest", inbox]
        if subprocess.run([sys.executable, "-m", "pip", "download", *options, name]).returncode != 0:
            return False
        place(row, inbox.glob("*.whl"))
    return True


def empty(name):
    """A fresh folder for what a client writes."""
    inbox = CACHE / name
    shutil.rmtree(inbox, ignore_errors=True)
    inbox.mkdir(parents=True)
    return inbox


def place(row, files):
    """Moves a package's archives to its own folder, and marks it as complete."""
    target = folder(row)
    target.mkdir(parents=True, exist_ok=True)
    for file in list(files):
        if file.exists():
            shutil.move(file, target / file.name)
    (target / "complete").touch()


if __name__ == "__main__":
    main()
