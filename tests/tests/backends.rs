//! The suite that every backend must pass: the embedded model against ONNX Runtime's results, and single operators against the
//! CPU's plan on its scalar level. CPU plans run on every level of this machine, on one thread and on two.

use millstream::{
    DType, Model, Session, Shape, Tensor, Value,
    candle::CandleBackend,
    cpu::{CpuBackend, Level},
    kernel::{
        compile::{Options, rules},
        engine::Backend,
    },
};
use millstream_tests::{
    language::{fixture, floats, open, windows},
    single::{Case, cases},
};
use std::sync::Arc;

/// Every backend, by a name for messages.
fn backends() -> Vec<(String, Arc<dyn Backend>)> {
    let mut all: Vec<(String, Arc<dyn Backend>)> = vec![("candle".into(), Arc::new(CandleBackend::new()))];
    for level in Level::available() {
        for threads in [1, 2] {
            all.push((format!("cpu {} {threads}", level.name()), Arc::new(CpuBackend::new(threads).on_level(level))));
        }
    }
    all
}

fn session(backend: &Arc<dyn Backend>) -> Session {
    Session::builder().backend(backend.clone()).build()
}

#[test]
fn the_embedded_model_gives_what_onnx_runtime_gives() {
    let (labels, samples) = fixture();
    let input = windows(samples.iter().map(|s| s.text.as_str()));
    for (name, backend) in backends() {
        let model = open(&session(&backend)).expect("the model loads");
        let outputs = model.run(&[("bytes", input.clone())]).unwrap_or_else(|e| panic!("{name}: {e}"));
        let found = floats(outputs.first().expect("an output"));
        for (sample, row) in samples.iter().zip(found.chunks_exact(labels.len())) {
            let worst = row.iter().zip(&sample.probabilities).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= 1e-4, "{name}: {} differs by {worst}", sample.label);
            let best = |p: &[f32]| (0..p.len()).max_by(|&i, &j| p[i].total_cmp(&p[j]));
            assert_eq!(best(row), best(&sample.probabilities), "{name}: {}", sample.label);
        }
    }
}

#[test]
fn single_operators_agree() {
    let registry = millstream::kernel::ops::registry();
    let backends = backends();
    let run = |case: &Case, name: &str, backend: &Arc<dyn Backend>| {
        let (graph, inputs) = case.graph(&registry);
        let model: Model = session(backend).compile(graph).unwrap_or_else(|e| panic!("{} on {name}: {e}", case.name));
        let inputs: Vec<Value> = inputs.into_iter().map(Value::Tensor).collect();
        let outputs = model.run_values(&inputs).unwrap_or_else(|e| panic!("{} on {name}: {e}", case.name));
        outputs.into_iter().map(|(_, v)| v.into_tensor().expect("a tensor")).collect::<Vec<_>>()
    };
    let (oracle_name, oracle) = backends.iter().find(|(n, _)| n == "cpu scalar 1").expect("there is a scalar level");
    for case in cases() {
        let wanted = run(&case, oracle_name, oracle);
        for (name, backend) in &backends {
            let found = run(&case, name, backend);
            assert_eq!(found.len(), wanted.len(), "{} on {name}", case.name);
            for (a, b) in found.iter().zip(&wanted) {
                assert_close(a, b, &format!("{} on {name}", case.name));
            }
        }
    }
}

/// Types and shapes are the same; floats within 1e-5 of the greatest element, everything else exactly.
fn assert_close(found: &Tensor, wanted: &Tensor, what: &str) {
    assert_eq!((found.dtype(), found.shape()), (wanted.dtype(), wanted.shape()), "{what}");
    if wanted.dtype() != DType::F32 {
        assert_eq!(found, wanted, "{what}");
        return;
    }
    let (found, wanted) = (floats(found), floats(wanted));
    let greatest = wanted.iter().fold(1.0f32, |m, x| m.max(x.abs()));
    for (i, (a, b)) in found.iter().zip(&wanted).enumerate() {
        assert!((a - b).abs() <= 1e-5 * greatest, "{what}: element {i} is {a}, expected {b}");
    }
}

/// Names what Candle does not run itself. Run with `--nocapture` to read it.
#[test]
#[expect(clippy::print_stdout, reason = "the list is what this test is for")]
fn candle_runs_what_maps_directly() {
    let registry = millstream::kernel::ops::registry();
    let backend: Arc<dyn Backend> = Arc::new(CandleBackend::new());
    let (mut direct, mut ours) = (Vec::new(), Vec::new());
    for case in cases() {
        let (graph, inputs) = case.graph(&registry);
        let model = session(&backend).compile(graph).expect("it compiles");
        let shapes: Vec<Shape> = inputs.iter().map(|t| *t.shape()).collect();
        let steps = model.executable().describe(&shapes).expect("it can be described");
        if steps.iter().any(|s| s.ends_with("by candle")) { &mut direct } else { &mut ours }.push(case.name);
    }
    println!("on Candle: {}\non our kernels: {}", direct.join(" "), ours.join(" "));
    for name in ["add", "relu", "erf", "gelu", "matmul", "gemm", "conv", "conv_grouped", "max_pool", "softmax", "layer_norm", "transpose", "concat", "gather"] {
        assert!(direct.contains(&name), "{name} should run on Candle");
    }
    for name in ["max_pool_padded", "conv_uneven", "where", "quantize", "non_zero", "layer_norm_statistics"] {
        assert!(ours.contains(&name), "{name} should run on our kernel");
    }
}

#[test]
fn the_plan_bounds_what_a_run_on_candle_takes() {
    let (_, samples) = fixture();
    let input = windows(samples[..3].iter().map(|s| s.text.as_str()));
    let backend: Arc<dyn Backend> = Arc::new(CandleBackend::new());
    let plan = open(&session(&backend)).expect("it loads").plan_bytes(&[*input.shape()]).expect("shapes tell all");
    let limited = |bytes: usize| open(&Session::builder().backend(backend.clone()).memory_limit(bytes).build()).expect("it loads");
    assert!(limited(plan.arena).run(&[("bytes", input.clone())]).is_ok());
    let error = limited(plan.arena - 1).run(&[("bytes", input)]).expect_err("one byte is missing");
    assert!(matches!(error, millstream::Error::Run(millstream::kernel::engine::RunError::MemoryLimit { .. })), "{error}");
}

/// Each rule of the optimiser switched off in turn, then all at once.
#[test]
fn rules_change_no_result() {
    let (_, samples) = fixture();
    let input = windows(samples[..4].iter().map(|s| s.text.as_str()));
    let run = |options: Options| {
        let model = open(&Session::builder().threads(1).optimizer(options).build()).expect("it loads");
        floats(model.run(&[("bytes", input.clone())]).expect("it runs").first().expect("an output"))
    };
    let wanted = run(Options::default());
    let variants = rules().map(|r| (r, Options::without(&[r]))).chain([("all", Options::none())]);
    for (name, options) in variants {
        let worst = run(options).iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= 1e-5, "without {name}: {worst}");
    }
}
