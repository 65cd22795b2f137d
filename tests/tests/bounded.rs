//! Memory by construction: a process whose address space ends a little behind its budget finishes a stream whose largest batch would
//! need 4 GiB, and loses nothing.
#![cfg(target_os = "linux")]

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use millstream::{
    DType, Session, Shape, Tensor, Value,
    kernel::{
        engine::{Executable, PlanBytes, Request, RunError, Signature, Workspace},
        graph::{Attribute, Attributes, BuildCx, Declared, Graph, Node, ValueId},
    },
    runtime::{EngineModel, ModelId, Pipeline, RunInference, StageError, collect, from_iter},
};
use millstream_tests::language::floats;

/// What the pipeline may hold: records, and what its model runs in.
const BUDGET: u64 = 512 << 20;
/// Address space beside the budget: the program, its threads' stacks and the allocator's reserve.
const OVERHEAD: u64 = 256 << 20;
/// Elements that the model makes of each record: 256 KiB.
const WIDTH: usize = 1 << 16;
/// 4 GiB of such elements.
const BATCH: usize = 1 << 14;
const RECORDS: usize = 20_000;
const CHILD: &str = "MILLSTREAM_BOUNDED_TEST";

fn node(session: &Session, graph: &mut Graph, op: &str, inputs: &[ValueId], attributes: &[(&str, Attribute)]) -> ValueId {
    let out = graph.add_placeholder(op, Declared::default());
    let attributes: Attributes = attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let def = session.registry().find("", op).expect("an operator of ours");
    let cx = BuildCx { version: 17, attributes: &attributes, inputs: inputs.len(), outputs: 1, subgraphs: &[] };
    let op_built = def.instantiate(17, cx).expect("attributes that it knows");
    let inputs = inputs.iter().map(|input| Some(*input)).collect();
    graph.add_node(Node { path: op.into(), op_name: op.into(), op: op_built.into(), inputs, outputs: vec![Some(out)], subgraphs: vec![] });
    out
}

/// `y[n] = max over i of (x[n] + i)`, by way of a row of `WIDTH` elements for each record.
fn wide(session: &Session) -> millstream::Model {
    let mut graph = Graph::new("wide");
    let x = graph.add_input("x", Declared { dtype: Some(DType::F32), dims: Some(vec![Some(Err("batch".to_owned())), Some(Ok(1))]) });
    let row: Vec<f32> = (0..WIDTH).map(|i| i as f32).collect();
    let row = graph.add_constant("row", Tensor::from_slice(&[WIDTH], &row).expect("a row"));
    let sums = node(session, &mut graph, "Add", &[x, row], &[]);
    let y = node(session, &mut graph, "ReduceMax", &[sums], &[("axes", Attribute::Ints(vec![1])), ("keepdims", Attribute::Int(1))]);
    graph.add_output(y);
    session.compile(graph).expect("the graph is whole")
}

/// Looks at the rows of each run.
struct Watched {
    inner: Arc<dyn Executable>,
    largest: AtomicUsize,
}

impl Executable for Watched {
    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn run(&self, workspace: &mut Workspace, request: Request<'_, '_>) -> Result<Vec<Option<Value>>, RunError> {
        let rows = request.inputs[0].as_tensor()?.shape()[0];
        self.largest.fetch_max(rows, Ordering::Relaxed);
        self.inner.run(workspace, request)
    }

    fn plan_bytes(&self, inputs: &[Shape]) -> Result<PlanBytes, RunError> {
        self.inner.plan_bytes(inputs)
    }

    fn describe(&self, inputs: &[Shape]) -> Result<Vec<String>, RunError> {
        self.inner.describe(inputs)
    }
}

/// What the bounded process does. Its batcher waits for the whole batch, which never fits.
#[test]
fn child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let session = Session::builder().threads(1).build();
    let watched = Arc::new(Watched { inner: wide(&session).executable().clone(), largest: AtomicUsize::new(0) });
    let model = EngineModel::new(ModelId::new("wide", "1"), watched.clone());
    let example = |x: &f32| Ok::<_, StageError>(vec![Tensor::from_slice(&[1], &[*x])?]);
    let run = RunInference::new(model).batch(1..=BATCH).hold_until(BATCH).preprocess(example);
    let (sink, results) = collect();
    let report = Pipeline::from(from_iter((0..RECORDS).map(|i| (i % 1000) as f32)))
        .infer("wide", run)
        .map("sum", |p| (p.example, floats(&p.inference[0])[0]))
        .sink(sink)
        .edge_records(2 * BATCH as u32)
        .memory_budget(BUDGET)
        .run()
        .expect("it ends");
    assert_eq!(report.counts.ok, RECORDS as u64, "{report}");
    let results = results.take();
    assert_eq!(results.len(), RECORDS);
    assert!(results.iter().all(|(x, y)| *y == x + (WIDTH - 1) as f32), "a result is another record's");
    let largest = watched.largest.load(Ordering::Relaxed) as u64 * WIDTH as u64 * 4;
    assert!(largest > BUDGET / 8 && largest < BUDGET, "the largest batch took {largest} bytes");
}

#[test]
fn a_process_that_may_hold_little_more_than_its_budget_finishes() {
    let model = wide(&Session::builder().threads(1).build());
    let whole = model.plan_bytes(&[Shape::new(&[BATCH, 1]).expect("a shape")]).expect("shapes tell all");
    assert!(whole.arena >= 4 << 30, "the whole batch needs {} bytes", whole.arena);
    let limit = BUDGET + whole.weights as u64 + OVERHEAD;
    let done = Command::new("sh")
        .args(["-c", r#"ulimit -v "$1" && exec "$2" --exact child --nocapture --test-threads=1"#, "sh", &(limit >> 10).to_string()])
        .arg(std::env::current_exe().expect("this test"))
        .env(CHILD, "1")
        // Reserves of address space for each thread say nothing of memory.
        .env("MALLOC_ARENA_MAX", "2")
        .output()
        .expect("a shell");
    let text = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&done.stderr));
}
