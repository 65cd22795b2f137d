//! Products by cuBLASLt where it is, and what follows them; by our kernel where it is not, or has no algorithm.

use super::{compared, input, kernels, narrow, node, noise};
use crate::Gpu;
use millstream_graph::{Attribute, Graph, ValueId};
use millstream_tensor::{DType, Tensor};

/// What a product is by: the library's where this machine has it.
fn by(dtype: &str) -> String {
    let library = Gpu::open(0).expect("a device").has_cublas();
    if library { format!("by cuda cublaslt_{dtype}") } else { format!("by cuda gemm_{dtype}") }
}

/// x (as given) through a chain of nodes on constants; the lines of those that are left.
fn chain(x: Tensor, nodes: &[(&str, &[Tensor], &[(&str, Attribute)])]) -> Vec<String> {
    let mut graph = Graph::new("chain");
    let mut y = input(&mut graph, "x", x.dtype(), x.shape().rank());
    for (i, (op, constants, attributes)) in nodes.iter().enumerate() {
        let mut inputs: Vec<ValueId> = vec![y];
        inputs.extend(constants.iter().enumerate().map(|(j, c)| graph.add_constant(&format!("c{i} {j}"), c.clone())));
        y = node(&mut graph, &format!("n{i}"), op, &inputs, attributes);
    }
    graph.add_output(y);
    compared(graph, &[vec![x]])
}

#[test]
#[ignore = "needs a device, or the stand-in driver"]
fn the_library_multiplies_every_type_of_floats() {
    for (dtype, name) in [(DType::F32, "f32"), (DType::F16, "f16"), (DType::BF16, "bf16")] {
        let tensor = |dims: &[usize], seed| narrow(dtype, dims, seed);
        let lines = chain(tensor(&[2, 3, 20], 1), &[("MatMul", &[tensor(&[20, 7], 2)], &[])]);
        assert!(lines[0].ends_with(&by(name)), "{lines:?}");
        // A stack of which one axis broadcasts is two launches.
        let lines = chain(tensor(&[2, 3, 4, 5], 1), &[("MatMul", &[tensor(&[3, 5, 6], 2)], &[])]);
        assert!(lines[0].contains(&by(name).replace("by cuda ", "by cuda 2 x ")), "{lines:?}");
        chain(tensor(&[4, 5], 1), &[("MatMul", &[tensor(&[5], 2)], &[])]);
        chain(tensor(&[5], 1), &[("MatMul", &[tensor(&[3, 5, 1], 2)], &[])]);
        // An odd number of halves: rows that are not aligned to more than two bytes.
        chain(tensor(&[7, 9], 1), &[("MatMul", &[tensor(&[9, 11], 2)], &[])]);
    }
}

#[test]
#[ignore = "needs a device, or the stand-in driver"]
fn what_follows_a_product_is_done_with_it() {
    let (x, w, b) = (|| noise(&[3, 8, 20], 1), noise(&[20, 12], 2), noise(&[12], 3));
    let product: &[Tensor] = &[w];
    let bias: &[Tensor] = &[b];
    let tanh = [("approximate", Attribute::String("tanh".into()))];
    let one = |end: &str, attributes: &[(&str, Attribute)]| {
        let lines = chain(x(), &[("MatMul", product, &[]), ("Add", bias, &[]), (end, &[], attributes)]);
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines[0].clone()
    };
    assert!(one("Relu", &[]).ends_with(&by("f32")));
    assert!(one("Gelu", &tanh).ends_with(&by("f32")));
    // What the library does not know is one launch behind it; our kernel does it in one.
    let behind = if by("f32").contains("cublaslt") { " + epilogue_f32" } else { "" };
    assert!(one("Gelu", &[]).ends_with(&format!("{}{behind}", by("f32"))));
    assert!(one("Sigmoid", &[]).ends_with(&format!("{}{behind}", by("f32"))));
    // A residual, and one with something behind it.
    let residual: &[Tensor] = &[noise(&[3, 8, 12], 4)];
    chain(x(), &[("MatMul", product, &[]), ("Add", bias, &[]), ("Add", residual, &[])]);
    chain(x(), &[("MatMul", product, &[]), ("Add", bias, &[]), ("Add", residual, &[]), ("Relu", &[], &[])]);
}

#[test]
#[ignore = "needs a device, or the stand-in driver"]
fn matrices_may_be_transposed_and_scaled() {
    let float = |name: &'static str, value| (name, Attribute::Float(value));
    let int = |name: &'static str, value| (name, Attribute::Int(value));
    for (a, b) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let (left, right) = (if a == 1 { [6, 4] } else { [4, 6] }, if b == 1 { [5, 6] } else { [6, 5] });
        for c in [&[5][..], &[4, 1], &[4, 5], &[1, 5]] {
            let attributes = [int("transA", a), int("transB", b), float("alpha", 0.5), float("beta", -2.0)];
            let lines = chain(noise(&left, 1), &[("Gemm", &[noise(&right, 2), noise(c, 3)], &attributes), ("Relu", &[], &[])]);
            // A bias for each row is nothing that the library knows.
            assert_eq!(lines[0].contains("cublaslt"), by("f32").contains("cublaslt") && c != [4, 1], "{lines:?}");
        }
    }
    // Transposes are read as they lie.
    let perm = [("perm", Attribute::Ints(vec![0, 2, 1]))];
    let lines = chain(noise(&[2, 5, 6], 1), &[("Transpose", &[], &perm), ("MatMul", &[noise(&[2, 5, 3], 2)], &[]), ("Transpose", &[], &perm)]);
    assert!(lines.iter().any(|l| l.contains(by("f32").as_str())), "{lines:?}");
}

/// What stands in for the library has no algorithm for this one, and the plan could not know.
#[test]
#[ignore = "needs a device, or the stand-in driver"]
fn a_product_without_an_algorithm_is_our_kernels() {
    let mut graph = Graph::new("long");
    let x = input(&mut graph, "x", DType::F32, 2);
    let w = graph.add_constant("w", noise(&[100, 7], 2));
    let y = node(&mut graph, "product", "MatMul", &[x, w], &[]);
    graph.add_output(y);
    let x = noise(&[1, 100], 1);
    compared(graph.clone(), &[vec![x.clone()]]);
    let launched = kernels(graph, &[x]);
    assert_eq!(launched.len(), 1);
    if Gpu::open(0).expect("a device").name().contains("stand-in") {
        assert_eq!(launched[0], "cuda gemm_f32");
    }
}

/// What stands in for the library fails when this one is launched: it is our kernel's then, in this run and in those behind it.
#[test]
#[ignore = "needs a device, or the stand-in driver"]
fn a_product_that_fails_when_it_is_launched_is_our_kernels() {
    for end in ["Sigmoid", "Relu", "Identity"] {
        let mut graph = Graph::new("failing");
        let x = input(&mut graph, "x", DType::F32, 2);
        let (w, b) = (graph.add_constant("w", noise(&[61, 13], 2)), graph.add_constant("b", noise(&[13], 3)));
        let product = node(&mut graph, "product", "MatMul", &[x, w], &[]);
        let sum = node(&mut graph, "sum", "Add", &[product, b], &[]);
        let y = node(&mut graph, "end", end, &[sum], &[]);
        graph.add_output(y);
        let x = noise(&[5, 61], 1);
        compared(graph.clone(), &[vec![x.clone()], vec![x.clone()], vec![x.clone()]]);
        let launched = kernels(graph, &[x]);
        if Gpu::open(0).expect("a device").name().contains("stand-in") {
            assert_eq!(launched, ["cuda gemm_f32"], "{end}");
        }
    }
}
