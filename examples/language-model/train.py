"""Trains the network on the dataset and writes language.onnx.

The run is seeded; training takes 10 to 25 minutes on one core. Validation packages choose nothing but the
figure that is printed on the way: the last state is the one that is exported, and the test packages are
not looked at.

    python3 train.py [--steps N] [--threads N] [--output FILE]
"""

import argparse
import pathlib
import re
import time

import numpy as np
import onnx
import onnxruntime
import torch

from dataset import WINDOW, Dataset, window
from languages import LABELS
from model import Network, multiplications, to_onnx

HERE = pathlib.Path(__file__).resolve().parent
BATCH = 128
LEARNING_RATE = 4e-3
SHORT = 0.5
COMMENT = re.compile(rb"\s*(#|//|/\*|\*|--|\(\*|\{-|<!--|;|%|dnl\b)")


def augmented(text, random):
    """A variation of a file: another start, without its leading comments, shortened, other white space."""
    kind = random.random()
    if kind < 0.3 and len(text) > 400:
        start = text.find(b"\n", random.integers(len(text) - 300)) + 1
        text = text[start:] if len(text) - start > 100 else text
    elif kind < 0.5:
        lines = text.splitlines(keepends=True)
        first = next((i for i, line in enumerate(lines) if line.strip() and not COMMENT.match(line)), 0)
        rest = b"".join(lines[first:])
        text = rest if len(rest) > 100 else text
    if random.random() < 0.15 and len(text) > 800:
        # A block of lines goes, so that no fixed distance between two lines is learnt.
        text = text[:WINDOW]
        start = text.find(b"\n", random.integers(len(text))) + 1
        end = text.find(b"\n", min(len(text), start + random.integers(20, 500))) + 1
        if 0 < start < end:
            text = text[:start] + text[end:]
    if random.random() < 0.2:
        text = text[: random.integers(80, WINDOW)]
    space = random.random()
    if space < 0.04:
        text = text.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    elif space < 0.08:
        text = text.replace(b"\t", b"    ")
    elif space < 0.1:
        text = text.replace(b"    ", b"\t")
    return text


def probabilities(network, data):
    network.eval()
    with torch.no_grad():
        batches = np.array_split(data.rows, max(1, len(data.rows) // 256))
        return np.concatenate(
            [network(torch.from_numpy(np.stack([window(data.head(row)) for row in rows]))).softmax(1).numpy() for rows in batches]
        )


def macro_accuracy(answers, truth):
    present = [label for label in range(len(LABELS)) if (truth == label).any()]
    return float(np.mean([(answers[truth == label] == label).mean() for label in present]))


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--steps", type=int, default=4500)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--output", type=pathlib.Path, default=HERE / "language.onnx")
    arguments = arguments.parse_args()
    torch.manual_seed(1)
    torch.set_num_threads(arguments.threads)
    random = np.random.default_rng(1)

    train, valid = Dataset("train"), Dataset("valid")
    weights = train.weights()
    network = Network()
    parameters = sum(p.numel() for p in network.parameters())
    print(f"{len(train.rows)} files, {parameters} parameters, {multiplications() / 1e6:.1f} million multiplications per file")
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=arguments.steps, pct_start=0.15)
    loss_function = torch.nn.CrossEntropyLoss(label_smoothing=0.05)
    begun, running = time.monotonic(), 0.0
    for step in range(1, arguments.steps + 1):
        rows = random.choice(train.rows, BATCH, p=weights)
        files = torch.from_numpy(np.stack([window(augmented(train.head(row), random)) for row in rows]))
        # Short windows for the first half of the run: the same lessons at half the cost.
        length = WINDOW // 2 if step < arguments.steps * SHORT else WINDOW
        network.train()
        with torch.autocast("cpu", torch.bfloat16):
            answers = network(files[:, :length].contiguous())
        loss = loss_function(answers.float(), torch.from_numpy(train.labels[rows].astype(np.int64)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        running += loss.item()
        if step % 250 == 0 or step == arguments.steps:
            answers = probabilities(network, valid).argmax(1)
            accuracy = macro_accuracy(answers, valid.labels[valid.rows])
            print(f"{step:6} loss {running / 250:.3f} validation {accuracy:.4f} {time.monotonic() - begun:.0f} s", flush=True)
            running = 0.0

    network.eval()
    model = to_onnx(network)
    onnx.save(model, arguments.output)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    sample = Dataset("valid")
    sample.rows = sample.rows[:256]
    inputs = np.stack([window(sample.head(row)) for row in sample.rows])
    difference = np.abs(session.run(None, {"bytes": inputs})[0] - probabilities(network, sample)).max()
    if difference > 1e-4:
        raise SystemExit(f"the exported model differs from the network by {difference}")
    print(f"{arguments.output}: {arguments.output.stat().st_size} bytes, differs from the network by {difference:.1e}")


if __name__ == "__main__":
    main()
