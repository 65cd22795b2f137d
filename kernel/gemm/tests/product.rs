//! The product against a naive f64 oracle, on every level of the machine.

use millstream_gemm::{Activation, Epilogue, Gemm, GemmError, Lhs, PackedB, Residual, Rhs, Window, pack_into, pack_panels, packed_len, panels};
use millstream_simd::Level;
use proptest::prelude::*;

/// A small generator: results must not depend on a crate's version.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn fill(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.next()).collect()
    }
}

/// `C[i, j] = sum of a(i, k) b(k, j)` and the sum of magnitudes, which bounds the rounding error.
fn oracle(m: usize, k: usize, n: usize, a: impl Fn(usize, usize) -> f32, b: impl Fn(usize, usize) -> f32) -> Vec<(f64, f64)> {
    let mut c = Vec::with_capacity(m * n);
    for i in 0..m {
        for j in 0..n {
            c.push((0..k).fold((0.0, 0.0), |(sum, size), l| {
                let x = f64::from(a(i, l)) * f64::from(b(l, j));
                (sum + x, size + x.abs())
            }));
        }
    }
    c
}

#[track_caller]
fn close(got: f32, (want, size): (f64, f64), context: &dyn std::fmt::Debug) {
    assert!((f64::from(got) - want).abs() <= 1e-6 * size + 1e-6, "{got}, want {want}: {context:?}");
}

fn product(gemm: Gemm, a: &Lhs<'_>, b: millstream_gemm::PackedRef<'_>, epilogue: &Epilogue<'_>) -> Vec<f32> {
    let (m, _, n) = gemm.dims();
    let mut c = vec![f32::NAN; m * n];
    let mut scratch = vec![f32::NAN; gemm.scratch_len()];
    gemm.run(a, b, &mut c, n, epilogue, &mut scratch).unwrap();
    c
}

#[test]
fn shapes_at_every_edge() {
    let mut random = Random(1);
    for level in Level::available() {
        for m in [0, 1, 2, 3, 4, 5, 7, 13, 14, 15, 29, 61] {
            for k in [0, 1, 3, 16, 64, 255, 257, 600] {
                for n in [0, 1, 7, 8, 15, 16, 17, 31, 32, 33, 47, 70] {
                    let (a, b) = (random.fill(m * k), random.fill(k * n));
                    let packed = PackedB::new(level, Rhs::row_major(&b, n), k, n).unwrap();
                    let gemm = Gemm::new(level, m, k, n);
                    let c = product(gemm, &Lhs::row_major(&a, k), packed.view(), &Epilogue::default());
                    for (got, want) in c.iter().zip(oracle(m, k, n, |i, l| a[i * k + l], |l, j| b[l * n + j])) {
                        close(*got, want, &(level, m, k, n));
                    }
                }
            }
        }
    }
}

#[test]
fn orientations_agree_bit_for_bit() {
    let mut random = Random(2);
    let (m, k, n) = (37, 300, 75);
    let (a, b) = (random.fill(m * k), random.fill(k * n));
    let at: Vec<f32> = (0..k * m).map(|x| a[x % m * k + x / m]).collect();
    let bt: Vec<f32> = (0..n * k).map(|x| b[x % k * n + x / k]).collect();
    for level in Level::available() {
        let gemm = Gemm::new(level, m, k, n);
        let packed = PackedB::new(level, Rhs::row_major(&b, n), k, n).unwrap();
        let want = product(gemm, &Lhs::row_major(&a, k), packed.view(), &Epilogue::default());
        let mut memory = vec![f32::NAN; packed_len(level, k, n) + 3];
        let transposed = pack_into(level, Rhs::transposed(&bt, k), k, n, &mut memory).unwrap();
        let a_transposed = Lhs::Strided { data: &at, row_stride: 1, col_stride: m };
        assert_eq!(product(gemm, &a_transposed, transposed, &Epilogue::default()), want);
        // Panel by panel, as workers pack.
        let width = packed_len(level, k, n) / panels(level, n);
        let mut by_panel = vec![f32::NAN; packed_len(level, k, n)];
        for (p, chunk) in by_panel.chunks_mut(width).enumerate() {
            pack_panels(level, Rhs::transposed(&bt, k), k, n, p, chunk).unwrap();
        }
        assert_eq!(by_panel, memory[..by_panel.len()]);
    }
}

/// Rows of a larger product equal the rows computed alone, whatever the tiles; grains run backwards and on threads.
#[test]
fn results_do_not_depend_on_partition_or_neighbours() {
    let mut random = Random(3);
    let (m, k, n) = (533, 513, 331);
    let (a, b, bias) = (random.fill(m * k), random.fill(k * n), random.fill(n));
    for level in Level::available() {
        let packed = PackedB::new(level, Rhs::row_major(&b, n), k, n).unwrap();
        let epilogue = Epilogue::bias(&bias, Activation::Gelu);
        let gemm = Gemm::new(level, m, k, n);
        assert!(gemm.grains() > 1);
        let want = product(gemm, &Lhs::row_major(&a, k), packed.view(), &epilogue);
        let mut threaded = vec![f32::NAN; m * n];
        let tiles = gemm.tiles(&mut threaded, n).unwrap();
        std::thread::scope(|scope| {
            for worker in 0..3 {
                let (tiles, a, packed, epilogue) = (&tiles, &a, &packed, &epilogue);
                scope.spawn(move || {
                    let mut scratch = vec![f32::NAN; gemm.scratch_len()];
                    for grain in (0..gemm.grains()).rev().filter(|g| g % 3 == worker) {
                        gemm.run_grain(grain, &Lhs::row_major(a, k), packed.view(), tiles, epilogue, &mut scratch).unwrap();
                    }
                });
            }
        });
        assert_eq!(threaded, want);
        for rows in [1, 2, 3, 4, 5, 6, 9, 14, 40] {
            let start = 117;
            let part = Gemm::new(level, rows, k, n);
            let got = product(part, &Lhs::row_major(&a[start * k..], k), packed.view(), &epilogue);
            assert_eq!(got, want[start * n..(start + rows) * n], "{rows} rows at {level}");
        }
        for cols in [1, 5, 16, 33, 100] {
            let start = 77;
            let part = PackedB::new(level, Rhs::row_major(&b[start..], n), k, cols).unwrap();
            let got = product(Gemm::new(level, m, k, cols), &Lhs::row_major(&a, k), part.view(), &Epilogue::bias(&bias[start..], Activation::Gelu));
            for i in 0..m {
                assert_eq!(got[i * cols..(i + 1) * cols], want[i * n + start..][..cols], "{cols} columns at {level}");
            }
        }
    }
}

#[test]
fn epilogues() {
    let mut random = Random(4);
    for level in Level::available() {
        for (m, k, n) in [(1, 40, 33), (5, 300, 20), (16, 7, 64), (31, 520, 41)] {
            let (a, b) = (random.fill(m * k), random.fill(k * n));
            let (rows, cols, stride) = (random.fill(m), random.fill(n), n + 3);
            let residual = random.fill(m * stride);
            let packed = PackedB::new(level, Rhs::row_major(&b, n), k, n).unwrap();
            let gemm = Gemm::new(level, m, k, n);
            let activations = [
                Activation::None,
                Activation::Relu,
                Activation::Clip { lo: -0.5, hi: 0.75 },
                Activation::LeakyRelu { slope: 0.1 },
                Activation::Sigmoid,
                Activation::Silu,
                Activation::Gelu,
                Activation::GeluTanh,
                Activation::Tanh,
                Activation::HardSwish,
                Activation::HardSigmoid { alpha: 0.2, beta: 0.5 },
            ];
            for activation in activations {
                let plain = product(gemm, &Lhs::row_major(&a, k), packed.view(), &Epilogue::default());
                let epilogue = Epilogue {
                    alpha: 0.5,
                    bias_cols: Some(&cols),
                    bias_rows: Some(&rows),
                    residual: Some(Residual { data: &residual, row_stride: stride, beta: -2.0 }),
                    activation,
                };
                let got = product(gemm, &Lhs::row_major(&a, k), packed.view(), &epilogue);
                let mut want: Vec<f32> = (0..m * n).map(|x| plain[x] * 0.5 + cols[x % n] + rows[x / n] - 2.0 * residual[x / n * stride + x % n]).collect();
                activation.apply_in_place(level, &mut want);
                for (got, want) in got.iter().zip(&want) {
                    assert!((got - want).abs() <= 1e-5 * want.abs().max(1.0), "{got}, want {want}: {activation:?} {level}");
                }
            }
        }
    }
}

#[test]
fn nan_and_infinity_survive_a_clamp() {
    for level in Level::available() {
        let packed = PackedB::new(level, Rhs::row_major(&[1.0, 1.0], 2), 1, 2).unwrap();
        let gemm = Gemm::new(level, 2, 1, 2);
        let c = product(gemm, &Lhs::row_major(&[f32::NAN, f32::INFINITY], 1), packed.view(), &Epilogue::activation(Activation::Relu));
        assert!(c[0].is_nan() && c[1].is_nan() && c[2] == f32::INFINITY && c[3] == f32::INFINITY);
    }
}

#[test]
fn impossible_calls_are_errors() {
    let level = Level::detect();
    let data = [0.0; 6];
    let packed = PackedB::new(level, Rhs::row_major(&data, 3), 2, 3).unwrap();
    let gemm = Gemm::new(level, 2, 2, 3);
    let (mut c, mut scratch) = (vec![0.0; 6], vec![0.0; gemm.scratch_len()]);
    let a = Lhs::row_major(&data, 2);
    let none = Epilogue::default();
    assert!(matches!(PackedB::new(level, Rhs::row_major(&data, 3), 3, 3), Err(GemmError::Length { .. })));
    assert!(gemm.run(&a, packed.view(), &mut c[..5], 3, &none, &mut scratch).is_err());
    assert!(gemm.run(&a, packed.view(), &mut c, 2, &none, &mut scratch).is_err());
    assert!(gemm.run(&a, packed.view(), &mut c, 3, &none, &mut scratch[..9]).is_err());
    assert!(gemm.run(&Lhs::row_major(&data[..3], 2), packed.view(), &mut c, 3, &none, &mut scratch).is_err());
    assert!(gemm.run(&a, packed.view(), &mut c, 3, &Epilogue::bias(&data[..2], Activation::None), &mut scratch).is_err());
    assert!(Gemm::new(level, 2, 3, 3).run(&a, packed.view(), &mut c, 3, &none, &mut scratch).is_err());
    if level != Level::scalar() {
        assert!(Gemm::new(Level::scalar(), 2, 2, 3).run(&a, packed.view(), &mut c, 3, &none, &mut scratch).is_err());
    }
    let tiles = gemm.tiles(&mut c, 3).unwrap();
    assert!(gemm.run_grain(0, &a, packed.view(), &tiles, &none, &mut scratch).is_ok());
    assert_eq!(gemm.run_grain(0, &a, packed.view(), &tiles, &none, &mut scratch), Err(GemmError::Grain(0)));
    assert_eq!(gemm.run_grain(1, &a, packed.view(), &tiles, &none, &mut scratch), Err(GemmError::Grain(1)));
}

#[derive(Clone, Debug)]
struct Convolution {
    batch: usize,
    size: [usize; 2],
    channels: usize,
    extra: usize,
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    pad: [usize; 2],
    after: [usize; 2],
    filters: usize,
    seed: u64,
}

impl Convolution {
    fn out(&self) -> Option<[usize; 2]> {
        let axis = |i: usize| {
            let extent = (self.kernel[i] - 1) * self.dilation[i] + 1;
            Some((self.size[i] + self.pad[i] + self.after[i]).checked_sub(extent)? / self.stride[i] + 1)
        };
        Some([axis(0)?, axis(1)?])
    }
}

fn convolutions() -> impl Strategy<Value = Convolution> {
    let pair = |r: std::ops::Range<usize>| [r.clone(), r];
    (1..3_usize, pair(1..12), (1..20_usize, 0..3_usize), pair(1..6), pair(1..4), pair(1..4), (pair(0..5), pair(0..5)), 1..40_usize, any::<u64>()).prop_map(
        |(batch, size, (channels, extra), kernel, stride, dilation, (pad, after), filters, seed)| Convolution {
            batch,
            size,
            channels,
            extra,
            kernel,
            stride,
            dilation,
            pad,
            after,
            filters,
            seed,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Convolutions as windows and as gathered runs, against the definition.
    #[test]
    fn convolution_is_a_product_of_windows(x in convolutions()) {
        let Some(out) = x.out() else { return Ok(()) };
        let mut random = Random(x.seed);
        let [h, w] = x.size;
        let [kh, kw] = x.kernel;
        let stride = x.channels + x.extra;
        let image = random.fill(x.batch * h * w * stride);
        let weights = random.fill(x.filters * x.channels * kh * kw);
        let (m, k, n) = (x.batch * out[0] * out[1], kh * kw * x.channels, x.filters);
        let pixel = |row: usize, tap: usize| -> Option<usize> {
            let (b, oy, ox) = (row / (out[0] * out[1]), row / out[1] % out[0], row % out[1]);
            let y = (oy * x.stride[0] + tap / kw * x.dilation[0]).checked_sub(x.pad[0]).filter(|y| *y < h)?;
            let x = (ox * x.stride[1] + tap % kw * x.dilation[1]).checked_sub(x.pad[1]).filter(|x| *x < w)?;
            Some(((b * h + y) * w + x) * stride)
        };
        let offsets: Vec<usize> = (0..m * kh * kw).map(|i| pixel(i / (kh * kw), i % (kh * kw)).unwrap_or(usize::MAX)).collect();
        let want = oracle(
            m, k, n,
            |i, l| pixel(i, l / x.channels).map_or(0.0, |p| image[p + l % x.channels]),
            |l, j| weights[(j * x.channels + l % x.channels) * kh * kw + l / x.channels],
        );
        for level in Level::available() {
            let packed = PackedB::new(level, Rhs::convolution(&weights, x.channels, kh * kw), k, n).unwrap();
            let gemm = Gemm::new(level, m, k, n);
            let window = Lhs::Window(Window {
                data: &image, batch: x.batch, size: x.size, channels: x.channels, pixel_stride: stride,
                kernel: x.kernel, stride: x.stride, dilation: x.dilation, pad: x.pad, out,
            });
            let got = product(gemm, &window, packed.view(), &Epilogue::default());
            for (got, want) in got.iter().zip(&want) {
                close(*got, *want, &(level, &x));
            }
            let gathered = Lhs::Gathered { data: &image, offsets: &offsets, taps: kh * kw, channels: x.channels };
            prop_assert_eq!(product(gemm, &gathered, packed.view(), &Epilogue::default()), got);
        }
    }

    #[test]
    fn any_shape(m in 0..80_usize, k in 0..700_usize, n in 0..90_usize, gap in 0..5_usize, seed in any::<u64>()) {
        let mut random = Random(seed);
        let (a, b) = (random.fill(m * (k + gap)), random.fill(k * (n + gap)));
        let want = oracle(m, k, n, |i, l| a[i * (k + gap) + l], |l, j| b[l * (n + gap) + j]);
        for level in Level::available() {
            let packed = PackedB::new(level, Rhs::row_major(&b, n + gap), k, n).unwrap();
            let gemm = Gemm::new(level, m, k, n);
            let stride = n + gap;
            let (mut c, mut scratch) = (vec![7.0; m * stride], vec![f32::NAN; gemm.scratch_len()]);
            gemm.run(&Lhs::row_major(&a, k + gap), packed.view(), &mut c, stride, &Epilogue::default(), &mut scratch).unwrap();
            for i in 0..m {
                for j in 0..stride {
                    if j < n {
                        close(c[i * stride + j], want[i * n + j], &(level, m, k, n));
                    } else {
                        prop_assert_eq!(c[i * stride + j], 7.0, "outside of C");
                    }
                }
            }
        }
    }
}
