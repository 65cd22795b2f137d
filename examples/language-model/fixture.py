"""Writes fixture.json: what the model says about the snippets, for tests of other runtimes.

The snippets were written for this purpose and come from no package.

    python3 fixture.py
"""

import hashlib
import json
import pathlib

import numpy as np
import onnxruntime

from dataset import window

HERE = pathlib.Path(__file__).resolve().parent


def main():
    model = HERE / "language.onnx"
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    labels = session.get_modelmeta().custom_metadata_map["labels"].split(",")
    snippets = sorted((HERE / "snippets").glob("*.txt"))
    files = np.stack([window(path.read_bytes()) for path in snippets])
    probabilities = session.run(["probabilities"], {"bytes": files})[0]
    samples = []
    for path, row in zip(snippets, probabilities):
        samples.append({"label": path.stem, "text": path.read_text(), "probabilities": [float(f"{p:.8g}") for p in row]})
        named = labels[row.argmax()]
        print(f"{path.stem:12} {row.max():.3f}" + ("" if named == path.stem else f" named {named}"))
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    (HERE / "fixture.json").write_text(json.dumps({"model_sha256": digest, "labels": labels, "samples": samples}, indent=1) + "\n")


if __name__ == "__main__":
    main()
