//! What a pipeline costs around a model: processor time of a model that does nothing, and how much of the engine's throughput is
//! left in a pipeline, for the embedded model and for each model of `MILLSTREAM_MODELS` whose batch is open.
//!
//! `[MILLSTREAM_MODELS=FOLDER] cargo bench -p millstream-benches --bench inference_cost`
//!
//! Not by criterion, which measures time and not processor time. Needs Linux's `/proc`.
#![allow(missing_docs, clippy::print_stdout)]

use std::{
    error::Error,
    fs,
    hint::black_box,
    time::{Duration, Instant},
};

use millstream::{Model, Session, Tensor, Value};
use millstream_benches::stored::{folders, open};
use millstream_runtime::{EngineModel, ModelId, Pipeline, RunInference, StageError, for_each, from_iter, handler};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Records through a model that does nothing.
const RECORDS: u64 = 2_000_000;
const ROUNDS: usize = 5;
const EMBEDDED: &[u8] = include_bytes!("../../examples/language-model/language.onnx");

/// Time and processor time of a call.
#[derive(Clone, Copy)]
struct Spent {
    time: Duration,
    processor: f64,
}

/// Seconds that this process's threads have worked, those that have ended too.
fn processor() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |field: usize| fields.get(field).and_then(|ticks| ticks.parse::<f64>().ok()).ok_or("no such field");
    // Linux tells these in hundredths of a second, whatever the kernel's own clock.
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

fn spent(run: impl FnOnce() -> Result<()>) -> Result<Spent> {
    let (start, before) = (Instant::now(), processor()?);
    run()?;
    Ok(Spent { time: start.elapsed(), processor: processor()? - before })
}

/// The round with the least processor time, of each way, by turns.
fn by_turns<const N: usize>(ways: [&dyn Fn() -> Result<()>; N]) -> Result<[Spent; N]> {
    let mut best = [Spent { time: Duration::MAX, processor: f64::INFINITY }; N];
    for _ in 0..ROUNDS {
        for (way, best) in ways.iter().zip(&mut best) {
            let round = spent(way)?;
            best.time = best.time.min(round.time);
            best.processor = best.processor.min(round.processor);
        }
    }
    Ok(best)
}

fn no_op(batch: usize) -> Result<()> {
    let model = handler("no-op", |batch: &[&u64]| Ok::<_, StageError>(vec![(); batch.len()]));
    let run = RunInference::new(model).batch(batch..=batch);
    let sink = for_each(|x| {
        black_box(&x);
    });
    Pipeline::from(from_iter(0..RECORDS)).infer("no-op", run).sink(sink).run()?;
    Ok(())
}

fn without_model() -> Result<()> {
    let sink = for_each(|x: u64| {
        black_box(&x);
    });
    Pipeline::from(from_iter(0..RECORDS)).sink(sink).run()?;
    Ok(())
}

/// A model and one example of its inputs, without the batch axis; none where there is no open batch axis.
fn example(model: &Model, inputs: &[Value]) -> Result<Option<Vec<Tensor>>> {
    let mut rows = Vec::new();
    for (port, input) in model.signature().inputs.iter().zip(inputs) {
        let free = port.dims.as_deref().and_then(<[_]>::first).is_some_and(std::result::Result::is_err);
        let tensor = input.as_tensor()?;
        let Some((batch, row)) = tensor.shape().dims().split_first().filter(|_| free) else { return Ok(None) };
        if *batch == 0 {
            return Ok(None);
        }
        let bytes = row.iter().product::<usize>() * tensor.dtype().size();
        rows.push(Tensor::from_bytes(tensor.dtype(), row, &tensor.view().bytes()?[..bytes])?);
    }
    Ok((!rows.is_empty()).then_some(rows))
}

fn stacked(example: &[Tensor], batch: usize) -> Result<Vec<Value>> {
    let stack = |tensor: &Tensor| -> Result<Value> {
        let dims = [&[batch], tensor.shape().dims()].concat();
        Ok(Value::Tensor(Tensor::from_bytes(tensor.dtype(), &dims, &tensor.view().bytes()?.repeat(batch))?))
    };
    example.iter().map(stack).collect()
}

/// A model alone and in a pipeline, on one thread.
fn compare(name: &str, model: &Model, example: &[Tensor]) -> Result<()> {
    for batch in [1, 8, 32] {
        let inputs = stacked(example, batch)?;
        model.run_values(&inputs)?;
        let start = Instant::now();
        model.run_values(&inputs)?;
        // About a second a round.
        let runs = (1.0 / start.elapsed().as_secs_f64().max(1e-6)).clamp(4.0, 50_000.0) as usize;
        let records = runs * batch;
        let bare = || -> Result<()> {
            for _ in 0..runs {
                black_box(model.run_values(&inputs)?);
            }
            Ok(())
        };
        let pipeline = || -> Result<()> {
            let handler = EngineModel::new(ModelId::new(name, "1"), model.executable().clone());
            let example = example.to_vec();
            let run = RunInference::new(handler).batch(batch..=batch);
            let source = from_iter((0..records).map(move |_| example.clone()));
            let report = Pipeline::from(source)
                .infer("model", run)
                .sink(for_each(|x| {
                    black_box(&x);
                }))
                .run()?;
            if report.counts.ok == records as u64 { Ok(()) } else { Err(format!("{report}").into()) }
        };
        let [bare, pipeline] = by_turns([&bare, &pipeline])?;
        let rate = |spent: Spent| records as f64 / spent.time.as_secs_f64();
        println!(
            "{name:14} batch {batch:3}: engine {:9.0}/s, pipeline {:9.0}/s ({:5.1} %), {:+7.2} us of processor time a record",
            rate(bare),
            rate(pipeline),
            100.0 * rate(pipeline) / rate(bare),
            (pipeline.processor - bare.processor) / records as f64 * 1e6,
        );
    }
    Ok(())
}

fn main() -> Result<()> {
    let [none, one, many] = by_turns([&without_model, &|| no_op(1), &|| no_op(64)])?;
    let each = |spent: Spent| spent.processor / RECORDS as f64 * 1e6;
    println!("a model that does nothing, us of processor time an element, source and sink included, and what they take alone subtracted:");
    for (batch, spent) in [(1, one), (64, many)] {
        println!("  batch {batch:2}: {:.3} and {:.3}", each(spent), each(spent) - each(none));
    }
    let session = Session::builder().threads(1).build();
    let model = session.from_bytes(EMBEDDED.to_vec())?;
    let bytes: Vec<i32> = EMBEDDED.iter().cycle().take(2048).map(|byte| i32::from(*byte)).collect();
    compare("embedded", &model, &[Tensor::from_slice(&[2048], &bytes)?])?;
    for folder in folders().unwrap_or_default() {
        let (model, inputs) = open(&session, &folder)?;
        if let Some(example) = example(&model, &inputs)? {
            compare(&folder.file_name().unwrap_or_default().to_string_lossy(), &model, &example)?;
        }
    }
    Ok(())
}
