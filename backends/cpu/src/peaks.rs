//! What this machine can do at most, measured: the roof that a kernel's rates are held against.

use std::{
    hint::black_box,
    thread,
    time::{Duration, Instant},
};

use millstream_simd::{Level, Simd, SimdF32, dispatch};

/// Rates that no kernel exceeds, but where its data stay in a cache.
#[derive(Clone, Copy, Debug)]
pub struct Peaks {
    /// f32 operations a second; a multiply-add is two.
    pub flops: f64,
    /// Bytes a second that are read or written, of far more than the caches hold.
    pub bytes: f64,
}

impl Peaks {
    /// Measures `threads` threads at once, which keeps them busy for about four times `time` and takes 512 MiB meanwhile.
    pub fn measure(level: Level, threads: usize, time: Duration) -> Self {
        const BYTES: usize = 256 << 20;
        let threads = threads.max(1);
        let flops = rate(threads, time, || || flops_once(level, 100_000));
        let bytes = rate(threads, time, || {
            let (from, mut to) = (vec![1_u8; BYTES / threads], vec![0_u8; BYTES / threads]);
            move || {
                to.copy_from_slice(black_box(&from));
                black_box(&mut to);
                2.0 * to.len() as f64
            }
        });
        Self { flops, bytes }
    }
}

/// Runs `rounds` rounds of multiply-adds in registers on this thread and returns how many operations they were: a roof that benchmarks can
/// measure by turns with something else.
pub fn flops_once(level: Level, rounds: usize) -> f64 {
    dispatch!(level, s => chains(s, rounds))
}

/// As many chains as hide an instruction's latency.
#[inline(always)]
fn chains<S: Simd>(s: S, rounds: usize) -> f64 {
    let (x, y) = (S::F32::splat(s, black_box(0.999)), S::F32::splat(s, black_box(0.001)));
    let mut sums = [S::F32::splat(s, 1.0); 12];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = sum.mul_add(x, y);
        }
    }
    black_box(sums.map(|sum| sum.reduce_add()));
    (2 * 12 * rounds * S::F32::LANES) as f64
}

/// Units of work a second at best, by so many threads at once; `work` does a piece and says how much it was.
fn rate<W: FnMut() -> f64>(threads: usize, time: Duration, make: impl Fn() -> W + Sync) -> f64 {
    let one = || {
        let (mut work, mut best) = (make(), 0.0_f64);
        work();
        let begun = Instant::now();
        while begun.elapsed() < time {
            let start = Instant::now();
            let done = work();
            best = best.max(done / start.elapsed().as_secs_f64());
        }
        best
    };
    thread::scope(|scope| {
        let others: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        others.into_iter().map(|other| other.join().unwrap_or(0.0)).sum()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_has_peaks() {
        for level in Level::available() {
            assert!(flops_once(level, 10) > 0.0);
        }
        let peaks = Peaks::measure(Level::detect(), 2, Duration::from_millis(1));
        assert!(peaks.flops.is_finite() && peaks.flops > 0.0 && peaks.bytes.is_finite() && peaks.bytes > 0.0, "{peaks:?}");
    }
}
