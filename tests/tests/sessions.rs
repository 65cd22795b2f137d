//! What a session promises of its runs: the same bits from every thread and beside every neighbour, memory as planned, and the
//! wishes of a request. All on the embedded model.

use millstream::{
    DType, Error, Model, Session, Tensor, Value,
    cpu::StdClock,
    kernel::engine::{Cancel, Clock, Profiler, Request, RunError, StepRecord, Workspace},
};
use millstream_tests::language::{bits, fixture, floats, open, windows};

fn model(threads: usize) -> Model {
    open(&Session::builder().threads(threads).build()).expect("the model loads")
}

/// `n` texts, repeated if there are not so many.
fn batch(n: usize) -> Tensor {
    let (_, samples) = fixture();
    windows(samples.iter().cycle().take(n).map(|s| s.text.as_str()))
}

fn run(model: &Model, input: &Tensor) -> Vec<u32> {
    bits(model.run(&[("bytes", input.clone())]).expect("it runs").first().expect("an output"))
}

#[test]
fn eight_threads_share_one_model() {
    let model = model(2);
    let inputs: Vec<Tensor> = (1..4).map(batch).collect();
    let wanted: Vec<Vec<u32>> = inputs.iter().map(|x| run(&model, x)).collect();
    std::thread::scope(|scope| {
        for first in 0..8 {
            let (model, inputs, wanted) = (&model, &inputs, &wanted);
            scope.spawn(move || {
                for i in (first..first + 3).map(|i| i % inputs.len()) {
                    assert_eq!(run(model, &inputs[i]), wanted[i], "thread {first}, input {i}");
                }
            });
        }
    });
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let input = batch(3);
    let wanted = run(&model(1), &input);
    for threads in [2, 4] {
        assert_eq!(run(&model(threads), &input), wanted, "{threads} threads");
    }
}

#[test]
fn neighbours_in_the_batch_change_no_bit() {
    let model = model(1);
    let (labels, samples) = fixture();
    let seven = run(&model, &batch(7));
    for (sample, row) in samples.iter().zip(seven.chunks_exact(labels.len())) {
        assert_eq!(run(&model, &windows([sample.text.as_str()])), row, "{}", sample.label);
    }
}

#[test]
fn the_plan_tells_the_bytes_of_a_run() {
    for threads in [1, 2] {
        let model = model(threads);
        for n in [1, 3] {
            let input = batch(n);
            let plan = model.plan_bytes(&[*input.shape()]).expect("shapes tell all");
            let mut workspace = Workspace::new();
            let outputs = model.executable().run(&mut workspace, Request::new(&[input.clone().into()])).expect("it runs");
            assert_eq!(plan.arena, workspace.arena_bytes(), "{threads} threads, batch {n}");
            let made: usize = outputs.iter().flatten().map(|v| v.as_tensor().expect("a tensor").bytes_len()).sum();
            assert_eq!(plan.io, input.bytes_len() + made, "{threads} threads, batch {n}");
        }
    }
}

#[test]
fn a_run_past_the_limit_fails_before_it_begins() {
    let input = batch(2);
    let needed = model(1).plan_bytes(&[*input.shape()]).expect("shapes tell all").arena;
    let limited = |bytes: usize| open(&Session::builder().threads(1).memory_limit(bytes).build()).expect("it loads");
    assert!(limited(needed).run(&[("bytes", input.clone())]).is_ok());
    let error = limited(needed - 1).run(&[("bytes", input)]).expect_err("one byte is missing");
    assert!(matches!(error, Error::Run(RunError::MemoryLimit { needed: n, limit }) if n == needed && limit == needed - 1), "{error}");
}

#[test]
fn a_cancelled_token_stops_a_run() {
    let model = model(1);
    let cancel = Cancel::new();
    let inputs = [Value::from(batch(1))];
    let run = |cancel: &Cancel| {
        let request = Request { cancel: Some(cancel), ..Request::new(&inputs) };
        model.with_workspace(|workspace| model.executable().run(workspace, request))
    };
    assert!(run(&cancel).is_ok());
    cancel.cancel();
    assert_eq!(run(&cancel), Err(RunError::Cancelled));
}

/// The indices and operators of the steps it saw.
struct Seen {
    clock: StdClock,
    steps: Vec<(usize, String)>,
}

impl Profiler for Seen {
    fn clock(&self) -> &dyn Clock {
        &self.clock
    }

    fn step(&mut self, record: StepRecord<'_>) {
        self.steps.push((record.index, record.op.to_owned()));
    }
}

#[test]
fn a_profiler_sees_every_step() {
    let model = model(1);
    let input = batch(1);
    let planned = model.executable().describe(&[*input.shape()]).expect("shapes tell all");
    let mut seen = Seen { clock: StdClock::default(), steps: vec![] };
    let inputs = [Value::from(input)];
    let request = Request { profiler: Some(&mut seen), ..Request::new(&inputs) };
    model.with_workspace(|workspace| model.executable().run(workspace, request)).expect("it runs");
    assert_eq!(seen.steps.len(), planned.len());
    assert!(seen.steps.iter().enumerate().all(|(i, (index, op))| i == *index && planned[i].contains(op.as_str())));
}

#[test]
fn taps_give_intermediate_values() {
    let session = Session::builder().threads(1).tap("relu2").tap("summary").build();
    let tapped = open(&session).expect("both values are in the model");
    let input = batch(2);
    let outputs = tapped.run(&[("bytes", input.clone())]).expect("it runs");
    assert_eq!(outputs.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["probabilities", "relu2", "summary"]);
    let (relu, summary) = (outputs.tensor("relu2").expect("a tensor"), outputs.tensor("summary").expect("a tensor"));
    // The summary is the greatest and the mean element of each channel.
    let (channels, positions) = (relu.shape()[1], relu.shape()[2]);
    for (row, planes) in floats(summary).chunks_exact(2 * channels).zip(floats(relu).chunks_exact(channels * positions)) {
        for (c, plane) in planes.chunks_exact(positions).enumerate() {
            let greatest = plane.iter().fold(0.0f32, |m, &x| m.max(x));
            let mean = plane.iter().map(|&x| f64::from(x)).sum::<f64>() / positions as f64;
            assert_eq!(row[c], greatest);
            assert!((f64::from(row[channels + c]) - mean).abs() < 1e-4);
        }
    }
    let alone = floats(model(1).run(&[("bytes", input)]).expect("it runs").first().expect("an output"));
    let worst = floats(outputs.first().expect("an output")).iter().zip(&alone).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-5, "a tap moved the result by {worst}");
    let unknown = open(&Session::builder().tap("nothing").build());
    assert!(matches!(unknown, Err(Error::Compile(_))));
}

#[test]
fn outputs_are_written_into_the_caller_s_buffers() {
    let model = model(1);
    let input = batch(2);
    let wanted = model.run(&[("bytes", input.clone())]).expect("it runs").first().expect("an output").clone();
    let inputs = [Value::from(input)];
    let run_into = |buffer: &mut Tensor| {
        let mut outputs = [Some(buffer.view_mut().expect("nobody shares it"))];
        let request = Request { inputs: &inputs, outputs: &mut outputs, cancel: None, profiler: None };
        model.with_workspace(|workspace| model.executable().run(workspace, request))
    };
    let mut buffer = Tensor::zeros(DType::F32, wanted.shape().dims()).expect("memory");
    assert_eq!(run_into(&mut buffer), Ok(vec![]), "nothing comes back beside what the caller has");
    assert_eq!(bits(&buffer), bits(&wanted));
    let mut other = Tensor::zeros(DType::F32, &[wanted.shape().elements()]).expect("memory");
    assert!(matches!(run_into(&mut other), Err(RunError::OutputBuffer { index: 0, .. })));
}

#[test]
fn a_workspace_keeps_few_plans() {
    let model = model(1);
    let mut workspace = Workspace::new();
    workspace.keep_plans(2);
    for n in [1, 2, 3, 2, 1] {
        model.executable().run(&mut workspace, Request::new(&[batch(n).into()])).expect("it runs");
        assert!(workspace.plans() <= 2);
    }
    assert_eq!(workspace.plans(), 2);
}
