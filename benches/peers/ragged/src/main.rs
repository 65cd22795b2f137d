//! Sentences of all lengths through a model: millstream's batcher beside padding to the longest of those that come together, and
//! beside a batcher that knows all of them beforehand.
//!
//!     python3 benches/peers/ragged/sentences.py > sentences.txt
//!     cargo run --release --manifest-path benches/peers/ragged/Cargo.toml MODEL.onnx TOKENIZER.json sentences.txt [ROUNDS]
//!
//! The model takes `input_ids`, `attention_mask` and `token_type_ids` of any batch and length and gives `last_hidden_state`
//! (`minilm_dyn` of `benches/make_models.py`). One thread; batches of up to 32; the ways by turns, the best round of each.

use std::{
    env,
    error::Error,
    path::Path,
    time::{Duration, Instant},
};

use millstream::{
    Model, Session, Tensor,
    runtime::{EngineModel, ModelId, Pipeline, Ragged, RunInference, StageError, collect, from_iter},
};
use tokenizers::Tokenizer;

const BATCH: usize = 32;

type Failure = Box<dyn Error + Send + Sync>;

/// What one way of batching did.
struct Round {
    time: Duration,
    /// Tokens that the model was given, padding counted.
    computed: usize,
    /// What the model said of each sentence, by its tokens.
    outputs: Vec<Vec<f32>>,
}

fn floats(tensor: &Tensor) -> Result<Vec<f32>, Failure> {
    Ok(tensor.as_slice::<f32>()?.to_vec())
}

/// Runs these batches of sentences, each padded to its longest.
fn padded(model: &Model, sentences: &[Vec<i64>], batches: &[Vec<usize>]) -> Result<Round, Failure> {
    let (mut outputs, mut computed) = (vec![Vec::new(); sentences.len()], 0);
    let start = Instant::now();
    for batch in batches {
        let longest = batch.iter().map(|i| sentences[*i].len()).max().unwrap_or(0);
        let (mut ids, mut mask) = (vec![0i64; batch.len() * longest], vec![0i64; batch.len() * longest]);
        for (row, i) in batch.iter().enumerate() {
            ids[row * longest..][..sentences[*i].len()].copy_from_slice(&sentences[*i]);
            mask[row * longest..][..sentences[*i].len()].fill(1);
        }
        let dims = [batch.len(), longest];
        let types = Tensor::from_slice(&dims, &vec![0i64; ids.len()])?;
        let given = [("input_ids", Tensor::from_slice(&dims, &ids)?), ("attention_mask", Tensor::from_slice(&dims, &mask)?), ("token_type_ids", types)];
        let result = model.run(&given)?;
        let hidden = floats(result.first()?)?;
        let width = hidden.len() / (batch.len() * longest);
        for (row, i) in batch.iter().enumerate() {
            outputs[*i] = hidden[row * longest * width..][..sentences[*i].len() * width].to_vec();
        }
        computed += batch.len() * longest;
    }
    Ok(Round { time: start.elapsed(), computed, outputs })
}

/// Sends the sentences through a pipeline, in the order of the text.
fn pipeline(model: &Model, sentences: &[Vec<i64>]) -> Result<Round, Failure> {
    let ragged = Ragged::new().pad("input_ids", 0, 0.0).pad("token_type_ids", 0, 0.0).mask("attention_mask").cut("last_hidden_state", 0);
    let handler = EngineModel::new(ModelId::new("sentences", "1"), model.executable().clone()).ragged(ragged)?;
    let example = |(_, ids): &(usize, Vec<i64>)| -> Result<Vec<Tensor>, StageError> {
        Ok(vec![Tensor::from_slice(&[ids.len()], ids)?, Tensor::from_slice(&[ids.len()], &vec![0i64; ids.len()])?])
    };
    let run = RunInference::new(handler).preprocess(example).batch(1..=BATCH);
    let (sink, results) = collect();
    let records: Vec<(usize, Vec<i64>)> = sentences.iter().cloned().enumerate().collect();
    let start = Instant::now();
    let report = Pipeline::from(from_iter(records)).infer("model", run).map("row", |p| (p.example.0, p.inference)).sink(sink).run()?;
    let time = start.elapsed();
    let mut outputs = vec![Vec::new(); sentences.len()];
    for (i, inference) in results.take() {
        outputs[i] = floats(&inference[0])?;
    }
    let stage = report.snapshot.stages.iter().find(|stage| stage.name == "model").ok_or("a stage called model")?;
    Ok(Round { time, computed: stage.padded_tokens as usize, outputs })
}

/// The greatest difference between two ways, over the greatest number that either gives.
fn error(found: &[Vec<f32>], expected: &[Vec<f32>]) -> f32 {
    let greatest = expected.iter().flatten().fold(0f32, |most, x| most.max(x.abs()));
    let pairs = found.iter().zip(expected).flat_map(|(found, expected)| {
        assert_eq!(found.len(), expected.len(), "an output of another length");
        found.iter().zip(expected)
    });
    pairs.fold(0f32, |most, (a, b)| if (a - b).is_nan() { f32::INFINITY } else { most.max((a - b).abs()) }) / greatest
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [model, tokenizer, sentences, rest @ ..] = &arguments[..] else { return Err("MODEL.onnx TOKENIZER.json SENTENCES [ROUNDS]".into()) };
    let rounds: usize = rest.first().map_or(Ok(3), |rounds| rounds.parse())?;
    let mut tokenizer = Tokenizer::from_file(tokenizer)?;
    tokenizer.with_padding(None).with_truncation(None)?;
    let text = std::fs::read_to_string(Path::new(sentences))?;
    let encoded = tokenizer.encode_batch(text.lines().collect(), true)?;
    let sentences: Vec<Vec<i64>> = encoded.iter().map(|encoding| encoding.get_ids().iter().map(|id| i64::from(*id)).collect()).collect();
    let model = Session::builder().threads(1).build().open(model)?;

    let real: usize = sentences.iter().map(Vec::len).sum();
    let (shortest, longest) = sentences.iter().fold((usize::MAX, 0), |(least, most), ids| (least.min(ids.len()), most.max(ids.len())));
    println!("{} sentences of {shortest} to {longest} tokens, {real} in all", sentences.len());

    let order: Vec<usize> = (0..sentences.len()).collect();
    let mut by_length = order.clone();
    by_length.sort_by_key(|i| sentences[*i].len());
    let batches = |order: &[usize], most: usize| -> Vec<Vec<usize>> { order.chunks(most).map(<[usize]>::to_vec).collect() };
    let (alone, together, sorted) = (batches(&order, 1), batches(&order, BATCH), batches(&by_length, BATCH));
    type Way<'w> = (&'static str, Box<dyn Fn() -> Result<Round, Failure> + 'w>);
    let ways: [Way<'_>; 4] = [
        ("one by one", Box::new(|| padded(&model, &sentences, &alone))),
        ("padded to the longest", Box::new(|| padded(&model, &sentences, &together))),
        ("millstream's batcher", Box::new(|| pipeline(&model, &sentences))),
        ("sorted beforehand", Box::new(|| padded(&model, &sentences, &sorted))),
    ];
    let mut best: Vec<Option<Round>> = ways.iter().map(|_| None).collect();
    for _ in 0..rounds {
        for ((_, way), best) in ways.iter().zip(&mut best) {
            let round = way()?;
            if best.as_ref().is_none_or(|best| round.time < best.time) {
                *best = Some(round);
            }
        }
    }
    let best: Vec<Round> = best.into_iter().flatten().collect();
    println!("{:24} {:>12} {:>12} {:>10} {:>8}", "", "sentences/s", "tokens/s", "computed", "error");
    for ((name, _), round) in ways.iter().zip(&best) {
        let seconds = round.time.as_secs_f64();
        let error = error(&round.outputs, &best[0].outputs);
        let part = round.computed as f64 / real as f64;
        println!("{name:24} {:12.1} {:12.0} {part:10.3} {error:8.1e}", sentences.len() as f64 / seconds, real as f64 / seconds);
    }
    Ok(())
}
