//! The engine's models as handlers, over an executable that is written by hand.

mod oracle;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use millstream_engine::{Executable, PlanBytes, Port, Request, RunError, Signature, Workspace};
use millstream_runtime::{EngineModel, ModelId, Pipeline, RunInference, collect, from_iter};
use millstream_tensor::{DType, Shape, Tensor, Value};
use oracle::Ends;

/// Sums each row, and adds the shared input, if there is one. Counts its runs and its largest batch.
struct RowSums {
    signature: Signature,
    /// Gives one number for all rows instead.
    total: bool,
    runs: AtomicUsize,
    largest: AtomicUsize,
}

impl RowSums {
    fn new(batch: Result<usize, String>, bias: bool, total: bool) -> Arc<Self> {
        let mut inputs = vec![Port { name: "x".into(), dtype: Some(DType::F32), dims: Some(vec![batch, Err("n".into())]) }];
        if bias {
            inputs.push(Port { name: "bias".into(), dtype: Some(DType::F32), dims: Some(vec![]) });
        }
        let outputs = vec![Port { name: "y".into(), dtype: Some(DType::F32), dims: None }];
        let signature = Signature { inputs, outputs };
        Arc::new(RowSums { signature, total, runs: AtomicUsize::new(0), largest: AtomicUsize::new(0) })
    }
}

impl Executable for RowSums {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn run(&self, _: &mut Workspace, request: Request<'_, '_>) -> Result<Vec<Option<Value>>, RunError> {
        let x = request.inputs[0].as_tensor()?;
        let [rows, columns] = *x.shape().dims() else { panic!("{}", x.shape()) };
        if let Some(Ok(fixed)) = self.signature.inputs[0].dims.as_ref().map(|dims| dims[0].clone()) {
            assert_eq!(rows, fixed, "not the model's batch");
        }
        let bias = request.inputs.get(1).map_or(Ok(0.0), |b| b.as_tensor().and_then(|b| Ok(b.as_slice::<f32>()?[0])))?;
        self.runs.fetch_add(1, Ordering::SeqCst);
        self.largest.fetch_max(rows, Ordering::SeqCst);
        let sums: Vec<f32> = x.as_slice::<f32>()?.chunks(columns).map(|row| row.iter().sum::<f32>() + bias).collect();
        let y = if self.total { Tensor::scalar(sums.iter().sum::<f32>())? } else { Tensor::from_slice(&[rows], &sums)? };
        Ok(vec![Some(Value::Tensor(y))])
    }

    fn plan_bytes(&self, inputs: &[Shape]) -> Result<PlanBytes, RunError> {
        Ok(PlanBytes::new(0, inputs[0].elements() * 4, 0, 0))
    }

    fn describe(&self, _: &[Shape]) -> Result<Vec<String>, RunError> {
        Ok(Vec::new())
    }
}

/// Rows of one to five numbers: ragged examples.
fn examples(n: usize) -> impl Iterator<Item = Vec<Tensor>> {
    (0..n).map(|i| {
        let row = vec![i as f32; 1 + i % 5];
        vec![Tensor::from_slice(&[row.len()], &row).unwrap()]
    })
}

fn sums(model: EngineModel, n: usize, memory: u64) -> Vec<f32> {
    let (ends, (sink, results)) = (Ends::new(), collect());
    let report = Pipeline::from(from_iter(examples(n)))
        .infer("sum", RunInference::new(model).batch(1..=16).hold_until(n.min(64)).memory(memory))
        .map("number", |p| (p.example[0].as_slice::<f32>().unwrap()[0], p.inference[0].as_slice::<f32>().unwrap()[0]))
        .sink(sink)
        .observe(ends.clone())
        .run()
        .unwrap();
    ends.check(&report);
    assert_eq!(report.counts.ok, n as u64, "{report}");
    let mut results = results.take();
    results.sort_by(|a, b| a.0.total_cmp(&b.0));
    results.into_iter().map(|(_, sum)| sum).collect()
}

fn expected(n: usize, bias: f32) -> Vec<f32> {
    (0..n).map(|i| (i * (1 + i % 5)) as f32 + bias).collect()
}

fn model(executable: &Arc<RowSums>) -> EngineModel {
    EngineModel::new(ModelId::new("sums", "1"), executable.clone())
}

#[test]
fn ragged_examples_are_stacked_by_shape() {
    let executable = RowSums::new(Err("batch".into()), false, false);
    assert_eq!(sums(model(&executable), 100, u64::MAX), expected(100, 0.0));
    assert!(executable.largest.load(Ordering::SeqCst) >= 8, "nothing was stacked");
    assert!(executable.runs.load(Ordering::SeqCst) < 40);
}

#[test]
fn a_model_with_a_fixed_batch_is_run_once_per_example_or_filled_up() {
    let executable = RowSums::new(Ok(1), false, false);
    assert_eq!(sums(model(&executable), 30, u64::MAX), expected(30, 0.0));
    assert_eq!(executable.runs.load(Ordering::SeqCst), 30);
    let executable = RowSums::new(Ok(4), false, false);
    assert_eq!(sums(model(&executable), 30, u64::MAX), expected(30, 0.0));
}

#[test]
fn a_shared_input_is_given_in_every_run() {
    let executable = RowSums::new(Err("batch".into()), true, false);
    let bias = Tensor::scalar(0.5f32).unwrap();
    let shared = model(&executable).shared_input("bias", bias.clone()).unwrap();
    assert_eq!(sums(shared, 40, u64::MAX), expected(40, 0.5));
    assert!(model(&executable).shared_input("nothing", bias).is_err());
}

#[test]
fn outputs_without_a_batch_axis_are_asked_for_one_by_one() {
    let executable = RowSums::new(Err("batch".into()), false, true);
    assert_eq!(sums(model(&executable), 20, u64::MAX), expected(20, 0.0));
}

#[test]
fn batches_are_divided_until_their_plan_fits() {
    let executable = RowSums::new(Err("batch".into()), false, false);
    // Five numbers of four bytes fit four times.
    assert_eq!(sums(model(&executable), 100, 80), expected(100, 0.0));
    assert!((4..=16).contains(&executable.largest.load(Ordering::SeqCst)));
}
