//! What the optimiser chooses against what it could have chosen, by turns, on one thread. A choice holds if no alternative is faster by more than a
//! tenth; where one does not, the program says so and fails.
//!
//! `cargo bench -p millstream-benches --bench choices` times Winograd's algorithm against the product of windows. With
//! `MILLSTREAM_MODELS=FOLDER` (of models such as `make_models.py` makes) it goes on to run every model without each rule in turn.
#![allow(missing_docs, clippy::print_stdout)]

use std::{env, error::Error, hint::black_box, path::Path, process::ExitCode, time::Instant};

use millstream::{
    Model, Session, Value,
    cpu::Level,
    kernel::compile::{Options, rules},
};
use millstream_benches::{
    ints, noise, sketch,
    stored::{folders, open},
};
use millstream_gemm::{Activation, Epilogue, Gemm, Lhs, PackedB, PackedWinograd, Rhs, Window, Winograd};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How much slower than an alternative a choice may be.
const TOLERANCE: f64 = 1.1;
/// Turns of each.
const TURNS: usize = 15;
/// How long a turn takes at least, in seconds.
const TURN: f64 = 0.01;

/// Filters above which the optimiser refuses Winograd's algorithm for the memory of its weights.
const MANY_FILTERS: usize = 1 << 17;

/// Channels, outputs, height and width of convolutions of 3 × 3 windows, stride 1: of ResNet-50, PP-OCRv4 and others.
const CONVOLUTIONS: [(usize, usize, usize); 12] = [
    (64, 64, 56),
    (128, 128, 28),
    (256, 256, 14),
    (512, 512, 7),
    (96, 24, 160),
    (96, 24, 80),
    (96, 24, 40),
    (96, 24, 20),
    (16, 16, 112),
    (32, 32, 56),
    (64, 128, 112),
    (256, 512, 28),
];

/// The medians of a run of each, in milliseconds, by turns.
fn by_turns(runs: &mut [&mut dyn FnMut()]) -> Vec<f64> {
    let mut times = vec![Vec::new(); runs.len()];
    for _ in 0..=TURNS {
        for (run, times) in runs.iter_mut().zip(&mut times) {
            let (start, mut count) = (Instant::now(), 0);
            while count == 0 || start.elapsed().as_secs_f64() < TURN {
                run();
                count += 1;
            }
            times.push(start.elapsed().as_secs_f64() * 1e3 / f64::from(count));
        }
    }
    // The first turn warms up.
    let median = |times: Vec<f64>| {
        let mut times = times[1..].to_vec();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    times.into_iter().map(median).collect()
}

/// Prints a choice beside its alternative; false if it does not hold.
fn verdict(what: &str, chosen: f64, alternative: f64) -> bool {
    let holds = chosen <= TOLERANCE * alternative;
    println!("{what:56} {chosen:10.3} {alternative:12.3} {:8.2}{}", chosen / alternative, if holds { "" } else { "   WRONG" });
    holds
}

/// Winograd's algorithm or the product of windows.
fn convolution((channels, outputs, size): (usize, usize, usize)) -> Result<bool> {
    let level = Level::detect();
    let values = |n: usize| (0..n).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect::<Vec<_>>();
    let (image, weights) = (values(size * size * channels), values(outputs * channels * 9));
    let window = Window {
        data: &image,
        batch: 1,
        size: [size; 2],
        channels,
        pixel_stride: channels,
        kernel: [3; 2],
        stride: [1; 2],
        dilation: [1; 2],
        pad: [1; 2],
        out: [size; 2],
    };
    let (gemm, packed) =
        (Gemm::new(level, size * size, 9 * channels, outputs), PackedB::new(level, Rhs::convolution(&weights, channels, 9), 9 * channels, outputs)?);
    let (job, transformed) = (Winograd::new(level, 1, [size; 2], channels, outputs), PackedWinograd::new(level, &weights, channels, outputs)?);
    let (mut direct, mut winograd) = (vec![0.0; size * size * outputs], vec![0.0; size * size * outputs]);
    let (mut scratch, mut more) = (vec![0.0; gemm.scratch_len()], vec![0.0; job.scratch_len()]);
    let mut multiply = || {
        gemm.run(&Lhs::Window(window), packed.view(), &mut direct, outputs, &Epilogue::default(), &mut scratch).expect("lengths agree");
        black_box(&mut direct);
    };
    let mut transform = || {
        let tiles = job.tiles(&mut winograd, outputs).expect("lengths agree");
        for grain in 0..tiles.count() {
            job.run_grain(grain, &window, &transformed, None, None, Activation::None, &tiles, &mut more).expect("lengths agree");
        }
        black_box(&mut winograd);
    };
    let times = by_turns(&mut [&mut multiply, &mut transform]);
    // What a model would run.
    let (model, inputs) = sketch(|s| {
        let x = s.input(noise(&[1, channels, size, size]));
        let w = s.constant(noise(&[outputs, channels, 3, 3]));
        s.op("Conv", &[x, w], &[("pads", ints(&[1; 4]))])
    });
    let chosen = steps(&model, &inputs)?.contains("winograd");
    let name = format!("{channels} → {outputs}, {size} × {size}: {}", if chosen { "Winograd" } else { "windows" });
    let [chosen_ms, other_ms] = [times[usize::from(chosen)], times[usize::from(!chosen)]];
    if !chosen && channels * outputs > MANY_FILTERS {
        println!("{name:56} {chosen_ms:10.3} {other_ms:12.3}   refused for memory");
        return Ok(true);
    }
    Ok(verdict(&name, chosen_ms, other_ms))
}

/// The steps of a run.
fn steps(model: &Model, inputs: &[Value]) -> Result<String> {
    let shapes = inputs.iter().map(|value| match value {
        Value::Tensor(tensor) => Ok(*tensor.shape()),
        _ => Err("an input is no tensor"),
    });
    Ok(model.executable().describe(&shapes.collect::<std::result::Result<Vec<_>, _>>()?)?.join("\n"))
}

/// Every rule that changes a model's steps, against the model without it.
fn whole(folder: &Path) -> Result<bool> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let (all, inputs) = open(&Session::builder().threads(1).build(), folder)?;
    let plan = steps(&all, &inputs)?;
    let mut holds = true;
    for rule in rules() {
        let (without, _) = open(&Session::builder().threads(1).optimizer(Options::without(&[rule])).build(), folder)?;
        if steps(&without, &inputs)? == plan {
            continue;
        }
        let run = |model: &Model| {
            black_box(model.run_values(&inputs)).expect("it ran before");
        };
        let times = by_turns(&mut [&mut || run(&all), &mut || run(&without)]);
        holds &= verdict(&format!("{name}: {rule}"), times[0], times[1]);
    }
    Ok(holds)
}

fn all() -> Result<bool> {
    println!("{:56} {:>10} {:>12} {:>8}", "on one thread, in ms", "chosen", "alternative", "ratio");
    let mut holds = true;
    for dims in CONVOLUTIONS {
        holds &= convolution(dims)?;
    }
    for folder in folders().unwrap_or_default() {
        holds &= whole(&folder)?;
    }
    Ok(holds)
}

fn main() -> ExitCode {
    // Under `cargo test --benches` nothing is timed.
    if !env::args().any(|a| a == "--bench") {
        return ExitCode::SUCCESS;
    }
    match all() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}
