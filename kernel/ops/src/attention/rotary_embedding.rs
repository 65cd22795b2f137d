//! `RotaryEmbedding`: pairs of elements of each head turned by angles that grow with the position (RoPE, arXiv 2104.09864). The pairs are
//! the halves of the first `rotary_embedding_dim` elements, or neighbours where `interleaved`; the elements after them stay.

use crate::{grains, movement::index, numeric::Number};
use alloc::{boxed::Box, format, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, BuildError, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef};
use millstream_simd::dispatch;
use millstream_tensor::{DType, Element, Shape, tile::Tiles};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "RotaryEmbedding",
    since: &[23],
    inputs: Arity::range(3, 4),
    outputs: Arity::exactly(1),
    attributes: &["interleaved", "num_heads", "rotary_embedding_dim"],
    subgraphs: &[],
    dtypes: "f16, bf16, f32",
    build: |cx: &BuildCx<'_>| {
        let count = |name| -> Result<usize, BuildError> {
            let n = cx.attributes.int_or(name, 0)?;
            usize::try_from(n).map_err(|_| BuildError::UnsupportedAttribute { name, value: format!("{n}") })
        };
        let turned = count("rotary_embedding_dim")?;
        if !turned.is_multiple_of(2) {
            return Err(BuildError::UnsupportedAttribute { name: "rotary_embedding_dim", value: format!("{turned}") });
        }
        Ok(Box::new(RotaryEmbedding { neighbours: cx.attributes.flag_or("interleaved", false)?, heads: count("num_heads")?, turned }))
    },
};

/// Pairs of elements turned by their positions' angles.
#[derive(Debug, Clone, Copy)]
pub struct RotaryEmbedding {
    /// Pairs are neighbours, not halves.
    neighbours: bool,
    /// Heads of a tensor of three axes.
    heads: usize,
    /// Elements of a head that are turned; 0 for all.
    turned: usize,
}

/// Dims of one run.
struct Dims {
    batch: usize,
    heads: usize,
    length: usize,
    /// Elements of a head.
    depth: usize,
    /// Pairs of them.
    pairs: usize,
    /// Heads lie side by side at each position, not below each other.
    side_by_side: bool,
}

impl RotaryEmbedding {
    /// True if pairs are neighbours, not halves.
    pub fn pairs_are_neighbours(&self) -> bool {
        self.neighbours
    }

    /// Heads of a tensor of three axes.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// Elements of a head that are turned; 0 for all.
    pub fn turned(&self) -> usize {
        self.turned
    }

    fn dims(&self, x: &Shape) -> Result<Dims, EvalError> {
        let (side_by_side, [batch, heads, length, depth]) = match x[..] {
            [b, h, l, d] => (false, [b, h, l, d]),
            [b, l, all] if self.heads > 0 && all.is_multiple_of(self.heads) => (true, [b, self.heads, l, all / self.heads]),
            _ => return Err(EvalError::Invalid("four axes, or three and a number of heads that divides the last, are expected")),
        };
        let turned = if self.turned == 0 { depth } else { self.turned };
        if turned > depth || !turned.is_multiple_of(2) {
            return Err(EvalError::Invalid("a head has not as many elements as are to be turned, or an odd number of them"));
        }
        Ok(Dims { batch, heads, length, depth, pairs: turned / 2, side_by_side })
    }

    fn turn<T: Number + Element>(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let x = if cx.in_place(0).is_some() { None } else { Some(cx.input::<T>(0)?.data()) };
        let (cos, sin) = (cx.input::<T>(1)?, cx.input::<T>(2)?);
        let (dims, level) = (self.dims(cx.output_spec(0).ok_or(EvalError::Output(0))?.shape())?, cx.level());
        let places = dims.batch * dims.length;
        // The row of angles of each position of each batch element.
        let rows = if cx.has(3) { index::indices(cx, 3, cos.shape().first().copied().unwrap_or(0))? } else { (0..places).collect() };
        let wanted = if cx.has(3) { cos.shape()[..].len() == 2 } else { cos.shape()[..] == [dims.batch, dims.length, dims.pairs] };
        if !wanted || sin.shape() != cos.shape() || cos.shape().last() != Some(&dims.pairs) || rows.len() != places {
            return Err(EvalError::Invalid("the angles, or the positions, do not fit what is to be turned"));
        }
        let (cos, sin) = (cos.data(), sin.data());
        let y = cx.output::<T>(0)?.into_data();
        if y.is_empty() {
            return Ok(());
        }
        let each = grains::rows(places * dims.heads, dims.depth, 4);
        let tiles = Tiles::rows(y, dims.depth, each).ok_or(EvalError::Output(0))?;
        cx.parallel(tiles.count(), |grain, _| {
            let mut tile = tiles.claim(grain)?;
            for (i, y) in tile.as_slice()?.chunks_exact_mut(dims.depth).enumerate() {
                let row = grain * each + i;
                if let Some(x) = x {
                    y.copy_from_slice(x.get(row * dims.depth..)?.get(..dims.depth)?);
                }
                let place = if dims.side_by_side { row / dims.heads } else { row / (dims.heads * dims.length) * dims.length + row % dims.length };
                let angles = rows[place] * dims.pairs;
                let (cos, sin) = (cos.get(angles..)?.get(..dims.pairs)?, sin.get(angles..)?.get(..dims.pairs)?);
                let y = &mut y[..2 * dims.pairs];
                match self.neighbours {
                    true => y.chunks_exact_mut(2).zip(cos.iter().zip(sin)).for_each(|(pair, (&cos, &sin))| {
                        let [a, b] = pair else { return };
                        (*a, *b) = turned(*a, *b, cos, sin);
                    }),
                    false => dispatch!(level, _s => halves(y, cos, sin)),
                }
            }
            Some(())
        })
    }
}

/// Turns pairs of which the second elements lie behind all the first.
#[inline(always)]
fn halves<T: Number>(y: &mut [T], cos: &[T], sin: &[T]) {
    let (first, second) = y.split_at_mut(cos.len());
    for (((a, b), &cos), &sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        (*a, *b) = turned(*a, *b, cos, sin);
    }
}

/// In f32, whatever the type.
#[inline(always)]
fn turned<T: Number>(a: T, b: T, cos: T, sin: T) -> (T, T) {
    let [a, b, cos, sin] = [a, b, cos, sin].map(|x| x.to_f64() as f32);
    (T::from_f64(f64::from(cos * a - sin * b)), T::from_f64(f64::from(sin * a + cos * b)))
}

impl Op for RotaryEmbedding {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let x = cx.input(0)?;
        for i in 0..3 {
            let dtype = cx.input(i)?.dtype;
            if !matches!(dtype, DType::F16 | DType::BF16 | DType::F32) || dtype != x.dtype {
                return Err(InferError::DType { input: i, found: dtype });
            }
        }
        Ok(vec![Fact::new(x.dtype, x.dims.clone())])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let dtype = cx.dtype(1)?;
        by_dtype!(scales, dtype, T => self.turn::<T>(cx))
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, from_reals, random, reals, spread, t};
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        let x = case.tensor(0);
        let (flat, [b, h, l, d]) = match x.shape()[..] {
            [b, h, l, d] => (false, [b, h, l, d]),
            [b, l, all] => (true, [b, case.int_or("num_heads", 0) as usize, l, all / case.int_or("num_heads", 0) as usize]),
            _ => panic!("three or four axes"),
        };
        let (cos, sin, mut y) = (reals(case.tensor(1)), reals(case.tensor(2)), reals(x));
        let pairs = *case.tensor(1).shape().last().unwrap();
        for (n, head, i, p) in (0..b).flat_map(|n| (0..h).flat_map(move |head| (0..l).flat_map(move |i| (0..pairs).map(move |p| (n, head, i, p))))) {
            let start = if flat { (n * l + i) * h + head } else { (n * h + head) * l + i } * d;
            let row = case.optional(3).map_or(n * l + i, |ids| ids.as_slice::<i64>().unwrap()[n * l + i] as usize);
            let (a, b) = if case.int_or("interleaved", 0) == 1 { (2 * p, 2 * p + 1) } else { (p, pairs + p) };
            let (first, second) = (y[start + a], y[start + b]);
            let (cos, sin) = (cos[row * pairs + p], sin[row * pairs + p]);
            (y[start + a], y[start + b]) = (cos * first - sin * second, sin * first + cos * second);
        }
        vec![from_reals(x.dtype(), x.shape(), &y)]
    }

    fn case(x: &[usize], angles: &[usize]) -> Case {
        Case::new([random(x, 1), random(angles, 2), random(angles, 3)])
    }

    fn placed(x: &[usize], pairs: usize) -> Case {
        let places = x[0] * if x.len() == 4 { x[2] } else { x[1] };
        let ids: Vec<i64> = (0..places as i64).map(|i| i * 7 % 50).collect();
        case(x, &[50, pairs]).input(t(&[x[0], places / x[0]], &ids))
    }

    op_tests! { DEF, reference, Tolerance { rel: 2e-6, abs: 5e-7 };
        plain => case(&[2, 4, 3, 16], &[2, 3, 8]);
        placed_by_ids => placed(&[2, 4, 3, 16], 8);
        three_axes => placed(&[2, 3, 64], 8).int("num_heads", 4);
        neighbours => placed(&[2, 4, 3, 16], 8).int("interleaved", 1);
        some_of_them => placed(&[2, 4, 3, 16], 3).int("rotary_embedding_dim", 6);
        some_neighbours => case(&[2, 3, 64], &[2, 3, 3]).int("num_heads", 4).int("interleaved", 1).int("rotary_embedding_dim", 6);
        large => placed(&[2, 12, 70, 64], 32);
        f16s => Case::new([spread(DType::F16, &[1, 2, 3, 8], 1.0, 1), spread(DType::F16, &[1, 3, 4], 1.0, 2), spread(DType::F16, &[1, 3, 4], 1.0, 3)]);
        empty => case(&[2, 4, 0, 16], &[2, 0, 8]);
    }
}
