"""The network: bytes in, one probability per language out, about 8 million multiplications per file.

Byte embedding, three strided convolutions along the file (each with batch normalisation, which the export
folds into the convolution), the greatest and the mean activation over the file, two dense layers.
"""

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from dataset import PADDING, WINDOW
from languages import LABELS

OPSET = 17

EMBEDDING = 12
# (channels out, kernel, stride, max-pool after it)
CONVOLUTIONS = ((48, 6, 2, 2), (64, 4, 2, 2), (96, 3, 2, 1))
HIDDEN = 128
EPSILON = 1e-5


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(PADDING + 1, EMBEDDING, padding_idx=PADDING)
        self.convolutions, self.norms = nn.ModuleList(), nn.ModuleList()
        channels = EMBEDDING
        for out, kernel, stride, _ in CONVOLUTIONS:
            self.convolutions.append(nn.Conv2d(channels, out, (1, kernel), (1, stride), padding=(0, 1), bias=False))
            self.norms.append(nn.BatchNorm2d(out, eps=EPSILON))
            channels = out
        self.hidden = nn.Linear(2 * channels, HIDDEN)
        self.output = nn.Linear(HIDDEN, len(LABELS))
        self.dropout = nn.Dropout(0.3)
        # The embedding's own order; twice as fast to train as the other one.
        self.to(memory_format=torch.channels_last)

    def forward(self, files):
        x = self.embedding(files).transpose(1, 2).unsqueeze(2)
        for convolution, norm, (_, _, _, pool) in zip(self.convolutions, self.norms, CONVOLUTIONS):
            x = norm(convolution(x)).relu()
            if pool > 1:
                x = nn.functional.max_pool2d(x, (1, pool))
        x = x.squeeze(2)
        x = torch.cat((x.amax(2), x.mean(2)), 1)
        x = self.hidden(self.dropout(x)).relu()
        return self.output(self.dropout(x))


def to_onnx(network):
    """The trained network as an ONNX model with a dynamic batch and the labels in its metadata."""
    nodes, weights = [], []

    def weight(name, value):
        weights.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype=np.float32), name))
        return name

    def node(operator, inputs, output, **attributes):
        nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    state = {name: value.detach().double().cpu().numpy() for name, value in network.state_dict().items()}
    x = node("Gather", [weight("embedding.weight", state["embedding.weight"]), "bytes"], "embedded", axis=0)
    x = node("Transpose", [x], "channels_first", perm=[0, 2, 1])
    for index, (_, kernel, stride, pool) in enumerate(CONVOLUTIONS):
        norm = {part: state[f"norms.{index}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")}
        scale = norm["weight"] / np.sqrt(norm["running_var"] + EPSILON)
        w = weight(f"conv{index}.weight", state[f"convolutions.{index}.weight"].squeeze(2) * scale[:, None, None])
        b = weight(f"conv{index}.bias", norm["bias"] - norm["running_mean"] * scale)
        x = node("Conv", [x, w, b], f"conv{index}", kernel_shape=[kernel], strides=[stride], pads=[1, 1])
        x = node("Relu", [x], f"relu{index}")
        if pool > 1:
            x = node("MaxPool", [x], f"pool{index}", kernel_shape=[pool], strides=[pool])
    greatest = node("Flatten", [node("GlobalMaxPool", [x], "greatest")], "greatest_flat", axis=1)
    mean = node("Flatten", [node("GlobalAveragePool", [x], "mean")], "mean_flat", axis=1)
    x = node("Concat", [greatest, mean], "summary", axis=1)
    for layer in ("hidden", "output"):
        w, b = weight(f"{layer}.weight", state[f"{layer}.weight"]), weight(f"{layer}.bias", state[f"{layer}.bias"])
        x = node("Gemm", [x, w, b], f"{layer}", transB=1)
        if layer == "hidden":
            x = node("Relu", [x], "hidden_relu")
    node("Softmax", [x], "probabilities", axis=1)

    graph = helper.make_graph(
        nodes,
        "source-language",
        [helper.make_tensor_value_info("bytes", TensorProto.INT32, ["batch", WINDOW])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", len(LABELS)])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8, producer_name="millstream")
    helper.set_model_props(model, {"labels": ",".join(LABELS), "padding": str(PADDING)})
    onnx.checker.check_model(model, full_check=True)
    return model


def multiplications():
    """Multiply-accumulates for one file."""
    channels, length, total = EMBEDDING, WINDOW, 0
    for out, kernel, stride, pool in CONVOLUTIONS:
        length = (length + 2 - kernel) // stride + 1
        total += length * channels * kernel * out
        channels, length = out, length // pool
    return total + 2 * channels * HIDDEN + HIDDEN * len(LABELS)
