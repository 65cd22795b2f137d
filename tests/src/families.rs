//! More models of one operator, so that each family of operators has some in the suite of the backends.

use crate::single::{Case, noise, positive};
use millstream::{DType, Tensor};

/// Families of operators as `millstream-ops` has them, each with operators of which the suite must have a case. `control` is
/// missing: `If` has subgraphs, and tests of its own.
pub const FAMILIES: &[(&str, &[&str])] = &[
    ("elementwise", &["Add", "Relu", "Gelu", "Where", "Cast", "Mish", "Equal"]),
    ("reduce", &["ReduceMean", "ReduceMax", "ArgMax", "ReduceL2", "ReduceLogSumExp"]),
    ("norm", &["Softmax", "LayerNormalization", "RMSNormalization", "BatchNormalization", "InstanceNormalization", "GroupNormalization"]),
    (
        "quantize",
        &["QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearConv", "QLinearMatMul", "MatMulNBits"],
    ),
    ("conv", &["Conv", "ConvTranspose"]),
    ("matmul", &["MatMul", "Gemm"]),
    ("attention", &["Attention", "RotaryEmbedding"]),
    ("resize", &["Resize"]),
    ("pool", &["MaxPool", "AveragePool", "GlobalAveragePool", "LpPool"]),
    ("shape", &["Reshape", "Flatten", "Shape", "Range"]),
    ("movement", &["Transpose", "Concat", "Gather", "Pad", "DepthToSpace", "ScatterND", "Trilu"]),
    ("select", &["OneHot", "TopK", "CumSum", "NonZero", "Compress", "Unique", "Det"]),
    ("sample", &["GridSample", "AffineGrid", "Col2Im"]),
    ("recurrent", &["LSTM", "GRU", "RNN"]),
];

fn numbers(dims: &[usize], values: &[i64]) -> Tensor {
    Tensor::from_slice(dims, values).expect("as many values as elements")
}

fn of_bytes(dims: &[usize], seed: u64) -> Tensor {
    let values: Vec<u8> = noise(dims, seed).as_slice::<f32>().expect("f32").iter().map(|x| (x * 100.0 + 128.0) as u8).collect();
    Tensor::from_slice(dims, &values).expect("as many values as elements")
}

fn signed(dims: &[usize], seed: u64) -> Tensor {
    let values: Vec<i8> = noise(dims, seed).as_slice::<f32>().expect("f32").iter().map(|x| (x * 100.0) as i8).collect();
    Tensor::from_slice(dims, &values).expect("as many values as elements")
}

fn scalar(x: f32) -> Tensor {
    Tensor::scalar(x).expect("a scalar")
}

fn zero(x: u8) -> Tensor {
    Tensor::scalar(x).expect("a scalar")
}

/// Cases of the families that [`crate::single`] has none or few of.
pub fn cases() -> Vec<Case> {
    let mut all = attention();
    all.extend(quantised());
    all.extend(images());
    all.extend(layers());
    all.extend(elements());
    all
}

fn attention() -> Vec<Case> {
    let heads = |l: usize, s: usize| [noise(&[2, 4, l, 8], 1), noise(&[2, 2, s, 8], 2), noise(&[2, 2, s, 8], 3)];
    let of = |name, inputs: [Tensor; 3]| Case::new(name, "Attention", inputs).opset(24);
    let with = |mut case: Case, input: Tensor| {
        case.inputs.push(Some(input));
        case
    };
    let seen = Tensor::from_bytes(DType::Bool, &[5, 7], &(0..35).map(|i| u8::from(i % 3 != 0)).collect::<Vec<u8>>()).expect("flags");
    let flat = [noise(&[2, 5, 32], 1), noise(&[2, 7, 16], 2), noise(&[2, 7, 16], 3)];
    let rotary = Case::new("rotary", "RotaryEmbedding", [noise(&[2, 4, 3, 16], 4), noise(&[2, 3, 8], 5), noise(&[2, 3, 8], 6)]).opset(24);
    vec![
        of("attention", heads(5, 7)),
        of("attention_causal", heads(6, 6)).int("is_causal", 1).float("scale", 0.25),
        of("attention_flat", flat).int("q_num_heads", 4).int("kv_num_heads", 2),
        with(of("attention_masked", heads(5, 7)), noise(&[2, 1, 5, 7], 7)),
        with(of("attention_hidden", heads(5, 7)), seen),
        rotary,
    ]
}

/// `rows` by weights of `bits` bits in blocks: with zero points, where they are asked for, and a bias.
fn few_bits(name: &'static str, rows: usize, [bits, block]: [usize; 2], zeroed: bool) -> Case {
    let (k, n) = (70usize, 36);
    let blocks = k.div_ceil(block);
    let scales = positive(&[n * blocks], 2);
    let mut case = Case::new(name, "MatMulNBits", [noise(&[rows, k], 1), of_bytes(&[n, blocks, block * bits / 8], 3), scales]);
    case.inputs.extend([zeroed.then(|| of_bytes(&[n * (blocks * bits).div_ceil(8)], 4)), None, Some(noise(&[n], 5))]);
    case.domain = "com.microsoft";
    case.int("K", k as i64).int("N", n as i64).int("bits", bits as i64).int("block_size", block as i64).constants_from(1)
}

fn quantised() -> Vec<Case> {
    vec![
        few_bits("four_bits", 2, [4, 32], false),
        few_bits("four_bits_of_many_rows", 70, [4, 32], true),
        few_bits("four_bits_by_128", 11, [4, 128], true),
        few_bits("four_bits_by_16", 3, [4, 16], true),
        few_bits("eight_bits", 1, [8, 16], true),
        few_bits("eight_bits_of_many_rows", 70, [8, 64], false),
        Case::new("dequantize", "DequantizeLinear", [of_bytes(&[3, 20], 1), scalar(0.1), zero(120)]),
        Case::new("dynamic_quantize", "DynamicQuantizeLinear", [noise(&[3, 20], 2)]).outputs(3),
        Case::new("conv_integer", "ConvInteger", [of_bytes(&[1, 4, 6, 7], 3), of_bytes(&[5, 4, 3, 3], 4), zero(120), zero(100)]),
        Case::new(
            "qlinear_conv",
            "QLinearConv",
            [
                of_bytes(&[1, 4, 6, 7], 5),
                scalar(0.02),
                zero(120),
                signed(&[5, 4, 3, 3], 6),
                scalar(0.01),
                Tensor::scalar(0i8).expect("a scalar"),
                scalar(0.05),
                zero(128),
            ],
        )
        .constants_from(1),
        Case::new(
            "qlinear_matmul",
            "QLinearMatMul",
            [of_bytes(&[5, 20], 7), scalar(0.01), zero(120), of_bytes(&[20, 9], 8), scalar(0.02), zero(100), scalar(0.1), zero(118)],
        ),
    ]
}

fn images() -> Vec<Case> {
    let image = || noise(&[2, 6, 8, 9], 1);
    let resize = |name, mode: &str| {
        let mut case = Case::new(name, "Resize", [image(), Tensor::from_slice(&[4], &[1.0f32, 1.0, 2.0, 1.5]).expect("scales")]).text("mode", mode);
        case.inputs.insert(1, None);
        case.constants = vec![2];
        case
    };
    vec![
        resize("resize_nearest", "nearest"),
        resize("resize_linear", "linear"),
        Case::new("conv_transpose", "ConvTranspose", [image(), noise(&[6, 5, 3, 3], 2), noise(&[5], 3)])
            .ints("strides", &[2, 2])
            .ints("pads", &[1, 1, 1, 1])
            .constants_from(1),
        Case::new("conv_3d", "Conv", [noise(&[1, 4, 5, 6, 7], 4), noise(&[6, 4, 2, 3, 3], 5)]),
        Case::new("instance_norm", "InstanceNormalization", [image(), noise(&[6], 6), noise(&[6], 7)]),
        Case::new("group_norm", "GroupNormalization", [image(), noise(&[6], 8), noise(&[6], 9)]).int("num_groups", 3),
        Case::new("lp_pool", "LpPool", [image()]).ints("kernel_shape", &[2, 3]),
        Case::new("grid_sample", "GridSample", [image(), noise(&[2, 5, 4, 2], 10)]),
        Case::new("affine_grid", "AffineGrid", [noise(&[2, 2, 3], 11), numbers(&[4], &[2, 1, 3, 4])]),
        Case::new("col2im", "Col2Im", [noise(&[2, 8, 12], 12), numbers(&[2], &[4, 5]), numbers(&[2], &[2, 2])]),
        Case::new("depth_to_space", "DepthToSpace", [noise(&[2, 8, 3, 5], 13)]).int("blocksize", 2),
    ]
}

fn layers() -> Vec<Case> {
    let recurrent = |name, op, gates: usize| {
        let (gated, twice) = (gates * 5, 2 * gates * 5);
        Case::new(name, op, [noise(&[4, 2, 3], 1), noise(&[1, gated, 3], 2), noise(&[1, gated, 5], 3), noise(&[1, twice], 4)])
            .int("hidden_size", 5)
            .constants_from(1)
    };
    vec![
        recurrent("lstm", "LSTM", 4).outputs(3),
        recurrent("gru", "GRU", 3).int("linear_before_reset", 1).outputs(2),
        recurrent("rnn", "RNN", 1).text("direction", "reverse"),
        Case::new("rms_norm", "RMSNormalization", [noise(&[3, 5, 16], 5), noise(&[16], 6)]).opset(24),
    ]
}

fn elements() -> Vec<Case> {
    let rows = || noise(&[3, 5, 16], 1);
    let flags = |n: usize| Tensor::from_bytes(DType::Bool, &[n], &(0..n).map(|i| u8::from(i % 2 == 0)).collect::<Vec<u8>>()).expect("flags");
    vec![
        Case::new("mish", "Mish", [rows()]),
        Case::new("swish", "Swish", [rows()]).opset(24),
        Case::new("elu", "Elu", [rows()]),
        Case::new("equal", "Equal", [numbers(&[2, 3], &[1, 2, 3, 4, 5, 6]), numbers(&[3], &[1, 5, 3])]),
        Case::new("reduce_l2", "ReduceL2", [rows()]),
        Case::new("reduce_log_sum_exp", "ReduceLogSumExp", [positive(&[3, 4], 2)]),
        Case::new("scatter_nd", "ScatterND", [rows(), numbers(&[2, 1], &[2, 0]), noise(&[2, 5, 16], 3)]),
        Case::new("trilu", "Trilu", [rows()]).int("upper", 0),
        Case::new(
            "one_hot",
            "OneHot",
            [numbers(&[2, 3], &[0, 4, -1, 2, 9, 1]), numbers(&[1], &[5]), Tensor::from_slice(&[2], &[0.5f32, 3.0]).expect("a pair")],
        ),
        Case::new("compress", "Compress", [rows(), flags(5)]).int("axis", 1),
        Case::new("unique", "Unique", [numbers(&[7], &[3, 1, 3, 2, 1, 9, 3])]).outputs(4),
        Case::new("det", "Det", [noise(&[3, 4, 4], 4)]),
    ]
}
