"""CUDA kernels broken on purpose: one mistake each, of the kinds that people make, in copies of the sources.

The first part was written while the shim was; the second after it and the checks were finished, to see what they miss."""

from typing import NamedTuple, Optional


class Mutant(NamedTuple):
    """A mistake: in `file`, `old` becomes `new`. The checks of `family` find it, where `sanitizer` is at hand if named."""

    name: str
    file: str
    family: str
    old: str
    new: str
    sanitizer: Optional[str] = None


FIRST = [
    Mutant("no barrier between filling a tile and reading it", "movement.cu", "movement", "            __syncthreads(); \\\n            UNROLL for (int k = first; k < TILE; k += TILE_ROWS) { \\\n                if (c + k", "            UNROLL for (int k = first; k < TILE; k += TILE_ROWS) { \\\n                if (c + k"),
    Mutant("a bound one too far", "elementwise.cu", "elementwise", "for (i64 i = done + thread_of_grid(); i < n; i += threads_of_grid()) y[i] = rounded<T>(f(", "for (i64 i = done + thread_of_grid(); i <= n; i += threads_of_grid()) y[i] = rounded<T>(f(", "address"),
    Mutant("lanes that join the wrong half", "millstream.cuh", "norm", "for (int distance = WARP / 2; distance > 0; distance /= 2) x = R::join(x, __shfl_xor_sync(WHOLE_WARP, x, distance));\n    return x;\n}\n\n// The value of THREADS", "for (int distance = WARP / 4; distance > 0; distance /= 2) x = R::join(x, __shfl_xor_sync(WHOLE_WARP, x, distance));\n    return x;\n}\n\n// The value of THREADS"),
    Mutant("a barrier that some threads go around", "norm.cu", "norm", "if (team.rank() == 0) y[row] = rounded<T>(end_of(op, v, length)); \\", "if (team.rank() == 0) __syncthreads(), y[row] = rounded<T>(end_of(op, v, length)); \\"),
    Mutant("no barrier before a buffer is filled again", "gemm.cu", "gemm", "            if (step + 1 < steps) put(1 - buffer);\n            __syncthreads();", "            if (step + 1 < steps) put(1 - buffer);"),
    Mutant("vector loads of whatever address", "elementwise.cu", "elementwise", "    if (aligned(x) && aligned(y)) {", "    if (aligned(y)) {"),
]

AFTER = [
    Mutant("scratch that is used again without a barrier", "millstream.cuh", "norm", "    x = over_warp<R>(x);\n    __syncthreads();\n    return x;", "    x = over_warp<R>(x);\n    return x;"),
    Mutant("sums that are not shrunk with a larger score", "attention.cu", "attention", "out[j] *= shrink;", "out[j] *= 1.0f;"),
    Mutant("keys read while values arrive", "attention.cu", "attention", "            largest = highest;\n            __syncthreads();", "            largest = highest;"),
    Mutant("a causal mask that hides the query's own key", "attention.cuh", "attention", "const i64 past_last = query + past + 1;", "const i64 past_last = query + past;"),
    Mutant("nibbles the wrong way around", "quant.cuh", "quant", "lifted(word >> 4 * i & 15u)", "lifted(word >> 4 * (i ^ 1) & 15u)"),
    Mutant("a scale of the neighbouring bytes", "quant.cuh", "quant", "n * groups + (k0 >> (4 + shift))", "n * groups + (k0 >> (5 + shift))"),
    Mutant("a zero point of the neighbouring block", "quant.cuh", "quant", ">> group % 2 * 4 & 15", ">> (group + 1) % 2 * 4 & 15"),
    Mutant("a window that starts a line too low", "conv.cu", "conv", "if (line < 0 || line >= s.height) continue;", "if (line < 1 || line >= s.height) continue;"),
    Mutant("weights replaced while they are in use", "conv.cu", "conv", "            finish(y, plane * places + place, sum, channel, bias, residual, s);\n        }\n        __syncthreads();", "            finish(y, plane * places + place, sum, channel, bias, residual, s);\n        }"),
    Mutant("values that are not transposed on their way into fragments", "attention_tensor.cu", "attention_tensor", "matrices_across(b, values", "matrices(b, values"),
    Mutant("a byte of the neighbouring lane's weights", "quant_tensor.cu", "quant_tensor", ">> 8 * within;", ">> 8 * (within ^ 1);"),
    Mutant("a digit's bins that are not cleared in time", "sample.cu", "sample", "        d.bins[threadIdx.x] = 0;\n        __syncthreads();", "        d.bins[threadIdx.x] = 0;"),
    Mutant("a scan that adds its own warp", "sample.cu", "sample", "if (w < warp) x += scratch[w];", "if (w <= warp) x += scratch[w];"),
]

MUTANTS = FIRST + AFTER
