//! Names the language of a few snippets with the embedded model, without std, C library or loader: the kernel crates, a bump
//! allocator and two system calls. Fails unless every probability is what ONNX Runtime computed.
//!
//! `tests/run.py --only stdless` builds it against a sysroot without std and runs it.
#![no_std]
#![no_main]

extern crate alloc;

mod memory;
mod system;

use alloc::{sync::Arc, vec};
use core::fmt::{self, Write};
use millstream_compile::{CompiledModel, Options, Template, simplify};
use millstream_engine::{Executable, Request, SerialWorkers, Workspace};
use millstream_onnx::LoadOptions;
use millstream_simd::Level;
use millstream_tensor::{Tensor, Value};
use system::Console;

/// A snippet and what ONNX Runtime says of it.
struct Sample {
    text: &'static str,
    probabilities: &'static [f32],
}

include!(concat!(env!("OUT_DIR"), "/samples.rs"));

static MODEL: &[u8] = include_bytes!("../../language-model/language.onnx");

/// How many bytes of a file the model reads, and the value that stands after a shorter file's end.
const WINDOW: usize = 2048;
const PADDING: i32 = 256;

/// Both sides compute in f32, in another order.
const TOLERANCE: f32 = 1e-4;

/// What went wrong, for the console.
enum Failure {
    /// A step of the library failed.
    Step(&'static str, alloc::string::String),
    /// A probability is not the stored one.
    Wrong { sample: usize, got: f32, stored: f32 },
    /// The console cannot be written.
    Console,
}

impl From<fmt::Error> for Failure {
    fn from(_: fmt::Error) -> Failure {
        Failure::Console
    }
}

/// The program; called by `system::_start`. Gives the exit status.
fn program() -> i32 {
    let failure = match classify(Level::detect()).and_then(|()| classify(Level::scalar())) {
        Ok(()) => return 0,
        Err(failure) => failure,
    };
    // Where even this cannot be written, the exit status still tells.
    let _ = match failure {
        Failure::Step(step, error) => writeln!(Console, "{step}: {error}"),
        Failure::Wrong { sample, got, stored } => writeln!(Console, "sample {sample}: probability {got}, stored {stored}"),
        Failure::Console => Ok(()),
    };
    1
}

/// Loads, compiles and runs the model on all samples.
fn classify(level: Level) -> Result<(), Failure> {
    let loaded = millstream_onnx::load(Arc::new(MODEL), &millstream_ops::registry(), &LoadOptions::default()).map_err(step("load"))?;
    let mut graph = loaded.graph;
    simplify(&mut graph, &Options::default()).map_err(step("simplify"))?;
    let template = Template::new(graph, level, 1).map_err(step("compile"))?;
    let model = CompiledModel::new(template, Arc::new(SerialWorkers));
    let mut workspace = Workspace::new();
    for (i, sample) in SAMPLES.iter().enumerate() {
        let mut window = vec![PADDING; WINDOW];
        window.iter_mut().zip(sample.text.bytes()).for_each(|(w, b)| *w = b.into());
        let input = Tensor::from_slice(&[1, WINDOW], &window).map_err(step("input"))?;
        let outputs = model.run(&mut workspace, Request::new(&[Value::Tensor(input)])).map_err(step("run"))?;
        let tensor = outputs.into_iter().flatten().next().ok_or_else(|| Failure::Step("run", "no output".into()))?.into_tensor().map_err(step("output"))?;
        let got = tensor.as_slice::<f32>().map_err(step("output"))?;
        let mut best = 0;
        for (j, (&got_j, &stored)) in got.iter().zip(sample.probabilities).enumerate() {
            // Written so that NaN is wrong.
            if !((got_j - stored).abs() <= TOLERANCE) {
                return Err(Failure::Wrong { sample: i, got: got_j, stored });
            }
            best = if got_j > got[best] { j } else { best };
        }
        let first = sample.text.lines().next().unwrap_or_default();
        writeln!(Console, "{:12} {:5.1} %  {}", LABELS[best], got[best] * 100.0, first)?;
    }
    writeln!(Console, "{} snippets as stored, on {level}, {} KiB of memory used in all\n", SAMPLES.len(), memory::used() / 1024)?;
    Ok(())
}

/// Makes a failure of an error of step `name`.
fn step<E: fmt::Display>(name: &'static str) -> impl Fn(E) -> Failure {
    move |error| Failure::Step(name, alloc::format!("{error}"))
}
