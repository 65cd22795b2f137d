"""Prints the accuracy of language.onnx on packages that it never saw, with the confusion table.

    python3 evaluate.py [--model FILE] [--split test] [--errors N]
"""

import argparse
import pathlib

import numpy as np
import onnxruntime

from dataset import Dataset, window

HERE = pathlib.Path(__file__).resolve().parent


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--model", type=pathlib.Path, default=HERE / "language.onnx")
    arguments.add_argument("--split", choices=("test", "valid"), default="test")
    arguments.add_argument("--errors", type=int, default=0, help="list this many of the files named wrongly per language")
    arguments = arguments.parse_args()

    session = onnxruntime.InferenceSession(arguments.model, providers=["CPUExecutionProvider"])
    labels = session.get_modelmeta().custom_metadata_map["labels"].split(",")
    data = Dataset(arguments.split)
    truth = data.labels[data.rows].astype(int)
    answers = []
    for rows in np.array_split(data.rows, max(1, len(data.rows) // 256)):
        files = np.stack([window(data.head(row)) for row in rows])
        answers.append(session.run(["probabilities"], {"bytes": files})[0].argmax(1))
    answers = np.concatenate(answers)

    confusion = np.zeros((len(labels), len(labels)), dtype=int)
    np.add.at(confusion, (truth, answers), 1)
    short = [label[:4] for label in labels]
    print(f"{'':10} files  packages  recall " + " ".join(f"{name:>4}" for name in short))
    for index, label in enumerate(labels):
        row = confusion[index]
        packages = len(set(data.packages[data.rows[truth == index]]))
        recall = f"{row[index] / row.sum():7.1%}" if row.sum() else "      -"
        cells = " ".join(f"{count or '·':>4}" for count in row)
        print(f"{label:10} {row.sum():5}  {packages:8} {recall} {cells}")
    recalls = [row[i] / row.sum() for i, row in enumerate(confusion) if row.sum()]
    total, packages = confusion.sum(), len(set(data.packages[data.rows]))
    print(f"{total} files of {packages} packages: accuracy {np.trace(confusion) / total:.2%}")
    print(f"macro-averaged accuracy over {len(recalls)} languages: {np.mean(recalls):.2%}")

    origin = data.packages[data.rows]
    by_package = []
    for index in range(len(labels)):
        shares = [np.mean(answers[(truth == index) & (origin == p)] == index) for p in set(origin[truth == index])]
        by_package += [np.mean(shares)] if shares else []
    print(f"the same with each package counting once in its language: {np.mean(by_package):.2%}")

    for index in range(len(labels)):
        wrong = np.flatnonzero((truth == index) & (answers != index))[: arguments.errors]
        for i in wrong:
            row = data.rows[i]
            print(f"{labels[index]} named {labels[answers[i]]}: {data.names[data.packages[row]]} {data.paths[row]}")


if __name__ == "__main__":
    main()
