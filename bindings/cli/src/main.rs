//! The `millstream` program.
//!
//! `main` reads the arguments and calls one function of `commands`. Results go to standard output, as text or with
//! `--json` as one JSON object; progress and logs go to standard error. Exit status: 0 if all went well, 1 if tests or
//! outputs did not match, 2 if something could not be done.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program prints")]

mod arrays;
mod commands;
mod conformance;
mod failure;
mod language;
mod memory;
mod output;
mod stopping;
mod top;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Runs ONNX models, and pipelines of them.
#[derive(Parser)]
#[command(name = "millstream", version, about, after_help = "MILLSTREAM_LEVEL=scalar|avx2|avx512|amx|neon|simd128 clamps the instructions that kernels use.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Log more to standard error (-v, -vv).
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Subcommand)]
enum Command {
    Demo(commands::demo::Arguments),
    Run(commands::run::Arguments),
    Inspect(commands::inspect::Arguments),
    Bench(commands::bench::Arguments),
    Load(commands::load::Arguments),
    Test(commands::test::Arguments),
    Top(commands::top::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let level = ["warn", "info", "debug"][usize::from(arguments.verbose.min(2))];
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(tracing_subscriber::EnvFilter::new(level)).init();
    let done = match &arguments.command {
        Command::Demo(a) => commands::demo::run(a),
        Command::Run(a) => commands::run::run(a),
        Command::Inspect(a) => commands::inspect::run(a),
        Command::Bench(a) => commands::bench::run(a),
        Command::Load(a) => commands::load::run(a),
        Command::Test(a) => commands::test::run(a),
        Command::Top(a) => commands::top::run(a),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}
