//! `GridSample`: the input read at the positions of a grid, between elements: nearest, (multi)linear, or (multi)cubic.
//!
//! A position is given for each spatial axis, the last axis first, in −1..1. For each output position the weights of the 1, 2
//! or 4 neighbours along each axis are computed once and used for all channels.

use crate::grains;
use alloc::{boxed::Box, string::ToString, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, BuildError, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef};
use millstream_tensor::{DType, tile::Tiles};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "GridSample",
    since: &[16, 20, 22],
    inputs: Arity::exactly(2),
    outputs: Arity::exactly(1),
    attributes: &["align_corners", "mode", "padding_mode"],
    subgraphs: &[],
    dtypes: "f32",
    build: |cx: &BuildCx<'_>| {
        let mode = match cx.attributes.string_or("mode", "linear")? {
            "linear" | "bilinear" => Mode::Linear,
            "nearest" => Mode::Nearest,
            "cubic" | "bicubic" => Mode::Cubic,
            other => return Err(BuildError::UnsupportedAttribute { name: "mode", value: other.to_string() }),
        };
        let padding = match cx.attributes.string_or("padding_mode", "zeros")? {
            "zeros" => Padding::Zeros,
            "border" => Padding::Border,
            "reflection" => Padding::Reflection,
            other => return Err(BuildError::UnsupportedAttribute { name: "padding_mode", value: other.to_string() }),
        };
        Ok(Box::new(GridSample { mode, padding, aligned: cx.attributes.flag_or("align_corners", false)? }))
    },
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Linear,
    Nearest,
    Cubic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Padding {
    Zeros,
    Border,
    Reflection,
}

/// The input read at positions.
#[derive(Debug, Clone, Copy)]
pub struct GridSample {
    mode: Mode,
    padding: Padding,
    /// −1 and 1 are the centres of the outermost elements, not their outer edges.
    aligned: bool,
}

/// Neighbours along one axis: their index (`None` for a zero outside) and weight.
type Taps = ([Option<usize>; 4], [f32; 4], usize);

/// `x` mirrored into `low..=high`.
fn reflect(x: f32, low: f32, high: f32) -> f32 {
    let range = high - low;
    if range <= 0.0 {
        return low;
    }
    let beyond = libm::fmodf((x - low).abs(), 2.0 * range);
    low + if beyond <= range { beyond } else { 2.0 * range - beyond }
}

impl GridSample {
    /// The neighbours of position `g` (in −1..1) along an axis of `dim` elements.
    fn taps(&self, g: f32, dim: usize) -> Taps {
        let d = dim as f32;
        let (mut x, low, high) = if self.aligned { ((g + 1.0) / 2.0 * (d - 1.0), 0.0, d - 1.0) } else { (((g + 1.0) * d - 1.0) / 2.0, -0.5, d - 0.5) };
        if self.mode == Mode::Nearest {
            x = libm::rintf(x);
        }
        if x < low || x > high {
            x = match self.padding {
                Padding::Zeros => x,
                Padding::Border => x.clamp(0.0, d - 1.0),
                Padding::Reflection => reflect(x, low, high),
            };
        }
        let at = |i: f32| match self.padding {
            Padding::Zeros => (i >= 0.0 && i < d).then_some(i as usize),
            Padding::Border => Some(i.clamp(0.0, d - 1.0) as usize),
            Padding::Reflection => Some((reflect(i, low, high) as usize).min(dim - 1)),
        };
        match self.mode {
            Mode::Nearest => ([at(libm::rintf(x)), None, None, None], [1.0, 0.0, 0.0, 0.0], 1),
            Mode::Linear => {
                let first = libm::floorf(x);
                let r = x - first;
                ([at(first), at(first + 1.0), None, None], [1.0 - r, r, 0.0, 0.0], 2)
            }
            Mode::Cubic => {
                const A: f32 = -0.75;
                let first = libm::floorf(x);
                let r = x - first;
                let near = |t: f32| ((A + 2.0) * t - (A + 3.0)) * t * t + 1.0;
                let far = |t: f32| ((A * t - 5.0 * A) * t + 8.0 * A) * t - 4.0 * A;
                let weights = [far(r + 1.0), near(r), near(1.0 - r), far(2.0 - r)];
                ([at(first - 1.0), at(first), at(first + 1.0), at(first + 2.0)], weights, 4)
            }
        }
    }
}

impl Op for GridSample {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let (x, grid) = (cx.input(0)?, cx.input(1)?);
        for (input, fact) in [x, grid].into_iter().enumerate() {
            if fact.dtype != DType::F32 {
                return Err(InferError::DType { input, found: fact.dtype });
            }
        }
        if x.rank() < 3 || grid.rank() != x.rank() {
            return Err(InferError::Rank { input: 1, found: grid.rank(), wanted: "the rank of the input, at least 3" });
        }
        let mut dims = x.dims[..2].to_vec();
        dims.extend_from_slice(&grid.dims[1..grid.rank() - 1]);
        Ok(vec![Fact::new(x.dtype, dims)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let (x, grid) = (cx.input::<f32>(0)?, cx.input::<f32>(1)?);
        let (shape, of_grid) = (*x.shape(), *grid.shape());
        let (&[n, channels, ref space @ ..], &[m, .., axes]) = (shape.dims(), of_grid.dims()) else {
            return Err(EvalError::Invalid("the grid does not fit the input"));
        };
        if n != m || axes != space.len() || shape.rank() != of_grid.rank() {
            return Err(EvalError::Invalid("the grid does not fit the input"));
        }
        let y = cx.output::<f32>(0)?.into_data();
        if y.is_empty() {
            return Ok(());
        }
        let plane: usize = space.iter().product();
        if plane == 0 {
            y.fill(0.0);
            return Ok(());
        }
        let (x, grid) = (x.data(), grid.data());
        let points = grid.len() / axes / n;
        let strides: Vec<usize> = (0..axes).map(|a| space[a + 1..].iter().product()).collect();
        let per_grain = grains::rows(n * channels, points, 32 << axes);
        let tiles = Tiles::rows(y, points, per_grain).ok_or(EvalError::Output(0))?;
        cx.parallel(tiles.count(), |grain, _| {
            let mut tile = tiles.claim(grain)?;
            for (r, y) in tile.as_slice()?.chunks_exact_mut(points).enumerate() {
                let row = grain * per_grain + r;
                let from = x.get(row * plane..(row + 1) * plane)?;
                let grid = grid.get(row / channels * points * axes..)?;
                for (y, position) in y.iter_mut().zip(grid.chunks_exact(axes)) {
                    // The last axis comes first in a position.
                    *y = self.read(from, space, &strides, position);
                }
            }
            Some(())
        })
    }
}

impl GridSample {
    /// One element: the sum over the neighbours along every axis.
    fn read(&self, from: &[f32], space: &[usize], strides: &[usize], position: &[f32]) -> f32 {
        let Some((&dim, rest)) = space.split_first() else { return from.first().copied().unwrap_or(0.0) };
        let Some((&g, inner)) = position.split_last() else { return 0.0 };
        let (at, weights, count) = self.taps(g, dim);
        let mut sum = 0.0;
        for (at, weight) in at.iter().zip(weights).take(count) {
            if let Some(at) = at
                && let Some(from) = from.get(at * strides[0]..(at + 1) * strides[0])
            {
                sum += weight * self.read(from, rest, &strides[1..], inner);
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, t};
    use millstream_tensor::Tensor;

    /// Straight from the definition, in f64, for two spatial axes.
    fn reference(case: &Case) -> Vec<Tensor> {
        let (x, grid) = (case.tensor(0), case.tensor(1));
        let [n, c, h, w] = x.shape()[..] else { panic!("an image") };
        let [_, oh, ow, _] = grid.shape()[..] else { panic!("a grid of an image") };
        let text = |name: &str| case.attributes.string_or(name, "").unwrap().to_string();
        let (mode, padding, aligned) = (text("mode"), text("padding_mode"), case.int_or("align_corners", 0) != 0);
        let mirror = |mut x: f64, low: f64, high: f64| {
            while x < low || x > high {
                x = if x < low { 2.0 * low - x } else { 2.0 * high - x };
            }
            x
        };
        let bounds = |d: usize| if aligned { (0.0, d as f64 - 1.0) } else { (-0.5, d as f64 - 0.5) };
        let place = |g: f32, d: usize| {
            let d1 = d as f64;
            let mut x = if aligned { (f64::from(g) + 1.0) / 2.0 * (d1 - 1.0) } else { ((f64::from(g) + 1.0) * d1 - 1.0) / 2.0 };
            if mode == "nearest" {
                x = x.round_ties_even();
            }
            let (low, high) = bounds(d);
            if x < low || x > high {
                x = match padding.as_str() {
                    "border" => x.clamp(0.0, d1 - 1.0),
                    "reflection" => mirror(x, low, high),
                    _ => x,
                };
            }
            x
        };
        let pixel = |b: usize, k: usize, i: f64, j: f64| {
            let fix = |i: f64, d: usize| match padding.as_str() {
                "border" => Some(i.clamp(0.0, d as f64 - 1.0) as usize),
                "reflection" => {
                    let (l, h) = bounds(d);
                    Some(mirror(i, l, h) as usize)
                }
                _ => (i >= 0.0 && i < d as f64).then_some(i as usize),
            };
            match (fix(i, h), fix(j, w)) {
                (Some(i), Some(j)) => f64::from(x.as_slice::<f32>().unwrap()[((b * c + k) * h + i) * w + j]),
                _ => 0.0,
            }
        };
        let weights = |r: f64| -> Vec<(f64, f64)> {
            let cubic = |t: f64| {
                let t = t.abs();
                if t <= 1.0 { 1.25 * t * t * t - 2.25 * t * t + 1.0 } else { -0.75 * (t * t * t - 5.0 * t * t + 8.0 * t - 4.0) }
            };
            match mode.as_str() {
                "nearest" => vec![(0.0, 1.0)],
                "cubic" => (-1..3).map(|i| (i as f64, cubic(r - i as f64))).collect(),
                _ => vec![(0.0, 1.0 - r), (1.0, r)],
            }
        };
        let mut out = vec![];
        for b in 0..n {
            for k in 0..c {
                for p in 0..oh * ow {
                    let g = &grid.as_slice::<f32>().unwrap()[(b * oh * ow + p) * 2..][..2];
                    let (j, i) = (place(g[0], w), place(g[1], h));
                    let (fi, fj) = if mode == "nearest" { (i.round_ties_even(), j.round_ties_even()) } else { (i.floor(), j.floor()) };
                    let mut sum = 0.0;
                    for (di, wi) in weights(i - fi) {
                        for (dj, wj) in weights(j - fj) {
                            sum += wi * wj * pixel(b, k, fi + di, fj + dj);
                        }
                    }
                    out.push(sum as f32);
                }
            }
        }
        vec![t(&[n, c, oh, ow], &out)]
    }

    fn case() -> Case {
        let grid: Vec<f32> = random(&[2, 5, 6, 2], 2).as_slice::<f32>().unwrap().iter().map(|v| v * 1.7).collect();
        Case::new([random(&[2, 3, 4, 7], 1), t(&[2, 5, 6, 2], &grid)])
    }

    // Positions and weights are computed in f32 of a few units, so that errors are some units in the last place.
    op_tests! { DEF, reference, Tolerance { rel: 1e-4, abs: 1e-5 };
        linear => case();
        linear_border => case().string("padding_mode", "border").string("mode", "linear");
        linear_reflection => case().string("padding_mode", "reflection").int("align_corners", 1);
        nearest => case().string("mode", "nearest");
        nearest_reflection => case().string("mode", "nearest").string("padding_mode", "reflection");
        cubic => case().string("mode", "cubic");
        cubic_border => case().string("mode", "cubic").string("padding_mode", "border").int("align_corners", 1);
    }
}
