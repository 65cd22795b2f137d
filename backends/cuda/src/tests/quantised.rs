//! Layers of bytes on a device and on the CPU: activations that are quantised as they come, weights of signed bytes.

use super::{compared, input, node, nodes, noise};
use millstream_graph::Graph;
use millstream_tensor::{DType, Tensor};

fn whole(dims: &[usize], seed: u32) -> Tensor {
    let values: Vec<i8> = noise(dims, seed).as_slice::<f32>().expect("f32").iter().map(|x| (x * 127.0) as i8).collect();
    Tensor::from_slice(dims, &values).expect("as many values as elements")
}

#[test]
#[ignore = "needs a device, or the stand-in driver"]
fn ranges_are_found_on_the_device() {
    let mut graph = Graph::new("ranges");
    let x = input(&mut graph, "x", DType::F32, 2);
    for y in nodes(&mut graph, "it", "DynamicQuantizeLinear", &[Some(x)], &[], 3) {
        graph.add_output(y);
    }
    let zeros = Tensor::from_slice(&[2, 3], &[0.0f32; 6]).expect("six zeros");
    let lines = compared(graph, &[vec![noise(&[40, 50], 1)], vec![zeros]]);
    assert!(lines[0].contains("by cuda quantize_parameters_f32 + quantize_f32_u8"), "{lines:?}");
}

/// As exporters write a layer with dynamic quantisation, of which the optimiser makes one operator.
#[test]
#[ignore = "needs a device, or the stand-in driver"]
fn layers_of_bytes_stay_on_the_device() {
    for (rows, end, residual) in [(3, "Relu", false), (20, "Gelu", false), (20, "Relu", true), (1, "Identity", true)] {
        let mut graph = Graph::new("layer");
        let x = input(&mut graph, "x", DType::F32, 3);
        let (w, b) = (graph.add_constant("w", whole(&[40, 24], 2)), graph.add_constant("b", noise(&[24], 3)));
        let (zero, step) =
            (graph.add_constant("zero", Tensor::scalar(0i8).expect("a number")), graph.add_constant("step", Tensor::scalar(0.01f32).expect("a number")));
        let bytes = nodes(&mut graph, "bytes", "DynamicQuantizeLinear", &[Some(x)], &[], 3);
        let y = node(&mut graph, "product", "MatMulInteger", &[bytes[0], w, bytes[2], zero], &[]);
        let y = node(&mut graph, "wide", "Cast", &[y], &[("to", millstream_graph::Attribute::Int(1))]);
        let scale = node(&mut graph, "scale", "Mul", &[bytes[1], step], &[]);
        let mut y = node(&mut graph, "scaled", "Mul", &[y, scale], &[]);
        y = node(&mut graph, "biased", "Add", &[y, b], &[]);
        let mut inputs = vec![noise(&[2, rows, 40], 1)];
        if residual {
            let z = input(&mut graph, "z", DType::F32, 3);
            y = node(&mut graph, "added", "Add", &[y, z], &[]);
            inputs.push(noise(&[2, rows, 24], 4));
        }
        let y = node(&mut graph, "end", end, &[y], &[]);
        graph.add_output(y);
        let lines = compared(graph, &[inputs]);
        let kernel = if rows < 4 { "linear_int8_rows_f32" } else { "linear_int8_tiled_f32" };
        assert!(lines.iter().any(|l| l.contains(kernel)) && !lines.iter().any(|l| l.contains("the host")), "{lines:#?}");
    }
}
