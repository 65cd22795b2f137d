//! Operators on inputs and attributes that fit them: most cases run.

use crate::{Case, sights};
use millstream_graph::{Attribute, OpDef};
use millstream_ops::ALL;
use millstream_tensor::{DType, Tensor};
use proptest::prelude::*;

fn def(name: &str) -> &'static OpDef {
    ALL.iter().find(|d| d.name == name).unwrap_or_else(|| panic!("no operator {name}"))
}

fn case(name: &str, inputs: Vec<Tensor>, attributes: &[(&str, Attribute)]) -> Case {
    let attributes = attributes.iter().map(|(n, a)| (n.to_string(), a.clone())).collect();
    let def = def(name);
    let newest = *def.since.last().expect("a version");
    Case { def, opset: newest, attributes, inputs: inputs.into_iter().map(Some).collect(), outputs: 1 }
}

fn at(opset: u32, case: Case) -> Case {
    Case { opset, ..case }
}

fn outputs(n: usize, case: Case) -> Case {
    Case { outputs: n, ..case }
}

/// Elements between −1 and 1.
fn floats(dims: &[usize]) -> Tensor {
    let n: usize = dims.iter().product();
    Tensor::from_slice(dims, &(0..n).map(|i| (i as f32 * 0.7).sin()).collect::<Vec<_>>()).expect("as many values as elements")
}

fn numbers(values: &[i64]) -> Tensor {
    Tensor::from_slice(&[values.len()], values).expect("a vector")
}

fn signed(dims: &[usize]) -> Vec<i64> {
    dims.iter().map(|&d| d as i64).collect()
}

fn ints(values: &[i64]) -> Attribute {
    Attribute::Ints(values.to_vec())
}

fn int(value: i64) -> Attribute {
    Attribute::Int(value)
}

fn dims(ranks: std::ops::Range<usize>) -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(0usize..6, ranks)
}

/// Dims, and an axis of theirs counted from either end.
fn with_axis(ranks: std::ops::Range<usize>) -> impl Strategy<Value = (Vec<usize>, usize, i64)> {
    dims(ranks).prop_flat_map(|d| {
        let rank = d.len();
        (Just(d), 0..rank, any::<bool>()).prop_map(move |(d, axis, back)| (d, axis, if back { axis as i64 - rank as i64 } else { axis as i64 }))
    })
}

fn pick(names: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    proptest::sample::select(names)
}

fn elementwise() -> impl Strategy<Value = Case> {
    let unary = pick(&["Relu", "Exp", "Sqrt", "Erf", "Gelu", "HardSwish", "LeakyRelu", "Sigmoid", "Floor", "Softplus", "Identity", "Shape", "Size", "IsNaN"]);
    let binary = pick(&["Add", "Sub", "Mul", "Div", "Pow", "Max", "Less", "Equal", "GreaterOrEqual", "PRelu", "Mean"]);
    // Of two operands each axis is stretched in one, in the other, or in none; the second may lack leading axes.
    let pair = dims(0..5).prop_flat_map(|d| {
        let n = d.len();
        (Just(d), proptest::collection::vec(0usize..3, n), 0..=n)
    });
    prop_oneof![
        (unary, dims(0..5)).prop_map(|(op, d)| case(op, vec![floats(&d)], &[])),
        (binary, pair).prop_map(|(op, (d, stretched, skip))| {
            let side = |which: usize| d.iter().zip(&stretched).map(|(&d, &s)| if s == which { 1 } else { d }).collect::<Vec<_>>();
            case(op, vec![floats(&side(1)), floats(&side(2)[skip..])], &[])
        }),
        (dims(0..5), 1i64..12).prop_map(|(d, to)| case("Cast", vec![floats(&d)], &[("to", int(to))])),
    ]
}

fn reductions() -> impl Strategy<Value = Case> {
    let names = pick(&["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2", "ReduceLogSumExp"]);
    let along = pick(&["Softmax", "LogSoftmax", "Hardmax", "LpNormalization"]);
    let along = along.prop_filter("an operator of ours", |n| ALL.iter().any(|d| d.name == *n));
    prop_oneof![
        (names, with_axis(1..5), 0i64..2).prop_map(|(op, (d, _, axis), keep)| case(op, vec![floats(&d), numbers(&[axis])], &[("keepdims", int(keep))])),
        (pick(&["ArgMax", "ArgMin"]), with_axis(1..5), 0i64..2).prop_map(|(op, (d, _, axis), keep)| case(
            op,
            vec![floats(&d)],
            &[("axis", int(axis)), ("keepdims", int(keep))]
        )),
        (along, with_axis(1..5)).prop_map(|(op, (d, _, axis))| case(op, vec![floats(&d)], &[("axis", int(axis))])),
        with_axis(1..5).prop_map(|(d, axis, signed)| case("LayerNormalization", vec![floats(&d), floats(&d[axis..])], &[("axis", int(signed))])),
        (with_axis(1..4), 0i64..4).prop_map(|((d, _, axis), k)| outputs(2, case("TopK", vec![floats(&d), numbers(&[k])], &[("axis", int(axis))]))),
        (with_axis(1..4), any::<bool>()).prop_map(|((d, _, axis), reverse)| {
            let axis = Tensor::from_slice(&[], &[axis]).expect("a scalar");
            case("CumSum", vec![floats(&d), axis], &[("reverse", int(i64::from(reverse)))])
        }),
    ]
}

fn windows() -> impl Strategy<Value = Case> {
    let space = || (1usize..4, 1usize..4, 1i64..3, 0i64..3, 1i64..3);
    let conv = (1usize..3, 1usize..3, 1usize..3, proptest::collection::vec(1usize..9, 1..4), space());
    let layout = |(kernel, _, stride, pad, dilation): (usize, usize, i64, i64, i64), rank: usize| {
        let k = kernel.min(3);
        (vec![k as i64; rank], vec![("strides", ints(&vec![stride; rank])), ("pads", ints(&vec![pad; 2 * rank])), ("dilations", ints(&vec![dilation; rank]))])
    };
    let automatic = pick(&["SAME_UPPER", "SAME_LOWER", "VALID"]);
    prop_oneof![
        (conv, 1usize..4, any::<bool>()).prop_map(move |((n, group, channels, space, w), to, transpose)| {
            let (kernel, mut attributes) = layout(w, space.len());
            attributes.push(("group", int(group as i64)));
            let x = [&[n, group * channels][..], &space].concat();
            let k: Vec<usize> = kernel.iter().map(|&k| k as usize).collect();
            let weights = if transpose { [&[group * channels, to][..], &k].concat() } else { [&[group * to, channels][..], &k].concat() };
            case(if transpose { "ConvTranspose" } else { "Conv" }, vec![floats(&x), floats(&weights)], &attributes)
        }),
        (pick(&["MaxPool", "AveragePool", "LpPool"]), 1usize..3, proptest::collection::vec(1usize..9, 1..4), space(), 0i64..2).prop_map(
            move |(op, channels, space, w, ceil)| {
                let (kernel, mut attributes) = layout(w, space.len());
                attributes.extend([("kernel_shape", ints(&kernel)), ("ceil_mode", int(ceil))]);
                case(op, vec![floats(&[&[2, channels][..], &space].concat())], &attributes)
            }
        ),
        (pick(&["MaxPool", "AveragePool"]), automatic, proptest::collection::vec(1usize..9, 2), 1i64..4, 1i64..4).prop_map(
            |(op, pad, space, kernel, stride)| {
                let attributes = [("kernel_shape", ints(&[kernel; 2])), ("strides", ints(&[stride; 2])), ("auto_pad", Attribute::String(pad.into()))];
                case(op, vec![floats(&[&[1, 2][..], &space].concat())], &attributes)
            }
        ),
        (pick(&["GlobalAveragePool", "GlobalMaxPool"]), dims(3..6)).prop_map(|(op, d)| case(op, vec![floats(&d)], &[])),
    ]
}

fn products() -> impl Strategy<Value = Case> {
    let sizes = (0usize..5, 0usize..5, 0usize..5);
    let batch = (dims(0..3), 0usize..3);
    prop_oneof![
        (sizes, batch, any::<bool>(), any::<bool>()).prop_map(|((m, k, n), (batch, skip), vector_a, vector_b)| {
            let a = if vector_a { vec![k] } else { [&batch[..], &[m, k]].concat() };
            let b = if vector_b { vec![k] } else { [&batch[skip.min(batch.len())..], &[k, n]].concat() };
            case("MatMul", vec![floats(&a), floats(&b)], &[])
        }),
        ((0usize..5, 0usize..5, 0usize..5), 0i64..2, 0i64..2).prop_map(|((m, k, n), a, b)| {
            let turned = |dims: [usize; 2], t: i64| if t == 1 { [dims[1], dims[0]] } else { dims };
            case("Gemm", vec![floats(&turned([m, k], a)), floats(&turned([k, n], b)), floats(&[n])], &[("transA", int(a)), ("transB", int(b))])
        }),
    ]
}

fn moves() -> impl Strategy<Value = Case> {
    let permuted = dims(1..5).prop_flat_map(|d| {
        let axes: Vec<i64> = (0..d.len() as i64).collect();
        (Just(d), Just(axes).prop_shuffle())
    });
    prop_oneof![
        permuted.prop_map(|(d, perm)| case("Transpose", vec![floats(&d)], &[("perm", ints(&perm))])),
        (with_axis(1..5), 0usize..4).prop_map(|((d, axis, signed), more)| {
            let mut other = d.clone();
            other[axis] = more;
            case("Concat", vec![floats(&d), floats(&other), floats(&d)], &[("axis", int(signed))])
        }),
        (with_axis(1..4), -7i64..8, -7i64..8, prop_oneof![-3i64..0, 1i64..4]).prop_map(|((d, _, axis), start, end, step)| case(
            "Slice",
            vec![floats(&d), numbers(&[start]), numbers(&[end]), numbers(&[axis]), numbers(&[step])],
            &[]
        )),
        (with_axis(1..4), 1usize..4)
            .prop_map(|((d, _, axis), n)| outputs(n, case("Split", vec![floats(&d)], &[("axis", int(axis)), ("num_outputs", int(n as i64))]))),
        (with_axis(1..4), dims(0..3)).prop_map(|((d, axis, signed), index)| {
            let n: usize = index.iter().product();
            let indices: Vec<i64> = (0..n).map(|i| (i % d[axis].max(1)) as i64).collect();
            case("Gather", vec![floats(&d), Tensor::from_slice(&index, &indices).expect("indices")], &[("axis", int(signed))])
        }),
        (dims(0..4), dims(0..2)).prop_map(|(d, more)| case("Expand", vec![floats(&d), numbers(&signed(&[more, d.clone()].concat()))], &[])),
        (dims(1..4), 0i64..3, -1i64..3).prop_map(|(d, before, after)| {
            let pads = [vec![before; d.len()], vec![after; d.len()]].concat();
            case("Pad", vec![floats(&d), numbers(&pads)], &[])
        }),
        (dims(1..4), 0i64..4).prop_map(|(d, n)| case("Tile", vec![floats(&d), numbers(&vec![n; d.len()])], &[])),
        (with_axis(1..5), 0i64..2).prop_map(|((d, axis, _), zero)| {
            // One axis becomes −1, or all of them 0, which keeps them.
            let mut wanted = signed(&d);
            wanted[axis] = if zero == 1 { 0 } else { -1 };
            case("Reshape", vec![floats(&d), numbers(&wanted)], &[])
        }),
        with_axis(1..5).prop_map(|(d, _, axis)| case("Flatten", vec![floats(&d)], &[("axis", int(axis))])),
        with_axis(1..5).prop_map(|(mut d, axis, signed)| {
            d[axis] = 1;
            case("Squeeze", vec![floats(&d), numbers(&[signed])], &[])
        }),
        with_axis(1..5).prop_map(|(d, _, axis)| case("Unsqueeze", vec![floats(&d), numbers(&[axis])], &[])),
        dims(0..4).prop_map(|d| case("ConstantOfShape", vec![numbers(&signed(&d))], &[])),
        (-4i64..5, -4i64..9, prop_oneof![-2i64..0, 1i64..3]).prop_map(|(a, b, step)| {
            let scalar = |x: i64| Tensor::from_slice(&[], &[x]).expect("a scalar");
            case("Range", vec![scalar(a), scalar(b), scalar(step)], &[])
        }),
        dims(0..4).prop_map(|d| case("NonZero", vec![floats(&d)], &[])),
        (dims(4..5), 1usize..4).prop_map(|(mut d, block)| {
            d[1] *= block * block;
            case("DepthToSpace", vec![floats(&d)], &[("blocksize", int(block as i64))])
        }),
        (dims(2..4), 1i64..4).prop_map(|(d, times)| {
            let scales = Tensor::from_slice(&[d.len()], &vec![times as f32 * 0.5; d.len()]).expect("a vector");
            let mut resize = case("Resize", vec![floats(&d), floats(&[0]), scales], &[]);
            resize.inputs[1] = None;
            resize
        }),
    ]
}

fn layers() -> impl Strategy<Value = Case> {
    let recurrent = (pick(&["LSTM", "GRU", "RNN"]), 0usize..4, 1usize..3, 1usize..4, 1usize..4, any::<bool>());
    prop_oneof![
        recurrent.prop_map(|(op, steps, batch, inputs, hidden, both)| {
            let (gates, sides) = (
                match op {
                    "LSTM" => 4,
                    "GRU" => 3,
                    _ => 1,
                },
                if both { 2 } else { 1 },
            );
            let direction = Attribute::String(if both { "bidirectional" } else { "forward" }.into());
            let (x, w, r) = (floats(&[steps, batch, inputs]), floats(&[sides, gates * hidden, inputs]), floats(&[sides, gates * hidden, hidden]));
            outputs(2, case(op, vec![x, w, r], &[("hidden_size", int(hidden as i64)), ("direction", direction)]))
        }),
        dims(2..5).prop_map(|d| {
            let channels = d[1];
            let parameters = vec![floats(&d), floats(&[channels]), floats(&[channels]), floats(&[channels]), floats(&[channels])];
            at(15, case("BatchNormalization", parameters, &[]))
        }),
        dims(0..4).prop_map(|d| {
            let (scale, zero) = (Tensor::from_slice(&[], &[0.02f32]).expect("a scalar"), Tensor::from_slice(&[], &[7u8]).expect("a scalar"));
            case("QuantizeLinear", vec![floats(&d), scale, zero], &[])
        }),
        dims(1..4).prop_map(|d| outputs(3, case("DynamicQuantizeLinear", vec![floats(&d)], &[]))),
        (0usize..5, 0usize..5, 0usize..5).prop_map(|(m, k, n)| {
            let bytes = |dims: &[usize]| Tensor::zeros(DType::U8, dims).expect("zeros");
            case("MatMulInteger", vec![bytes(&[m, k]), bytes(&[k, n])], &[])
        }),
    ]
}

fn anything() -> impl Strategy<Value = Case> {
    prop_oneof![elementwise(), reductions(), windows(), products(), moves(), layers()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6000))]

    #[test]
    fn inferred_facts_are_those_of_the_results(case in anything(), sights in sights()) {
        case.check(&sights);
    }
}

/// The cases above are worth something only if most of them run.
#[test]
fn most_cases_fit_their_operators() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let fitting = (0..1000).filter(|_| anything().new_tree(&mut runner).expect("a case").current().check(&[crate::Sight::Elements])).count();
    assert!(fitting >= 800, "only {fitting} of 1000 cases fit");
}
