//! Models of Candle's and of ours exchange tensors, weights and pipelines.

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use millstream::{
    CandleModule, Session, Shape,
    cpu::MappedFile,
    kernel::{
        graph::{BuildCx, Declared, Graph, Node},
        safetensors::{Weights, to_bytes},
        tensor::TensorView,
    },
    runtime::{ModelId, Pipeline, RunInference, collect, from_iter},
};
use millstream_tests::{
    bert::{Bert, Kernels, Sizes},
    language::{fixture, floats, open, windows},
};
use std::{fs, path::PathBuf, sync::Arc};

fn elements(t: &Tensor) -> Vec<f32> {
    t.flatten_all().and_then(|t| t.to_vec1()).expect("a tensor of f32")
}

fn assert_close(found: &Tensor, wanted: &Tensor, tolerance: f32, what: &str) {
    assert_eq!(found.dims(), wanted.dims(), "{what}");
    for (i, (x, y)) in elements(found).iter().zip(&elements(wanted)).enumerate() {
        assert!((x - y).abs() <= tolerance, "{what}: element {i} is {x}, expected {y}");
    }
}

/// Token numbers, kinds, and a mask that hides the end of every other row.
fn sentences(batch: usize, rows: usize) -> [Tensor; 3] {
    let at = |f: &dyn Fn(usize, usize) -> u32| (0..batch * rows).map(|i| f(i / rows, i % rows)).collect::<Vec<u32>>();
    let tensor = |v: Vec<u32>| Tensor::from_vec(v, (batch, rows), &Device::Cpu).expect("dims fit");
    let mask = tensor(at(&|b, r| u32::from(b % 2 == 0 || r < rows.div_ceil(2)))).to_dtype(DType::F32).expect("numbers");
    [tensor(at(&|b, r| ((b * 31 + r * 7) % 50) as u32)), tensor(at(&|_, r| u32::from(r > rows / 2))), mask]
}

#[test]
fn a_bert_of_candle_gives_the_same_on_our_operators() {
    let [theirs, ours] = [Kernels::Candle, Kernels::Millstream].map(|k| Bert::random(&Sizes::TINY, k).expect("it loads"));
    for (batch, rows) in [(1, 1), (1, 7), (3, 16), (2, 32)] {
        let [ids, kinds, mask] = sentences(batch, rows);
        let wanted = theirs.forward(&ids, &kinds, &mask).expect("Candle runs it");
        let found = ours.forward(&ids, &kinds, &mask).expect("millstream runs it");
        assert_close(&found, &wanted, 2e-5, &format!("{batch} x {rows}"));
    }
}

#[test]
fn a_model_of_candle_is_a_stage_of_a_pipeline() {
    let bert = Bert::random(&Sizes::TINY, Kernels::Millstream).expect("it loads");
    let examples: Vec<Vec<Tensor>> = (0..60).map(|i| sentences(2, 3 + i % 4).map(|t| t.get(i % 2).expect("two rows")).to_vec()).collect();
    let alone: Vec<Tensor> = examples
        .iter()
        .map(|example| {
            let [ids, kinds, mask] = [0, 1, 2].map(|i| example[i].unsqueeze(0).expect("an axis"));
            bert.forward(&ids, &kinds, &mask).and_then(|y| y.get(0)).expect("it runs")
        })
        .collect();
    let model = CandleModule::of(ModelId::new("bert", "1"), move |inputs| match inputs {
        [ids, kinds, mask] => Ok(vec![bert.forward(ids, kinds, mask)?]),
        _ => Err(candle_core::Error::Msg("three tensors are expected".into())),
    });
    let (sink, results) = collect();
    let report = Pipeline::from(from_iter(examples.into_iter().enumerate()))
        .infer("bert", RunInference::new(model).batch(1..=8).replicas(2).preprocess(|(_, x): &(usize, Vec<Tensor>)| Ok::<_, candle_core::Error>(x.clone())))
        .map("index", |p| (p.example.0, p.inference))
        .sink(sink)
        .memory_budget(64 << 20)
        .run()
        .expect("nothing fails");
    assert_eq!(report.counts.ok, 60);
    let mut results = results.take();
    results.sort_by_key(|(index, _)| *index);
    for ((index, inference), alone) in results.iter().zip(&alone) {
        assert_eq!(inference.len(), 1);
        assert_close(&inference[0], alone, 1e-5, &format!("example {index}"));
    }
}

#[test]
fn a_module_of_candle_that_fails_costs_its_examples() {
    let layer = candle_nn::Linear::new(Tensor::ones((2, 3), DType::F32, &Device::Cpu).expect("ones"), None);
    let (sink, results) = collect();
    let report = Pipeline::from(from_iter((0..10usize).map(|i| vec![Tensor::ones(if i == 4 { 5 } else { 3 }, DType::F32, &Device::Cpu).expect("ones")])))
        .infer("linear", RunInference::new(CandleModule::new(ModelId::new("linear", "1"), layer)).batch(1..=4))
        .map("row", |p| elements(&p.inference[0]))
        .sink(sink)
        .run()
        .expect("the pipeline goes on");
    assert_eq!((report.counts.ok, results.take().len()), (9, 9));
}

#[test]
fn our_models_run_on_tensors_of_candle() {
    let (labels, samples) = fixture();
    let input = windows(samples.iter().map(|s| s.text.as_str()));
    let model = open(&Session::builder().threads(2).build()).expect("the model loads");
    let wanted = model.run(&[("bytes", input.clone())]).expect("it runs");
    let bytes = Tensor::from_slice(input.as_slice::<i32>().expect("numbers"), input.shape().dims(), &Device::Cpu).expect("dims fit");
    // Dense, strided, and once more with a bound plan.
    let turned = bytes.t().and_then(|t| t.contiguous()).and_then(|t| t.t()).expect("a matrix");
    for given in [&bytes, &turned, &bytes] {
        let made = model.run_candle(&[("bytes", given)]).expect("it runs");
        let (name, output) = made.into_iter().next().expect("an output");
        assert_eq!(*name, *model.signature().outputs[0].name);
        let t = output.candle().expect("Candle has floats");
        assert_eq!(t.dims(), [samples.len(), labels.len()]);
        assert_eq!(elements(&t), floats(wanted.first().expect("an output")), "the same bits");
    }
    for wrong in [&[][..], &[("byte", &bytes)], &[("bytes", &bytes.to_dtype(DType::F32).expect("floats"))], &[("bytes", &bytes.get(0).expect("a row"))]] {
        assert!(model.run_candle(wrong).is_err());
    }
}

/// Outputs whose number only a run tells, and types that Candle lacks, come as values.
#[test]
fn outputs_that_candle_cannot_hold_come_as_values() {
    let session = Session::new();
    let mut graph = Graph::new("found");
    let x = graph.add_input("x", Declared { dtype: Some(millstream::DType::F32), dims: Some(vec![Some(Err("n".into()))]) });
    for (name, op) in [("places", "NonZero"), ("bad", "IsNaN"), ("same", "Identity")] {
        let y = graph.add_placeholder(name, Declared::default());
        let def = session.registry().find("", op).expect("an operator of ours");
        let cx = BuildCx { version: 14, attributes: &Default::default(), inputs: 1, outputs: 1, subgraphs: &[] };
        let op_box = def.instantiate(20, cx).expect("no attributes to refuse");
        graph.add_node(Node { path: name.into(), op_name: op.into(), op: op_box.into(), inputs: vec![Some(x)], outputs: vec![Some(y)], subgraphs: Vec::new() });
        graph.add_output(y);
    }
    let model = session.compile(graph).expect("the graph is whole");
    let x = Tensor::new(&[0f32, 2.0, f32::NAN, 0.0], &Device::Cpu).expect("a vector");
    let made = model.run_candle(&[("x", &x)]).expect("it runs");
    let [places, bad, same] = [0, 1, 2].map(|i| made[i].1.clone());
    assert_eq!(places.candle().and_then(|t| t.flatten_all().and_then(|t| t.to_vec1::<i64>()).ok()), Some(vec![1, 2]));
    let millstream::candle::Output::Own(bad) = bad else { panic!("Candle has no booleans") };
    assert_eq!(bad.as_tensor().expect("a tensor").shape(), &Shape::new(&[4]).expect("a vector"));
    assert_eq!(same.candle().expect("floats").dims(), [4]);
}

/// A file in the system's folder for such, away when the test ends.
struct Kept(PathBuf);

impl Kept {
    fn new(name: &str) -> Kept {
        Kept(std::env::temp_dir().join(format!("millstream-{}-{name}", std::process::id())))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn weights_go_through_safetensors_both_ways() {
    let weights = Sizes::TINY.weights().expect("they are made");
    let [ids, kinds, mask] = sentences(2, 9);
    let wanted = Bert::random(&Sizes::TINY, Kernels::Candle).and_then(|b| b.forward(&ids, &kinds, &mask)).expect("it runs");

    // Candle writes, we read.
    let theirs = Kept::new("theirs.safetensors");
    candle_core::safetensors::save(&weights, &theirs.0).expect("it is written");
    let read = Weights::open(Arc::new(MappedFile::open(&theirs.0).expect("it is mapped"))).expect("it is a file of weights");
    assert_eq!(read.names().count(), weights.len());
    let own: Vec<(String, millstream::Tensor)> =
        read.names().map(|n| (n.to_owned(), read.find(n).expect("it is there").to_tensor().expect("it is whole"))).collect();
    for (name, t) in &own {
        assert_eq!((t.shape().dims(), floats(t)), (weights[name].dims(), elements(&weights[name])), "{name}");
    }

    // We write, Candle's VarBuilder reads.
    let ours = Kept::new("ours.safetensors");
    let views: Vec<(&str, TensorView<'_>)> = own.iter().map(|(name, t)| (name.as_str(), t.view())).collect();
    fs::write(&ours.0, to_bytes(views, [("format", "pt")]).expect("they are written")).expect("the disk has room");
    let bytes = fs::read(&ours.0).expect("it is there");
    let vb = VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu).expect("Candle reads it");
    for kernels in [Kernels::Candle, Kernels::Millstream] {
        let found = Bert::load(&vb, &Sizes::TINY, kernels).and_then(|b| b.forward(&ids, &kinds, &mask)).expect("it runs");
        assert_close(&found, &wanted, 2e-5, "read back");
    }
}
