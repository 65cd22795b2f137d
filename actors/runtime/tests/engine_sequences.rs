//! Models of the engine whose state is an input and an output, over executables that are written by hand.

mod oracle;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use millstream_engine::{Executable, PlanBytes, Port, Request, RunError, Signature, Workspace};
use millstream_runtime::{Carried, EngineModel, EngineSequence, Key, ModelId, Pipeline, RunInference, SequenceModel, SequenceOptions, collect, from_iter};
use millstream_tensor::{DType, Shape, Tensor, Value};
use oracle::Ends;

type Dim = Result<usize, String>;

fn port(name: &str, dims: Vec<Dim>) -> Port {
    Port { name: name.into(), dtype: Some(DType::F32), dims: Some(dims) }
}

fn open(name: &str) -> Dim {
    Err(name.into())
}

/// Two parts of a state: cells in the middle of their tensor, `[2, batch, 3]`, and a cache that grows, `[batch, past, 1]`. An
/// example is a number; it fades into the cells, and is put behind the cache. Says what the cells add up to, and the cache.
struct Cells {
    signature: Signature,
    runs: AtomicUsize,
    largest: AtomicUsize,
}

impl Cells {
    fn new(batch: Dim) -> Arc<Self> {
        let inputs = vec![
            port("cells", vec![Ok(2), batch.clone(), Ok(3)]),
            port("x", vec![batch.clone(), Ok(1)]),
            port("rate", vec![]),
            port("past", vec![batch.clone(), open("past"), Ok(1)]),
        ];
        let outputs = vec![
            port("present", vec![batch.clone(), open("present"), Ok(1)]),
            port("sums", vec![batch.clone(), Ok(2)]),
            port("cellsN", vec![Ok(2), batch, Ok(3)]),
        ];
        Arc::new(Cells { signature: Signature { inputs, outputs }, runs: AtomicUsize::new(0), largest: AtomicUsize::new(0) })
    }
}

impl Executable for Cells {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn run(&self, _: &mut Workspace, request: Request<'_, '_>) -> Result<Vec<Option<Value>>, RunError> {
        let tensors: Vec<&Tensor> = request.inputs.iter().map(Value::as_tensor).collect::<Result<_, _>>()?;
        let [cells, x, rate, past] = tensors[..] else { panic!("{} inputs", tensors.len()) };
        let [batch, length, 1] = *past.shape().dims() else { panic!("{}", past.shape()) };
        assert_eq!((cells.shape().dims(), x.shape().dims(), rate.shape().dims()), (&[2, batch, 3][..], &[batch, 1][..], &[][..]));
        self.runs.fetch_add(1, Ordering::SeqCst);
        self.largest.fetch_max(batch, Ordering::SeqCst);
        let (cells, x, rate, past) = (cells.as_slice::<f32>()?, x.as_slice::<f32>()?, rate.as_slice::<f32>()?[0], past.as_slice::<f32>()?);
        let mut next = vec![0.0; 2 * batch * 3];
        let (mut present, mut sums) = (Vec::<f32>::new(), Vec::<f32>::new());
        for row in 0..batch {
            for part in 0..2 {
                for cell in 0..3 {
                    let at = (part * batch + row) * 3 + cell;
                    next[at] = cells[at] * rate + x[row] + (part * 3 + cell) as f32;
                }
            }
            present.extend_from_slice(&past[row * length..(row + 1) * length]);
            present.push(x[row]);
            sums.push((0..6).map(|at| next[(at / 3 * batch + row) * 3 + at % 3]).sum());
            sums.push(present[row * (length + 1)..].iter().sum());
        }
        let tensors =
            [Tensor::from_slice(&[batch, length + 1, 1], &present)?, Tensor::from_slice(&[batch, 2], &sums)?, Tensor::from_slice(&[2, batch, 3], &next)?];
        Ok(tensors.into_iter().map(|tensor| Some(Value::Tensor(tensor))).collect())
    }

    fn plan_bytes(&self, inputs: &[Shape]) -> Result<PlanBytes, RunError> {
        assert_eq!(inputs[0].dims()[1], inputs[1].dims()[0], "rows along their axes");
        Ok(PlanBytes::new(0, inputs[0].elements() * 4, 0, 0))
    }

    fn describe(&self, _: &[Shape]) -> Result<Vec<String>, RunError> {
        Ok(Vec::new())
    }
}

fn model(cells: &Arc<Cells>) -> EngineSequence {
    let model = EngineModel::new(ModelId::new("cells", "1"), cells.clone());
    let model = model.shared_input("rate", Tensor::scalar(0.5f32).unwrap()).unwrap();
    let cells = match cells.signature.inputs[1].dims.as_ref().unwrap()[0] {
        Ok(_) => Carried::new("cells", "cellsN").batch_axis(1),
        Err(_) => Carried::new("cells", "cellsN"),
    };
    EngineSequence::new(model, [Carried::new("past", "present"), cells]).unwrap()
}

/// What an executable says of each number of a sequence, asked for one after the other.
fn alone(numbers: &[f32]) -> Vec<Vec<f32>> {
    let cells = Cells::new(open("batch"));
    let (mut state, mut past, mut said) = (Tensor::zeros(DType::F32, &[2, 1, 3]).unwrap(), Tensor::zeros(DType::F32, &[1, 0, 1]).unwrap(), Vec::new());
    for number in numbers {
        let inputs = [state, Tensor::from_slice(&[1, 1], &[*number]).unwrap(), Tensor::scalar(0.5f32).unwrap(), past].map(Value::Tensor);
        let mut outputs = cells.run(&mut Workspace::new(), Request::new(&inputs)).unwrap().into_iter().map(|output| output.unwrap().into_tensor().unwrap());
        past = outputs.next().unwrap();
        said.push(outputs.next().unwrap().as_slice::<f32>().unwrap().to_vec());
        state = outputs.next().unwrap();
    }
    said
}

fn check(cells: &Arc<Cells>, batch: usize, memory: u64) {
    let (ends, (sink, results), keys) = (Ends::new(), collect(), 7);
    let numbers = || (0..200u64).map(move |number| (number * number % keys, number as f32));
    let run = RunInference::sequences(model(cells), SequenceOptions::new())
        .preprocess(|item: &(u64, f32)| Ok::<_, millstream_runtime::StageError>(vec![Tensor::from_slice(&[1], &[item.1])?]))
        .batch(1..=batch)
        .memory(memory)
        .hold_until(64);
    let report = Pipeline::from(from_iter(numbers()).keyed_by(|item| Key(item.0)))
        .infer("cells", run)
        .map("out", |p| (p.example.0, p.inference.iter().map(|output| output.as_slice::<f32>().unwrap().to_vec()).collect::<Vec<_>>()))
        .sink(sink)
        .observe(ends.clone())
        .run()
        .unwrap();
    ends.check(&report);
    assert_eq!(report.counts.ok, 200, "{report}");
    let mut got: BTreeMap<u64, Vec<Vec<f32>>> = BTreeMap::new();
    for (key, mut outputs) in results.take() {
        assert_eq!(outputs.len(), 1, "the state is no output");
        got.entry(key).or_default().extend(outputs.pop());
    }
    let mut sequences: BTreeMap<u64, Vec<f32>> = BTreeMap::new();
    numbers().for_each(|(key, number)| sequences.entry(key).or_default().push(number));
    assert_eq!(got, sequences.into_iter().map(|(key, numbers)| (key, alone(&numbers))).collect());
}

#[test]
fn states_go_in_and_out_along_their_axes() {
    let cells = Cells::new(open("batch"));
    check(&cells, 8, u64::MAX);
    assert!(cells.largest.load(Ordering::SeqCst) >= 2, "nothing was batched");
    let fixed = Cells::new(Ok(3));
    check(&fixed, 8, u64::MAX);
    assert_eq!(fixed.largest.load(Ordering::SeqCst), 3);
    // A row's cells are 24 bytes.
    let narrow = Cells::new(open("batch"));
    check(&narrow, 8, 48);
    assert_eq!(narrow.largest.load(Ordering::SeqCst), 2, "a batch that needs more is divided");
}

#[test]
fn states_become_bytes_and_come_back() {
    let model = model(&Cells::new(open("batch")));
    let codec = model.codec().unwrap();
    let first = model.begin(Key(1)).unwrap();
    assert_eq!(first.iter().map(|part| part.shape().dims().to_vec()).collect::<Vec<_>>(), [vec![2, 3], vec![0, 1]]);
    let grown = vec![Tensor::from_slice(&[2, 3], &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap(), Tensor::from_slice(&[2, 1], &[7.0f32, 8.0]).unwrap()];
    for state in [first, grown] {
        let bytes = codec.encode(&state);
        assert_eq!(codec.decode(&bytes), Some(state));
        assert!((0..bytes.len()).all(|end| codec.decode(&bytes[..end]).is_none()), "cut off");
    }
}

#[test]
fn a_state_that_the_model_does_not_have_is_refused() {
    let cells = Cells::new(open("batch"));
    let plain = || EngineModel::new(ModelId::new("cells", "1"), cells.clone());
    let refused = |state: Vec<Carried>| EngineSequence::new(plain(), state).map(drop).unwrap_err().to_string();
    assert!(refused(vec![]).contains("needs an input and an output"));
    assert!(refused(vec![Carried::new("nothing", "present")]).contains("nothing"));
    assert!(refused(vec![Carried::new("past", "nothing")]).contains("has no output `nothing`"));
    assert!(refused(vec![Carried::new("past", "present"), Carried::new("past", "cellsN")]).contains("is given twice"));
    assert!(refused(vec![Carried::new("past", "present").batch_axis(9)]).contains("has no axis 9"));
}
