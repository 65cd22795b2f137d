//! What the machine can do at most, measured in the same run as the engines.

use millstream::cpu::{self, Peaks};
use serde_json::json;
use std::{thread, time::Duration};

/// Prints one line of JSON: fp32 GFLOP/s and GB/s copied (read and written), on one thread and on all.
pub(crate) fn print(time: Duration) {
    let (level, all) = (cpu::level(), thread::available_parallelism().map_or(1, |n| n.get()));
    let [one, most] = [1, all].map(|threads| Peaks::measure(level, threads, time));
    println!(
        "{}",
        json!({ "level": level.to_string(), "threads": all, "gflops": [one.flops / 1e9, most.flops / 1e9], "copy_gbs": [one.bytes / 1e9, most.bytes / 1e9] })
    );
}
