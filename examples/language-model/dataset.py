"""Turns the fetched archives into one dataset file: the heads of labelled source files.

A package gives at most PER_PACKAGE files of one language, picked by a hash of their path, so that no
package dominates. Files that are equal up to white space are kept once, first in the test packages, then
in validation, then in training: nothing that is tested was trained on.

    python3 dataset.py
"""

import collections
import contextlib
import gzip
import hashlib
import subprocess
import tarfile
import zipfile

import numpy as np

from fetch import CACHE, folder, recipe
from languages import LABELS, candidate, label, wanted

# Bytes of a file that the network sees, what fills up a shorter file, and the bytes that are kept for training.
WINDOW, PADDING, HEAD = 2048, 256, 12288
PER_PACKAGE = {"train": 60, "valid": 40, "test": 40}
LARGEST = 4 << 20
SPLITS = ("test", "valid", "train")
OUTPUT = CACHE / "dataset.npz"


class Dataset:
    """The files of one split, in memory."""

    def __init__(self, split):
        with np.load(OUTPUT) as stored:
            self.bytes, self.offsets = stored["bytes"].tobytes(), stored["offsets"]
            self.rows = np.flatnonzero(stored["splits"] == SPLITS.index(split))
            self.labels, self.packages = stored["labels"], stored["packages"]
            self.names, self.paths = stored["names"], stored["paths"]

    def head(self, row):
        return self.bytes[self.offsets[row] : self.offsets[row + 1]]

    def weights(self):
        """Each language equally often, and within it a package by the square root of its files."""
        labels, packages = self.labels[self.rows].astype(np.int64), self.packages[self.rows].astype(np.int64)
        _, group, sizes = np.unique(labels * (1 << 32) + packages, return_inverse=True, return_counts=True)
        weights = sizes[group] ** -0.5
        for label in range(len(LABELS)):
            weights[labels == label] /= weights[labels == label].sum()
        return weights / weights.sum()


def window(text):
    """A file as the network gets it: its first WINDOW bytes, padded."""
    filled = np.full(WINDOW, PADDING, dtype=np.int32)
    cut = np.frombuffer(text[:WINDOW], dtype=np.uint8)
    filled[: len(cut)] = cut
    return filled


def archives(row):
    """The archives of one package that hold its sources, or upstream's part of them."""
    for path in sorted(folder(row).iterdir()):
        if path.suffix in (".deb", ".whl", ".crate", ".tgz"):
            yield path
        elif row["client"] == "apt-source" and ".tar." in path.name and ".debian.tar" not in path.name and path.suffix != ".asc":
            yield path


def entries(archive):
    """(path, size, open) of each regular file of an archive."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for entry in wheel.infolist():
                yield entry.filename, entry.file_size, lambda: wheel.open(entry)
        return
    packed = contextlib.nullcontext(archive)
    if archive.suffix == ".deb":
        packed = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE)
    with packed as source:
        piped = archive.suffix == ".deb"
        with tarfile.open(fileobj=source.stdout, mode="r|") if piped else tarfile.open(source, "r|*") as tar:
            for entry in tar:
                if entry.isreg():
                    name = entry.name.removeprefix("./")
                    # All but an installed tree lie in one folder that is named after the package.
                    yield (name if piped else name.split("/", 1)[-1]), entry.size, lambda: tar.extractfile(entry)


def read_head(path, file):
    """The first bytes of a file; documentation may be compressed."""
    return (gzip.open(file) if path.endswith(".gz") else file).read(HEAD)


def files(row):
    """(order, path, head, digest, label) of each labelled file of a package."""
    found = []
    for archive in archives(row):
        for path, size, opened in entries(archive):
            suggested = candidate(path.removesuffix(".gz")) if wanted(path) else None
            if suggested is None or not 0 < size <= LARGEST:
                continue
            try:
                found.append((path, suggested, read_head(path, opened())))
            except (gzip.BadGzipFile, EOFError):
                continue
    suggestions = {suggested for _, suggested, _ in found}
    for path, suggested, head in found:
        named = label(suggested, head, "c" in suggestions, "cpp" in suggestions)
        if named is not None:
            digest = hashlib.sha256(b"".join(head.split())).digest()
            order = hashlib.sha256(path.encode()).digest()
            yield order, path, head, digest, named


def main():
    rows = [row for row in recipe() if (folder(row) / "complete").exists()]
    seen = set()
    heads, labels, packages, splits, paths = [], [], [], [], []
    for split in SPLITS:
        for number, row in enumerate(rows):
            if row["split"] != split:
                continue
            taken = collections.Counter()
            for _, path, head, digest, named in sorted(files(row)):
                if digest in seen or taken[named] >= PER_PACKAGE[split]:
                    continue
                seen.add(digest)
                taken[named] += 1
                heads.append(head)
                labels.append(LABELS.index(named))
                packages.append(number)
                splits.append(SPLITS.index(split))
                paths.append(path)
    offsets = np.cumsum([0] + [len(head) for head in heads])
    with open(OUTPUT, "wb") as file:
        np.savez(
            file,
            bytes=np.frombuffer(b"".join(heads), dtype=np.uint8),
            offsets=offsets,
            labels=np.array(labels, dtype=np.int16),
            packages=np.array(packages, dtype=np.int32),
            splits=np.array(splits, dtype=np.int8),
            names=np.array([f"{row['client']}:{row['package']}" for row in rows]),
            paths=np.array(paths),
        )
    print(f"{len(heads)} files, {offsets[-1] >> 20} MiB in {OUTPUT}")
    print(f"{'':12}" + "".join(f"{split + ' files':>14}{split + ' pkgs':>13}" for split in SPLITS))
    labels, packages, splits = np.array(labels), np.array(packages), np.array(splits)
    for index, name in enumerate(LABELS):
        line = f"{name:12}"
        for split in range(len(SPLITS)):
            chosen = (labels == index) & (splits == split)
            line += f"{chosen.sum():14}{len(set(packages[chosen])):13}"
        print(line)


if __name__ == "__main__":
    main()
