//! Attention against an obvious loop in f64, on every level: strides, masks, lengths around the tiles' and blocks' edges.

use millstream_gemm::{Attention, FewOptions, FewScores, KeyWindow, Mask, MaskElements, Matrix, Scores};
use millstream_simd::Level;
use millstream_tensor::{Bool, tile::Tiles};

fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut x = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    (0..n)
        .map(|_| {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (x >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

struct Dims {
    rows: usize,
    keys: usize,
    depth: usize,
    width: usize,
}

fn reference(d: &Dims, q: &[f32], k: &[f32], v: &[f32], mask: impl Fn(usize, usize) -> f64, scale: f32, heads: usize) -> Vec<f64> {
    let mut out = vec![];
    for i in 0..d.rows {
        let score = |j: usize| {
            let dot: f64 = (0..d.depth).map(|c| f64::from(q[i * d.depth * heads + c]) * f64::from(k[j * d.depth * heads + c])).sum();
            dot * f64::from(scale) + mask(i, j)
        };
        let scores: Vec<f64> = (0..d.keys).map(score).collect();
        let greatest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let powers: Vec<f64> = scores.iter().map(|s| (s - greatest).exp()).collect();
        let sum: f64 = powers.iter().sum();
        out.extend((0..d.width).map(|c| powers.iter().enumerate().map(|(j, p)| p / sum * f64::from(v[j * d.width * heads + c])).sum::<f64>()));
    }
    out
}

#[test]
fn agrees_with_the_definition_on_every_level() {
    let all = [(1, 1, 1, 1), (13, 128, 32, 32), (29, 197, 64, 64), (7, 31, 16, 40), (3, 513, 20, 8), (5, 1100, 600, 33), (40, 64, 8, 17), (2, 3, 0, 4)];
    for level in Level::available() {
        for (rows, keys, depth, width) in all {
            let (d, heads, scale) = (Dims { rows, keys, depth, width }, 2, 0.7 / (depth.max(1) as f32).sqrt());
            let (q, k, v) = (noise(rows * depth * heads, 1), noise(keys * depth * heads, 2), noise(keys * width * heads, 3));
            let mask = noise(rows * keys, 4);
            for masked in [None, Some(keys), Some(0)] {
                let attention = Attention::new(level, keys, depth, width);
                let (mut memory, mut scratch) = (vec![f32::NAN; attention.packed_len()], vec![f32::NAN; attention.scratch_len()]);
                let matrix = |data, cols: usize| Matrix { data, row_stride: cols * heads, col_stride: 1 };
                let head = attention.pack(matrix(&k, depth), matrix(&v, width), &mut memory).unwrap();
                let mut out = vec![f32::NAN; rows * (width + 3)];
                let tiles = Tiles::new(&mut out, rows, width, width + 3, rows, width).unwrap();
                let added = masked.map(|row_stride| Mask { elements: MaskElements::Added(&mask), row_stride, col_stride: 1 });
                attention.run(matrix(&q, depth), head, Scores { mask: added, ..Scores::scaled(scale, keys) }, tiles.claim(0).unwrap(), &mut scratch).unwrap();
                let want = reference(&d, &q, &k, &v, |i, j| masked.map_or(0.0, |stride| f64::from(mask[i * stride + j])), scale, heads);
                for i in 0..rows {
                    for c in 0..width {
                        let (got, want) = (f64::from(out[i * (width + 3) + c]), want[i * width + c]);
                        assert!((got - want).abs() < 2e-6, "{level} {rows}×{keys}×{depth}×{width}, mask {masked:?}, ({i}, {c}): {got}, want {want}");
                    }
                    assert!(out[i * (width + 3) + width..(i + 1) * (width + 3)].iter().all(|x| x.is_nan()), "written past a row");
                }
            }
        }
    }
}

#[test]
fn masked_keys_do_not_count() {
    for level in Level::available() {
        let (keys, depth) = (20, 4);
        let attention = Attention::new(level, keys, depth, depth);
        let (q, k, mut v) = (noise(depth, 1), noise(keys * depth, 2), noise(keys * depth, 3));
        let mask: Vec<f32> = (0..keys).map(|j| if j < 5 { 0.0 } else { f32::MIN }).collect();
        let run = |v: &[f32]| {
            let (mut memory, mut scratch) = (vec![0.0; attention.packed_len()], vec![0.0; attention.scratch_len()]);
            let matrix = |data| Matrix { data, row_stride: depth, col_stride: 1 };
            let head = attention.pack(matrix(&k), matrix(v), &mut memory).unwrap();
            let mut out = vec![0.0; depth];
            let tiles = Tiles::new(&mut out, 1, depth, depth, 1, depth).unwrap();
            let mask = Mask { elements: MaskElements::Added(&mask), row_stride: keys, col_stride: 1 };
            attention.run(matrix(&q), head, Scores { mask: Some(mask), ..Scores::scaled(0.5, keys) }, tiles.claim(0).unwrap(), &mut scratch).unwrap();
            out
        };
        let before = run(&v);
        v[5 * depth..].fill(1e20);
        assert_eq!(before, run(&v), "{level}");
    }
}

#[test]
fn impossible_calls_are_errors() {
    let attention = Attention::new(Level::detect(), 4, 2, 2);
    let data = vec![0.0; 8];
    let matrix = |data| Matrix { data, row_stride: 2, col_stride: 1 };
    assert!(attention.pack(matrix(&data), matrix(&data), &mut []).is_err());
    let mut memory = vec![0.0; attention.packed_len()];
    assert!(attention.pack(matrix(&data[..7]), matrix(&data), &mut memory).is_err());
    let head = attention.pack(matrix(&data), matrix(&data), &mut memory).unwrap();
    let (mut out, mut scratch) = (vec![0.0; 6], vec![0.0; attention.scratch_len()]);
    let tiles = Tiles::new(&mut out, 3, 2, 2, 1, 2).unwrap();
    let plain = Scores::scaled(1.0, 4);
    let mask = Mask { elements: MaskElements::Added(&data[..3]), row_stride: 4, col_stride: 1 };
    assert!(attention.run(matrix(&data), head, Scores { mask: Some(mask), ..plain }, tiles.claim(0).unwrap(), &mut scratch).is_err());
    assert!(attention.run(matrix(&data[..1]), head, plain, tiles.claim(1).unwrap(), &mut scratch).is_err());
    assert!(attention.run(matrix(&data), head, plain, tiles.claim(2).unwrap(), &mut []).is_err());
    let more = Scores { window: KeyWindow::all(5), ..plain };
    let tiles = Tiles::new(&mut out, 3, 2, 2, 1, 2).unwrap();
    assert!(attention.run(matrix(&data), head, more, tiles.claim(0).unwrap(), &mut scratch).is_err());
    let options = FewOptions { scale: 1.0, cap: 0.0, blind_is_zero: true };
    let (all, two) = (|_| FewScores { mask: None, keys: 0..4 }, [matrix(&data), matrix(&data)]);
    assert!(attention.run_few(&data[..4], two, options, all, &mut [0.0; 4], &mut [0.0; 8]).is_ok());
    assert!(attention.run_few(&data[..4], two, options, all, &mut [0.0; 4], &mut [0.0; 7]).is_err());
    assert!(attention.run_few(&data[..3], two, options, all, &mut [0.0; 4], &mut [0.0; 8]).is_err());
    assert!(attention.run_few(&data[..4], two, options, |_| FewScores { mask: None, keys: 0..5 }, &mut [0.0; 4], &mut [0.0; 8]).is_err());
    assert!(attention.run_few(&data[..4], [two[0], matrix(&data[..7])], options, all, &mut [0.0; 4], &mut [0.0; 8]).is_err());
}

/// Caps, masks of truth and windows, both ways, against the loop with the same as additions.
#[test]
fn caps_masks_and_windows_agree_with_the_definition() {
    let windows = [(None, None), (None, Some(0)), (None, Some(-3)), (Some(-2), Some(1)), (Some(600), Some(700)), (None, Some(2000)), (Some(5), None)];
    for level in Level::available() {
        for (rows, keys, depth, width) in [(1, 40, 64, 64), (7, 1100, 20, 17), (33, 33, 16, 80), (3, 530, 8, 4)] {
            let d = Dims { rows, keys, depth, width };
            let (q, k, v) = (noise(rows * depth, 1), noise(keys * depth, 2), noise(keys * width, 3));
            let visible: Vec<Bool> = noise(rows * keys, 4).iter().map(|&x| (x > -0.5).into()).collect();
            for (first, last) in windows {
                for (cap, shown, blind) in [(0.0, false, false), (0.4, false, true), (0.0, true, true), (0.4, true, true)] {
                    let window = KeyWindow { keys: keys - 1, first, last };
                    let mask = shown.then_some(Mask { elements: MaskElements::Visible(&visible), row_stride: keys, col_stride: 1 });
                    let scores = Scores { scale: 0.5, cap, mask, window, blind_is_zero: blind };
                    let sees = |i: usize, j: usize| window.of(i).contains(&j) && (!shown || bool::from(visible[i * keys + j]));
                    let want = seen_reference(&d, &q, &k, &v, sees, 0.5, f64::from(cap));
                    let attention = Attention::new(level, keys, depth, width);
                    let (mut memory, mut scratch) = (vec![f32::NAN; attention.packed_len()], vec![f32::NAN; attention.scratch_len()]);
                    let matrix = |data, cols: usize| Matrix { data, row_stride: cols, col_stride: 1 };
                    let head = attention.pack(matrix(&k, depth), matrix(&v, width), &mut memory).unwrap();
                    let mut out = vec![f32::NAN; rows * width];
                    let tiles = Tiles::new(&mut out, rows, width, width, rows, width).unwrap();
                    attention.run(matrix(&q, depth), head, scores, tiles.claim(0).unwrap(), &mut scratch).unwrap();
                    let mut few = vec![f32::NAN; rows * width];
                    let mut memory = vec![f32::NAN; attention.few_scratch_len(rows)];
                    let options = FewOptions { scale: 0.5, cap, blind_is_zero: blind };
                    let row = |i: usize| FewScores { mask: mask.and_then(|m| m.from_row(i)), keys: window.of(i) };
                    attention.run_few(&q, [matrix(&k, depth), matrix(&v, width)], options, row, &mut few, &mut memory).unwrap();
                    for (i, want) in want.iter().enumerate() {
                        for got in [out[i], few[i]] {
                            let what = format!("{level} {rows}×{keys}×{depth}×{width}, {window:?}, cap {cap}, mask {shown}, element {i}");
                            assert!((f64::from(got) - want).abs() < 2e-6, "{what}: {got}, want {want}");
                        }
                    }
                }
            }
        }
    }
}

/// With zeros for a query that sees no key.
fn seen_reference(d: &Dims, q: &[f32], k: &[f32], v: &[f32], sees: impl Fn(usize, usize) -> bool, scale: f64, cap: f64) -> Vec<f64> {
    let mut out = vec![];
    for i in 0..d.rows {
        let seen: Vec<usize> = (0..d.keys).filter(|&j| sees(i, j)).collect();
        let score = |j: usize| {
            let dot: f64 = (0..d.depth).map(|c| f64::from(q[i * d.depth + c]) * f64::from(k[j * d.depth + c])).sum();
            if cap == 0.0 { dot * scale } else { cap * (dot * scale / cap).tanh() }
        };
        let greatest = seen.iter().map(|&j| score(j)).fold(f64::NEG_INFINITY, f64::max);
        let powers: Vec<f64> = seen.iter().map(|&j| (score(j) - greatest).exp()).collect();
        let sum: f64 = powers.iter().sum();
        out.extend((0..d.width).map(|c| seen.iter().zip(&powers).map(|(j, p)| p / sum * f64::from(v[j * d.width + c])).sum::<f64>()));
    }
    out
}
