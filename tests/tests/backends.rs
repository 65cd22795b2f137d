//! The suite that every backend must pass: the embedded model against ONNX Runtime's results, and single operators against the
//! CPU's plan on its scalar level. CPU plans run on every level of this machine, on one thread and on two.

use millstream::{
    DType, Model, Session, Shape, Tensor, Value,
    candle::CandleBackend,
    cpu::{CpuBackend, Level},
    cuda::{CudaBackend, Gpu},
    kernel::{
        compile::{Options, rules},
        engine::Backend,
        graph::{BuildCx, Declared, Graph, Node, Op, Registry, Subgraph},
    },
};
use millstream_tests::{
    families::{self, FAMILIES},
    language::{fixture, floats, open, windows},
    single::{Case, cases, noise},
    stored,
};
use std::{env, path::Path, sync::Arc};

/// The variable that takes CUDA in: this machine's device, or what stands in for its driver (`tests/run.py --only cuda`).
const CUDA: &str = "MILLSTREAM_CUDA";

/// Every backend, by a name for messages.
fn backends() -> Vec<(String, Arc<dyn Backend>)> {
    let mut all: Vec<(String, Arc<dyn Backend>)> = vec![("candle".into(), Arc::new(CandleBackend::new()))];
    if env::var_os(CUDA).is_some() {
        all.push(("cuda".into(), Arc::new(CudaBackend::new(Gpu::open(0).expect("a device")))));
    }
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
    for case in all_cases() {
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
    assert_within(found, wanted, 1e-5, what);
}

fn assert_within(found: &Tensor, wanted: &Tensor, tolerance: f32, what: &str) {
    assert_eq!((found.dtype(), found.shape()), (wanted.dtype(), wanted.shape()), "{what}");
    if wanted.dtype() != DType::F32 {
        assert_eq!(found, wanted, "{what}");
        return;
    }
    let (found, wanted) = (floats(found), floats(wanted));
    let greatest = wanted.iter().fold(1.0f32, |m, x| m.max(x.abs()));
    for (i, (a, b)) in found.iter().zip(&wanted).enumerate() {
        assert!((a - b).abs() <= tolerance * greatest, "{what}: element {i} is {a}, expected {b}");
    }
}

fn all_cases() -> Vec<Case> {
    cases().into_iter().chain(families::cases()).collect()
}

#[test]
fn every_family_of_operators_is_in_the_suite() {
    let tested: Vec<&str> = all_cases().iter().map(|c| c.op).collect();
    for (family, operators) in FAMILIES {
        for op in *operators {
            assert!(tested.contains(op), "{family}: there is no case of {op}");
        }
    }
}

/// A choice between two subgraphs, which read a value from outside, on every backend.
#[test]
fn choices_agree() {
    let registry = millstream::kernel::ops::registry();
    let x = Tensor::from_slice(&[3], &[1.0f32, -2.0, 3.0]).expect("three numbers");
    for (name, backend) in backends() {
        let model = session(&backend).compile(choice(&registry)).unwrap_or_else(|e| panic!("{name}: {e}"));
        for (flag, wanted) in [(1u8, [1.0f32, 0.0, 3.0]), (0, [1.0, 2.0, 3.0])] {
            let condition = Tensor::from_bytes(DType::Bool, &[], &[flag]).expect("a flag");
            let made = model.run(&[("condition", condition), ("x", x.clone())]).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(floats(made.first().expect("an output")), wanted, "{name}");
        }
    }
}

/// `if condition { relu(x) } else { abs(x) }`
fn choice(registry: &Registry) -> Graph {
    let vector = || Declared { dtype: Some(DType::F32), dims: Some(vec![None]) };
    let node = |name: &str, inputs: usize, subgraphs: Vec<Subgraph>| -> Arc<dyn Op> {
        let cx = BuildCx { version: 0, attributes: &Default::default(), inputs, outputs: 1, subgraphs: &subgraphs };
        registry.find("", name).expect("an operator of ours").instantiate(22, cx).expect("it can be built").into()
    };
    let add = |graph: &mut Graph, name: &str, op, input, subgraphs: Vec<Subgraph>| {
        let y = graph.add_placeholder("y", Declared::default());
        graph.add_node(Node { path: name.into(), op_name: name.into(), op, inputs: vec![Some(input)], outputs: vec![Some(y)], subgraphs });
        graph.add_output(y);
    };
    let mut graph = Graph::new("choice");
    let condition = graph.add_input("condition", Declared { dtype: Some(DType::Bool), dims: Some(vec![]) });
    let x = graph.add_input("x", vector());
    let branches = ["Relu", "Abs"].map(|name| {
        let mut body = Graph::new(name);
        let inside = body.add_input("x", vector());
        add(&mut body, name, node(name, 1, vec![]), inside, vec![]);
        Subgraph { graph: body, captures: vec![x] }
    });
    let op = node("If", 1, branches.to_vec());
    add(&mut graph, "If", op, condition, branches.to_vec());
    graph
}

/// Whole models against what ONNX Runtime gives: those of the folder that `MILLSTREAM_MODELS` names, as `make_models.py` makes
/// them, on Candle and on CPU plans, within the same share of the greatest output. Elsewhere the embedded model's test stands for them.
#[test]
#[ignore = "needs a folder of models in MILLSTREAM_MODELS"]
fn whole_models_agree() {
    let everywhere: Vec<_> =
        backends().into_iter().filter(|(name, _)| name == "candle" || name == "cuda" || name.ends_with(" 2") && !name.contains("scalar")).collect();
    for folder in stored::folders() {
        gives_what_is_stored(&folder, &everywhere, 1e-3);
    }
}

/// Products with weights of 4 and 8 bits against what ONNX Runtime gives, on every backend.
#[test]
fn weights_of_few_bits_give_what_onnx_runtime_gives() {
    gives_what_is_stored(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/few_bits"), &backends(), 1e-5);
}

/// A folder's model gives its outputs, within a share of the greatest.
fn gives_what_is_stored(folder: &Path, backends: &[(String, Arc<dyn Backend>)], tolerance: f32) {
    let (inputs, wanted) = (stored::arrays(folder, "inputs"), stored::arrays(folder, "outputs"));
    let given: Vec<(&str, Tensor)> = inputs.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
    for (name, backend) in backends {
        let what = format!("{} on {name}", folder.display());
        let model = session(backend).open(folder.join("model.onnx")).unwrap_or_else(|e| panic!("{what}: {e}"));
        let found = model.run(&given).unwrap_or_else(|e| panic!("{what}: {e}"));
        for (output, wanted) in &wanted {
            assert_within(found.tensor(output).expect("it was made"), wanted, tolerance, &format!("{what}: {output}"));
        }
    }
}

/// What an operator's constants take in a plan: no more than five bits a weight of four with a scale for 32, whatever the backend.
#[test]
fn weights_of_few_bits_stay_as_narrow_as_they_are() {
    let (k, n) = (1024usize, 512usize);
    let bytes = |n: usize| Tensor::from_slice(&[n], &vec![0x5au8; n]).expect("bytes");
    let case = Case::new("narrow", "MatMulNBits", [noise(&[1, k], 1), bytes(k * n / 2), noise(&[k * n / 32], 2)]).constants_from(1);
    let case = Case { domain: "com.microsoft", ..case.int("K", k as i64).int("N", n as i64).int("block_size", 32) };
    for (name, backend) in backends() {
        let model = session(&backend).compile(case.graph(&millstream::kernel::ops::registry()).0).expect("it compiles");
        let plan = model.executable().plan_bytes(&[*case.inputs[0].as_ref().expect("x").shape()]).expect("it is known");
        let most = k * n / 8 * 5;
        assert!(plan.weights <= most && plan.arena < k * n, "{name}: {} bytes of weights, {} of the arena, {most} are enough", plan.weights, plan.arena);
    }
}

/// Names what each backend leaves to other kernels than its own, or does not run at all. Run with `--nocapture` to read it.
#[test]
#[expect(clippy::print_stdout, reason = "the list is what this test is for")]
fn every_backend_lists_what_it_refuses_and_candle_runs_what_it_has() {
    let registry = millstream::kernel::ops::registry();
    let backend: Arc<dyn Backend> = Arc::new(CandleBackend::new());
    let (mut direct, mut ours) = (Vec::new(), Vec::new());
    for (name, backend) in backends() {
        let refused = |case: &Case| session(&backend).compile(case.graph(&registry).0).is_err();
        let refused: Vec<&str> = all_cases().iter().filter(|c| refused(c)).map(|c| c.name).collect();
        println!("{name} does not run: {}", if refused.is_empty() { "nothing (all of the suite runs)".to_owned() } else { refused.join(" ") });
    }
    for case in all_cases() {
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
