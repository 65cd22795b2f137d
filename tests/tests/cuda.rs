//! What is CUDA's own: devices that are not there, plans that are recorded and repeated, what runs on the device. The suite
//! of all backends is in `backends.rs`, which takes CUDA in where `MILLSTREAM_CUDA` is set.
//!
//! Ignored tests need a GPU of NVIDIA's, or what stands in for its driver's library (`tests/run.py --only cuda`).

use millstream::{
    Device, Error, Model, Session, Shape, Tensor, Value,
    cuda::{CudaBackend, CudaError, Gpu},
    kernel::engine::{Backend, RunError},
};
use millstream_tests::{
    families,
    language::{bits, fixture, open, windows},
    single::{Case, cases, noise},
};
use std::{sync::Arc, thread};

fn backend() -> Arc<dyn Backend> {
    Arc::new(CudaBackend::new(Gpu::open(0).expect("a device, or a stand-in for the driver")))
}

fn compile(backend: &Arc<dyn Backend>, case: &Case) -> (Model, Vec<Value>) {
    let (graph, inputs) = case.graph(&millstream::kernel::ops::registry());
    let model = Session::builder().backend(backend.clone()).build().compile(graph).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    (model, inputs.into_iter().map(Value::Tensor).collect())
}

fn shapes(inputs: &[Value]) -> Vec<Shape> {
    inputs.iter().map(|v| *v.as_tensor().expect("a tensor").shape()).collect()
}

fn all_cases() -> Vec<Case> {
    cases().into_iter().chain(families::cases()).collect()
}

#[test]
fn a_device_that_is_not_there_is_a_typed_error() {
    let asked = Session::builder().device(&Device::Cuda(99)).expect_err("there are not so many");
    match Gpu::count() {
        Err(error) => assert_eq!(asked.to_string(), error.to_string()),
        Ok(count) => assert_eq!(asked.to_string(), CudaError::NoDevice { ordinal: 99, count }.to_string()),
    }
    assert!(Session::builder().device(&Device::Auto).is_ok(), "somewhere it runs");
}

/// The second run records what the first one did, and the third one repeats it: with other elements, which are not recorded.
#[test]
#[ignore = "needs a device, or the stand-in driver"]
fn what_is_repeated_gives_what_it_gave() {
    let backend = backend();
    for case in all_cases() {
        let (model, inputs) = compile(&backend, &case);
        let run = |inputs: &[Value]| model.run_values(inputs).unwrap_or_else(|e| panic!("{}: {e}", case.name)).into_iter().map(|(_, v)| v).collect::<Vec<_>>();
        let first = run(&inputs);
        let text = |values: &[Value]| values.iter().map(|v| format!("{:?}", v.as_tensor().map(|t| t.view().bytes().map(<[u8]>::to_vec)))).collect::<Vec<_>>();
        run(&inputs);
        let other: Vec<Value> = inputs
            .iter()
            .map(|v| match v.as_tensor().expect("a tensor") {
                t if t.dtype() == millstream::DType::F32 => Value::Tensor(noise(t.shape(), 77)),
                t => Value::Tensor(t.clone()),
            })
            .collect();
        let _ = model.run_values(&other);
        assert_eq!(text(&run(&inputs)), text(&first), "{}", case.name);
    }
}

#[test]
#[ignore = "needs a device, or the stand-in driver"]
#[expect(clippy::print_stdout, reason = "the list is what this test is for")]
fn the_device_runs_what_it_has_kernels_for() {
    let backend = backend();
    let (mut device, mut host) = (Vec::new(), Vec::new());
    for case in all_cases() {
        let (model, inputs) = compile(&backend, &case);
        let lines = model.executable().describe(&shapes(&inputs)).unwrap_or_default();
        if lines.iter().any(|l| l.contains(" by cuda ")) { &mut device } else { &mut host }.push(case.name);
    }
    println!("on the device: {}\non the host: {}", device.join(" "), host.join(" "));
    let wanted = [
        "add",
        "relu",
        "erf",
        "gelu",
        "matmul",
        "gemm",
        "conv",
        "conv_grouped",
        "max_pool",
        "softmax",
        "layer_norm",
        "transpose",
        "concat",
        "gather",
        "attention",
        "attention_causal",
        "rotary",
        "dynamic_quantize",
    ];
    for name in wanted {
        assert!(device.contains(&name), "{name} should run on the device");
    }
}

#[test]
#[ignore = "needs a device, or the stand-in driver"]
fn the_plan_tells_what_a_run_takes() {
    let (_, samples) = fixture();
    let input = windows(samples[..1].iter().map(|s| s.text.as_str()));
    let backend = backend();
    let session = |limit: usize| Session::builder().backend(backend.clone()).memory_limit(limit).build();
    let plan = open(&session(usize::MAX)).expect("it loads").plan_bytes(&[*input.shape()]).expect("shapes tell all");
    assert!(plan.arena > 0 && plan.weights > 0);
    let run = |limit: usize| open(&session(limit)).expect("it loads").run(&[("bytes", input.clone())]);
    assert!(run(plan.arena).is_ok());
    let error = run(plan.arena - 1).expect_err("one byte is missing");
    assert!(matches!(error, Error::Run(RunError::MemoryLimit { needed, .. }) if needed == plan.arena), "{error}");
}

#[test]
#[ignore = "needs a device, or the stand-in driver"]
fn an_index_out_of_range_is_an_error_with_its_node() {
    let indices = Tensor::from_slice(&[2], &[0i64, 7]).expect("two numbers");
    let (model, inputs) = compile(&backend(), &Case::new("picks", "Gather", [noise(&[4, 3], 1), indices]));
    let error = model.run_values(&inputs).expect_err("there are 4 rows");
    assert!(matches!(&error, Error::Run(RunError::Step(step)) if &*step.path == "picks"), "{error}");
    // The fault is not the next run's.
    let indices = Tensor::from_slice(&[2], &[-1i64, 3]).expect("two numbers");
    assert!(model.run_values(&[inputs[0].clone(), Value::Tensor(indices)]).is_ok());
}

#[test]
#[ignore = "needs a device, or the stand-in driver"]
fn threads_share_a_model() {
    let backend = backend();
    let case = Case::new("product", "MatMul", [noise(&[20, 30], 1), noise(&[30, 10], 2)]);
    let (model, inputs) = compile(&backend, &case);
    let wanted = bits(model.run_values(&inputs).expect("it runs").first().expect("a tensor"));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let made = model.run_values(&inputs).expect("it runs");
                    assert_eq!(bits(made.first().expect("a tensor")), wanted);
                }
            });
        }
    });
}
