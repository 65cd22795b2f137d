//! f32 products: millstream against the `gemm` crate and against the machine's peak, by turns in one run, on one thread.
//!
//! `cargo bench -p millstream-benches --bench gemm` prints the table, then runs the same shapes under criterion; `-- --table` stops at the table.
//! B is packed ahead, as a weight is; the `gemm` crate gets the same matrices row-major.
#![allow(missing_docs, clippy::print_stdout)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group};
use millstream::cpu::{Level, flops_once};
use millstream_gemm::{Epilogue, Gemm, Lhs, PackedB, Rhs};

/// M × K × N.
const SHAPES: [(usize, usize, usize); 12] = [
    (512, 512, 512),
    (1024, 1024, 1024),
    (128, 384, 1536),
    (197, 768, 3072),
    (3136, 64, 256),
    (49, 2048, 512),
    (3136, 576, 64),
    (196, 1024, 256),
    (128, 384, 384),
    (1, 1024, 1024),
    (1, 768, 3072),
    (4, 768, 3072),
];

struct Case {
    gemm: Gemm,
    a: Vec<f32>,
    b: Vec<f32>,
    packed: PackedB,
    c: Vec<f32>,
    scratch: Vec<f32>,
}

impl Case {
    fn new(level: Level, (m, k, n): (usize, usize, usize)) -> Self {
        let fill = |len: usize| (0..len).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect::<Vec<_>>();
        let (gemm, a, b) = (Gemm::new(level, m, k, n), fill(m * k), fill(k * n));
        let packed = PackedB::new(level, Rhs::row_major(&b, n), k, n).expect("B has k rows of n");
        Self { gemm, a, b, packed, c: vec![0.0; m * n], scratch: vec![0.0; gemm.scratch_len()] }
    }

    fn flops(&self) -> f64 {
        let (m, k, n) = self.gemm.dims();
        2.0 * m as f64 * k as f64 * n as f64
    }

    fn ours(&mut self) {
        let (_, k, n) = self.gemm.dims();
        let a = Lhs::row_major(&self.a, k);
        self.gemm.run(&a, self.packed.view(), &mut self.c, n, &Epilogue::default(), &mut self.scratch).expect("lengths agree");
        black_box(&mut self.c);
    }

    fn theirs(&mut self) {
        let (m, k, n) = self.gemm.dims();
        let (c, a, b) = (self.c.as_mut_ptr(), self.a.as_ptr(), self.b.as_ptr());
        let stride = |x: usize| x as isize;
        // SAFETY: the pointers are row-major matrices of m × n, m × k and k × n elements.
        unsafe {
            gemm::gemm(m, n, k, c, 1, stride(n), false, a, 1, stride(k), b, 1, stride(n), 0.0, 1.0, false, false, false, gemm::Parallelism::None);
        }
        black_box(&mut self.c);
    }
}

fn seconds(f: impl FnOnce()) -> f64 {
    let start = Instant::now();
    f();
    start.elapsed().as_secs_f64()
}

/// Turns of `ours`, `theirs` and the roof until half a second has passed; the best of each, in GFLOP/s:
/// what other processes take away differs from turn to turn.
fn by_turns(level: Level, case: &mut Case) -> [f64; 3] {
    // Short products are repeated within a turn, so that the clock's resolution does not matter.
    let repeat = (5e7 / case.flops()).ceil() as usize;
    let flops = case.flops() * repeat as f64;
    let mut rates: [Vec<f64>; 3] = Default::default();
    (0..repeat).for_each(|_| case.ours());
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(500) || rates[0].len() < 15 {
        rates[0].push(flops / seconds(|| (0..repeat).for_each(|_| case.ours())));
        rates[1].push(flops / seconds(|| (0..repeat).for_each(|_| case.theirs())));
        let mut work = 0.0;
        let time = seconds(|| work = flops_once(level, 20_000));
        rates[2].push(work / time);
    }
    rates.map(|r| r.into_iter().fold(0.0, f64::max) / 1e9)
}

fn table() {
    for level in Level::available().filter(|l| *l != Level::scalar()) {
        println!("{level}: GFLOP/s on one thread, best of turns");
        println!("{:>16} {:>10} {:>10} {:>10} {:>8} {:>10}", "M x K x N", "millstream", "gemm crate", "peak", "% peak", "vs gemm");
        for shape in SHAPES {
            let [ours, theirs, peak] = by_turns(level, &mut Case::new(level, shape));
            let name = format!("{}x{}x{}", shape.0, shape.1, shape.2);
            println!("{name:>16} {ours:>10.1} {theirs:>10.1} {peak:>10.1} {:>8.1} {:>10.2}", 100.0 * ours / peak, ours / theirs);
        }
    }
}

fn shapes(c: &mut Criterion) {
    let level = Level::detect();
    let mut group = c.benchmark_group("gemm");
    for shape in SHAPES {
        let mut case = Case::new(level, shape);
        group.throughput(Throughput::Elements(case.flops() as u64));
        group.bench_function(format!("{}x{}x{}", shape.0, shape.1, shape.2), |bench| bench.iter(|| case.ours()));
    }
    group.finish();
}

criterion_group!(benches, shapes);

fn main() {
    // Under `cargo test --benches` criterion only checks that the closures run.
    if std::env::args().any(|a| a == "--bench") {
        table();
    }
    if !std::env::args().any(|a| a == "--table") {
        benches();
        Criterion::default().configure_from_args().final_summary();
    }
}
