//! What transformers are made of, on a device and on the CPU: attention of every kind, rotary embeddings, caches.

use super::{compared, input, kernels, narrow, node, nodes, noise};
use millstream_graph::{Attribute, Graph};
use millstream_tensor::{Bool, DType, Tensor};

fn int(name: &str, value: i64) -> (&str, Attribute) {
    (name, Attribute::Int(value))
}

/// One node on these inputs, all of which a run gives; the line that says who ran it.
fn one(op: &str, inputs: &[Option<Tensor>], attributes: &[(&str, Attribute)], outputs: usize) -> String {
    let mut graph = Graph::new(op);
    let ids: Vec<_> =
        inputs.iter().enumerate().map(|(i, t)| Some(input(&mut graph, &format!("x{i}"), t.as_ref()?.dtype(), t.as_ref()?.shape().rank()))).collect();
    for y in nodes(&mut graph, "it", op, &ids, attributes, outputs) {
        graph.add_output(y);
    }
    compared(graph, &[inputs.iter().flatten().cloned().collect()]).join("\n")
}

fn attention(inputs: [Option<Tensor>; 7], attributes: &[(&str, Attribute)], outputs: usize, kernel: &str) {
    let line = one("Attention", &inputs, attributes, outputs);
    assert!(line.contains("by cuda") && line.contains(kernel), "{kernel}: {line}");
}

#[test]
#[ignore = "needs a device, or the stand-in driver"]
fn attention_reads_caches_shares_heads_and_looks_back_only() {
    let some = |dims: &[usize], seed| Some(noise(dims, seed));
    // Heads of queries share keys and values; both caches go on.
    let cached = || [some(&[2, 4, 6, 16], 1), some(&[2, 2, 6, 16], 2), some(&[2, 2, 6, 24], 3), None, some(&[2, 2, 7, 16], 4), some(&[2, 2, 7, 24], 5), None];
    attention(cached(), &[int("is_causal", 1)], 3, "attention_d64_f32");
    attention(cached(), &[int("left_window_size", 3), ("softcap", Attribute::Float(2.0))], 1, "attention_d64_f32");
    // The first step of a decoder has empty caches.
    let empty = || Tensor::from_slice::<f32>(&[1, 2, 0, 8], &[]).expect("no values");
    let first = [some(&[1, 2, 9, 8], 1), some(&[1, 2, 9, 8], 2), some(&[1, 2, 9, 8], 3), None, Some(empty()), Some(empty()), None];
    attention(first, &[int("is_causal", 1)], 3, "attention_d64_f32");
    // Heads side by side, and a window.
    let flat = [some(&[2, 20, 6 * 8], 1), some(&[2, 30, 2 * 8], 2), some(&[2, 30, 2 * 8], 3), None, None, None, None];
    attention(flat, &[int("q_num_heads", 6), int("kv_num_heads", 2), int("left_window_size", 4), int("right_window_size", 0)], 1, "attention_d64_f32");
}

#[test]
#[ignore = "needs a device, or the stand-in driver"]
fn few_queries_split_their_keys() {
    let some = |dims: &[usize], seed| Some(noise(dims, seed));
    for (queries, heads) in [(1, 4), (3, 2)] {
        let (new, old) = ([2, 2, queries, 40], [2, 2, 300 - queries, 40]);
        let inputs = [some(&[2, heads, queries, 40], 1), some(&new, 2), some(&new, 3), None, some(&old, 4), some(&old, 5), None];
        attention(inputs, &[int("is_causal", 1)], 3, "attention_decode_f32 + attention_join_f32");
    }
    // A buffer of keys of which some are there.
    let counts = Tensor::from_slice(&[3], &[70i64, 1, 200]).expect("three numbers");
    let inputs = || [some(&[3, 2, 1, 16], 1), some(&[3, 2, 200, 16], 2), some(&[3, 2, 200, 16], 3), None, None, None, Some(counts.clone())];
    attention(inputs(), &[int("is_causal", 1)], 1, "attention_decode_f32");
    let inputs = [some(&[3, 2, 5, 16], 1), some(&[3, 2, 200, 16], 2), some(&[3, 2, 200, 16], 3), None, None, None, Some(counts.clone())];
    attention(inputs, &[], 1, "cast_i64_i32 + attention_d64_f32");
}

#[test]
#[ignore = "needs a device, or the stand-in driver"]
fn masks_hide_keys_and_whole_rows() {
    let some = |dims: &[usize], seed| Some(noise(dims, seed));
    let operands = |queries: usize| (some(&[2, 2, queries, 16], 1), some(&[2, 2, 10, 16], 2), some(&[2, 2, 10, 16], 3));
    for queries in [2, 7] {
        let flags: Vec<Bool> = (0..queries * 10).map(|i| Bool::from(i >= 10 && i % 3 != 0)).collect();
        let added: Vec<f32> = flags.iter().enumerate().map(|(i, &f)| if bool::from(f) { i as f32 / 50.0 } else { f32::NEG_INFINITY }).collect();
        for mask in [Tensor::from_slice(&[queries, 10], &flags), Tensor::from_slice(&[queries, 10], &added)] {
            // The first query sees nothing: zeros.
            let (q, k, v) = operands(queries);
            attention([q, k, v, Some(mask.expect("as many")), None, None, None], &[], 1, "attention");
        }
        // A mask of fewer columns hides the keys past its end.
        let (q, k, v) = operands(queries);
        attention([q, k, v, some(&[2, 1, queries, 8], 4), None, None, None], &[], 1, "attention");
    }
}

#[test]
#[ignore = "needs a device, or the stand-in driver"]
fn halves_with_many_queries_take_tensor_cores() {
    for (dtype, name) in [(DType::F16, "f16"), (DType::BF16, "bf16")] {
        let some = |dims: &[usize], seed| Some(narrow(dtype, dims, seed));
        let inputs = |queries, size| [some(&[1, 4, queries, size], 1), some(&[1, 2, 70, size], 2), some(&[1, 2, 70, size], 3), None, None, None, None];
        attention(inputs(70, 64), &[int("is_causal", 1)], 1, &format!("attention_tensor_d64_{name}"));
        attention(inputs(20, 80), &[], 1, &format!("attention_tensor_d128_{name}"));
        attention(inputs(9, 64), &[int("is_causal", 1)], 1, &format!("attention_d64_{name}"));
        attention(inputs(1, 64), &[], 1, &format!("attention_decode_{name}"));
    }
}

#[test]
#[ignore = "needs a device, or the stand-in driver"]
fn embeddings_turn() {
    let some = |dims: &[usize], seed| Some(noise(dims, seed));
    let on_device = |inputs: &[Option<Tensor>], attributes: &[(&str, Attribute)]| {
        let line = one("RotaryEmbedding", inputs, attributes, 1);
        assert!(line.contains("by cuda") && line.contains("rotary_f32"), "{line}");
    };
    on_device(&[some(&[2, 3, 5, 16], 1), some(&[2, 5, 8], 2), some(&[2, 5, 8], 3)], &[]);
    on_device(&[some(&[2, 5, 3 * 16], 1), some(&[2, 5, 4], 2), some(&[2, 5, 4], 3)], &[int("num_heads", 3), int("rotary_embedding_dim", 8)]);
    let positions = Tensor::from_slice(&[2, 5], &[0i64, 1, 2, 3, 4, 9, 8, -1, 0, 2]).expect("ten numbers");
    let interleaved = [int("interleaved", 1)];
    on_device(&[some(&[2, 3, 5, 16], 1), some(&[10, 8], 2), some(&[10, 8], 3), Some(positions)], &interleaved);
}

#[test]
#[ignore = "needs a device, or the stand-in driver"]
fn caches_grow_on_the_device() {
    let starts = |values: &[i64]| Some(Tensor::from_slice(&[values.len()], values).expect("numbers"));
    let on_device = |inputs: &[Option<Tensor>], attributes: &[(&str, Attribute)]| {
        let line = one("TensorScatter", inputs, attributes, 1);
        assert!(line.contains("by cuda") && line.contains("cache_append"), "{line}");
    };
    on_device(&[Some(noise(&[2, 3, 9, 4], 1)), Some(noise(&[2, 3, 2, 4], 2)), starts(&[1, 7])], &[]);
    on_device(&[Some(noise(&[2, 9, 4], 1)), Some(noise(&[2, 3, 4], 2))], &[int("axis", 1)]);
    on_device(
        &[Some(narrow(DType::F16, &[2, 3, 9, 4], 1)), Some(narrow(DType::F16, &[2, 3, 4, 4], 2)), starts(&[8, 0])],
        &[("mode", Attribute::String("circular".into()))],
    );
    let wide = |n: i64, from: i64| (from..from + n).collect::<Vec<_>>();
    let (cache, new) = (Tensor::from_slice(&[2, 6, 3], &wide(36, 0)), Tensor::from_slice(&[2, 2, 3], &wide(12, 100)));
    on_device(&[Some(cache.expect("as many")), Some(new.expect("as many")), starts(&[0, 4])], &[]);
}

/// A layer of an encoder as exporters write it, of which the optimiser makes one attention.
fn layer(heads: i64, size: i64) -> Graph {
    let (mut graph, width) = (Graph::new("layer"), (heads * size) as usize);
    let (x, mask) = (input(&mut graph, "x", DType::F32, 3), input(&mut graph, "mask", DType::F32, 4));
    let split = graph.add_constant("split", Tensor::from_slice(&[4], &[0i64, 0, heads, size]).expect("four numbers"));
    let flat = graph.add_constant("flat", Tensor::from_slice(&[3], &[0i64, 0, heads * size]).expect("three numbers"));
    let scale = graph.add_constant("scale", Tensor::scalar(1.0 / (size as f32).sqrt()).expect("a number"));
    let projected = |graph: &mut Graph, name: &str, perm: &[i64], seed| {
        let w = graph.add_constant(&format!("w{name}"), noise(&[width, width], seed));
        let y = node(graph, &format!("project {name}"), "MatMul", &[x, w], &[]);
        let y = node(graph, &format!("split {name}"), "Reshape", &[y, split], &[]);
        node(graph, &format!("turn {name}"), "Transpose", &[y], &[("perm", Attribute::Ints(perm.to_vec()))])
    };
    let q = projected(&mut graph, "q", &[0, 2, 1, 3], 1);
    let k = projected(&mut graph, "k", &[0, 2, 3, 1], 2);
    let v = projected(&mut graph, "v", &[0, 2, 1, 3], 3);
    let y = node(&mut graph, "scores", "MatMul", &[q, k], &[]);
    let y = node(&mut graph, "scaled", "Mul", &[y, scale], &[]);
    let y = node(&mut graph, "masked", "Add", &[y, mask], &[]);
    let y = node(&mut graph, "weights", "Softmax", &[y], &[int("axis", -1)]);
    let y = node(&mut graph, "weighted", "MatMul", &[y, v], &[]);
    let y = node(&mut graph, "turn back", "Transpose", &[y], &[("perm", Attribute::Ints(vec![0, 2, 1, 3]))]);
    let y = node(&mut graph, "join", "Reshape", &[y, flat], &[]);
    graph.add_output(y);
    graph
}

#[test]
#[ignore = "needs a device, or the stand-in driver"]
fn a_layer_of_a_transformer_is_one_attention() {
    let (x, open) = (noise(&[2, 20, 32], 4), Tensor::from_slice(&[1, 1, 1, 20], &[0.0f32; 20]).expect("zeros"));
    // The second mask hides everything: NaN, as softmax has it.
    let closed = Tensor::from_slice(&[1, 1, 1, 20], &[f32::NEG_INFINITY; 20]).expect("as many");
    let lines = compared(layer(4, 8), &[vec![x.clone(), open.clone()], vec![x.clone(), closed]]);
    assert_eq!(lines.iter().filter(|l| l.contains("by cuda attention_d64_f32")).count(), 1, "{lines:#?}");
    assert!(!lines.iter().any(|l| l.contains("the host")), "{lines:#?}");
    // It is not only said but done.
    let steps = kernels(layer(4, 8), &[x, open]);
    assert_eq!(steps.iter().filter(|k| *k == "cuda attention_d64_f32").count(), 1, "{:?}", steps);
    assert!(!steps.iter().any(|k| k.contains("softmax")), "{:?}", steps);
}
