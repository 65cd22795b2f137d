//! Recurrent layers: Silero's LSTM, which sees a step at a time, and those of CRNN, which read a line of text both ways.
//!
//! `cargo bench -p millstream-benches --bench recurrent`
#![allow(missing_docs)]

use criterion::{Criterion, criterion_group, criterion_main};
use millstream::kernel::graph::Attribute;
use millstream_benches::{Work, measure, noise};

/// Name, operator, gates, steps, batch, width of the input, hidden width, whether it reads both ways.
const CASES: [(&str, &str, usize, usize, usize, usize, usize, bool); 6] = [
    ("lstm_silero", "LSTM", 4, 1, 1, 128, 128, false),
    ("lstm_silero_8", "LSTM", 4, 1, 8, 128, 128, false),
    ("lstm_crnn_512", "LSTM", 4, 26, 1, 512, 256, true),
    ("lstm_ppocr_v2_288", "LSTM", 4, 80, 1, 288, 48, true),
    ("gru_crnn_512", "GRU", 3, 26, 1, 512, 256, true),
    ("rnn_crnn_512", "RNN", 1, 26, 1, 512, 256, true),
];

fn recurrent(c: &mut Criterion) {
    let mut group = c.benchmark_group("recurrent");
    for (name, op, gates, steps, batch, width, hidden, both) in CASES {
        let ways = 1 + usize::from(both);
        measure(&mut group, name, Work::Operations, |s| {
            let direction = if both { "bidirectional" } else { "forward" };
            let x = s.input(noise(&[steps, batch, width]));
            let weights = s.constant(noise(&[ways, gates * hidden, width]));
            let recurrence = s.constant(noise(&[ways, gates * hidden, hidden]));
            let bias = s.constant(noise(&[ways, 2 * gates * hidden]));
            let attributes = [("hidden_size", Attribute::Int(hidden as i64)), ("direction", Attribute::String(direction.into()))];
            s.op(op, &[x, weights, recurrence, bias], &attributes)
        });
    }
    group.finish();
}

criterion_group!(benches, recurrent);
criterion_main!(benches);
