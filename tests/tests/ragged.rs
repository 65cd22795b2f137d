//! Examples of different lengths in one batch give what they give alone: padded with masks, and cut back.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use millstream::{
    DType, Session, Tensor,
    kernel::{
        engine::{Executable, PlanBytes, Request, RunError, Signature, Workspace},
        graph::{BuildCx, Declared, Graph, Node, ValueId},
    },
    runtime::{EngineModel, ModelId, Pipeline, Ragged, Report, RunInference, StageError, collect, from_iter},
};
use millstream_tests::language;

/// A graph that grows by operators without attributes.
struct Builder<'s> {
    session: &'s Session,
    graph: Graph,
}

impl Builder<'_> {
    fn input(&mut self, name: &str, dtype: DType, dims: &[&str]) -> ValueId {
        let dims = Some(dims.iter().map(|dim| Some(Err((*dim).to_owned()))).collect());
        self.graph.add_input(name, Declared { dtype: Some(dtype), dims })
    }

    fn node(&mut self, op: &str, name: &str, inputs: &[ValueId]) -> ValueId {
        let out = self.graph.add_placeholder(name, Declared::default());
        let def = self.session.registry().find("", op).expect("an operator of ours");
        let cx = BuildCx { version: 17, attributes: &Default::default(), inputs: inputs.len(), outputs: 1, subgraphs: &[] };
        let op_built = def.instantiate(17, cx).expect("no attributes to refuse");
        let inputs = inputs.iter().map(|input| Some(*input)).collect();
        self.graph.add_node(Node { path: name.into(), op_name: op.into(), op: op_built.into(), inputs, outputs: vec![Some(out)], subgraphs: Vec::new() });
        out
    }
}

/// `y = softmax(x + log(mask))` over each row: every element depends on the whole example, and would on its padding, were
/// it not for the mask.
fn masked(session: &Session) -> Arc<dyn Executable> {
    let mut b = Builder { session, graph: Graph::new("masked") };
    let x = b.input("x", DType::F32, &["batch", "n"]);
    let mask = b.input("mask", DType::F32, &["batch", "n"]);
    let logs = b.node("Log", "logs", &[mask]);
    let kept = b.node("Add", "kept", &[x, logs]);
    let y = b.node("Softmax", "y", &[kept]);
    b.graph.add_output(y);
    session.compile(b.graph).expect("the graph is whole").executable().clone()
}

/// Looks at the rows and elements of each run.
struct Watched {
    inner: Arc<dyn Executable>,
    elements: AtomicUsize,
    runs: AtomicUsize,
}

impl Executable for Watched {
    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn run(&self, workspace: &mut Workspace, request: Request<'_, '_>) -> Result<Vec<Option<millstream::Value>>, RunError> {
        self.elements.fetch_add(request.inputs[0].as_tensor()?.shape().elements(), Ordering::SeqCst);
        self.runs.fetch_add(1, Ordering::SeqCst);
        self.inner.run(workspace, request)
    }

    fn plan_bytes(&self, inputs: &[millstream::Shape]) -> Result<PlanBytes, RunError> {
        self.inner.plan_bytes(inputs)
    }

    fn describe(&self, inputs: &[millstream::Shape]) -> Result<Vec<String>, RunError> {
        self.inner.describe(inputs)
    }
}

type Numbered = (usize, Vec<Tensor>);

fn through(
    model: EngineModel,
    examples: &[Vec<Tensor>],
    configure: impl FnOnce(RunInference<Numbered, EngineModel>) -> RunInference<Numbered, EngineModel>,
) -> (Report, Vec<Vec<Tensor>>) {
    let (sink, results) = collect();
    let records: Vec<Numbered> = examples.iter().cloned().enumerate().collect();
    let inference = RunInference::new(model).batch(1..=16).preprocess(|(_, example): &Numbered| Ok::<_, StageError>(example.clone()));
    let report =
        Pipeline::from(from_iter(records)).infer("model", configure(inference)).map("out", |p| (p.example.0, p.inference)).sink(sink).run().expect("it ends");
    let mut results = results.take();
    results.sort_by_key(|(index, _)| *index);
    (report, results.into_iter().map(|(_, outputs)| outputs).collect())
}

fn lengths(n: usize) -> impl Iterator<Item = usize> {
    (0..n).map(|i| 1 + i * 37 % 53)
}

#[test]
fn ragged_examples_give_in_batches_what_they_give_alone() {
    let session = Session::builder().threads(1).build();
    let watched = Arc::new(Watched { inner: masked(&session), elements: AtomicUsize::new(0), runs: AtomicUsize::new(0) });
    let examples: Vec<Vec<Tensor>> = lengths(600)
        .enumerate()
        .map(|(i, n)| {
            let row: Vec<f32> = (0..n).map(|j| ((i * 7 + j) as f32).sin()).collect();
            vec![Tensor::from_slice(&[n], &row).expect("a vector")]
        })
        .collect();
    // Padding that would show.
    let ragged = Ragged::new().pad("x", 0, 7.5).mask("mask").cut("y", 0);
    let model = EngineModel::new(ModelId::new("masked", "1"), watched.clone()).ragged(ragged).expect("the names exist");
    let (report, outputs) = through(model, &examples, |run| run.pool(256).max_tokens(400).hold_until(256));
    assert_eq!(report.counts.ok, 600, "{report}");
    let mut workspace = Workspace::new();
    for (example, outputs) in examples.iter().zip(&outputs) {
        let n = example[0].shape().dims()[0];
        let x = example[0].reshaped(&[1, n]).expect("one row");
        let mask = Tensor::from_slice(&[1, n], &vec![1f32; n]).expect("one row");
        let alone =
            watched.inner.run(&mut workspace, Request::new(&[x.into(), mask.into()])).expect("it runs").remove(0).expect("y").into_tensor().expect("a tensor");
        let (found, alone) = (language::floats(&outputs[0]), language::floats(&alone));
        // Sums are taken in another order where rows are wider.
        assert!(found.len() == n && found.iter().zip(&alone).all(|(a, b)| (a - b).abs() <= 1e-6), "{found:?} for {alone:?}");
    }
    let real: usize = lengths(600).sum();
    let computed = watched.elements.load(Ordering::SeqCst);
    assert!(computed as f64 <= 1.1 * real as f64, "{computed} for {real}");
    assert!(watched.runs.load(Ordering::SeqCst) <= 200, "{} runs", watched.runs.load(Ordering::SeqCst));
    let stage = &report.snapshot.stages[1];
    assert_eq!((stage.tokens, stage.padded_tokens), (real as u64, computed as u64));
}

#[test]
fn the_embedded_model_takes_files_as_long_as_they_are() {
    let session = Session::builder().threads(1).build();
    let model = language::open(&session).expect("it loads");
    let (_, samples) = language::fixture();
    let examples: Vec<Vec<Tensor>> = samples
        .iter()
        .map(|sample| {
            let bytes: Vec<i32> = sample.text.bytes().take(language::WINDOW).map(i32::from).collect();
            vec![Tensor::from_slice(&[bytes.len()], &bytes).expect("a vector")]
        })
        .collect();
    let ragged = Ragged::new().pad("bytes", 0, 256.0).pad_to(language::WINDOW);
    let handler = EngineModel::new(ModelId::new("language", "1"), model.executable().clone()).ragged(ragged).expect("the names exist");
    // Padding is what this model wants: no limit to it.
    let (report, outputs) = through(handler, &examples, |run| run.max_padding(f64::INFINITY));
    assert_eq!(report.counts.ok, samples.len() as u64, "{report}");
    for (sample, outputs) in samples.iter().zip(&outputs) {
        let found = language::floats(&outputs[0]);
        assert!(found.iter().zip(&sample.probabilities).all(|(a, b)| (a - b).abs() < 1e-4), "{}: {found:?}", sample.label);
    }
}

#[test]
fn wrong_declarations_and_examples_are_named() {
    let session = Session::builder().threads(1).build();
    let model = || EngineModel::new(ModelId::new("masked", "1"), masked(&session));
    let refused = |ragged: Ragged| model().ragged(ragged).err().expect("it is refused").to_string();
    assert!(refused(Ragged::new().pad("z", 0, 0.0)).contains("no input `z`"));
    assert!(refused(Ragged::new().pad("x", 0, 0.0).cut("z", 0)).contains("no output `z`"));
    assert!(refused(Ragged::new().mask("mask")).contains("needs an input"));

    // Both inputs are the caller's, and of one length; one example breaks that, and pays alone.
    let ragged = Ragged::new().pad("x", 0, 0.0).pad("mask", 0, 0.0).cut("y", 0);
    let vector = |n: usize| Tensor::from_slice(&[n], &vec![1f32; n]).expect("a vector");
    let examples: Vec<_> = (0..20).map(|i| vec![vector(5), vector(if i == 7 { 4 } else { 5 })]).collect();
    let (report, outputs) = through(model().ragged(ragged).expect("the names exist"), &examples, |run| run.hold_until(20));
    assert_eq!((report.counts.ok, report.counts.dead_lettered, outputs.len()), (19, 1, 19));
    assert!(report.dead_letters[0].to_string().contains("axis 0 of `mask`"), "{}", report.dead_letters[0]);
}
