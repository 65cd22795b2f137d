//! `Attention`: softmax of scaled products of queries and keys, by which values are weighted, with heads that may share keys and values
//! (grouped queries), a cache of the keys and values of earlier calls, causal and sliding windows, masks and capped scores.
//!
//! Scores are never stored, unless output 3 is asked for, which is then computed for itself. All is computed in f32, whatever
//! `softmax_precision` asks for. A query that sees no key, and one whose scores are all -∞, gets zeros.

use super::{
    heads::{Heads, Layouts, Operands, Rules},
    operands::{Dims, Rows, narrow, widen},
    printed::{Printed, Stage},
};
use crate::{
    carve::{carve, carved},
    movement::index,
};
use alloc::{boxed::Box, format, string::String, vec, vec::Vec};
use millstream_gemm::{KeyWindow, MaskElements};
use millstream_graph::{Arity, BuildCx, BuildError, Cost, Dim, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Scratch, StepCx};
use millstream_tensor::{Bool, DType, Layout, Shape};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Attention",
    since: &[23, 24, 25],
    inputs: Arity::range(3, 7),
    outputs: Arity::range(1, 4),
    attributes: &[
        "is_causal",
        "kv_num_heads",
        "left_window_size",
        "q_num_heads",
        "qk_matmul_output_mode",
        "right_window_size",
        "scale",
        "softcap",
        "softmax_precision",
    ],
    subgraphs: &[],
    dtypes: "f16, bf16, f32",
    build,
};

fn build(cx: &BuildCx<'_>) -> Result<Box<dyn Op>, BuildError> {
    let bad = |name: &'static str, value: i64| BuildError::UnsupportedAttribute { name, value: format!("{value}") };
    let count = |name: &'static str, absent: i64| -> Result<Option<usize>, BuildError> {
        match cx.attributes.int_or(name, absent)? {
            n if n == absent => Ok(None),
            n => usize::try_from(n).map(Some).map_err(|_| bad(name, n)),
        }
    };
    let stage = match cx.attributes.int_or("qk_matmul_output_mode", 0)? {
        0 => Stage::Products,
        1 => Stage::Capped,
        2 => Stage::Masked,
        3 => Stage::Weights,
        other => return Err(bad("qk_matmul_output_mode", other)),
    };
    let precision = cx.attributes.int_or("softmax_precision", 1)?;
    if !matches!(precision, 1 | 10 | 16) {
        return Err(bad("softmax_precision", precision));
    }
    let heads = match (count("q_num_heads", 0)?, count("kv_num_heads", 0)?) {
        (Some(q), Some(kv)) => Some([q, kv]),
        _ => None,
    };
    Ok(Box::new(Attention {
        heads,
        scale: cx.attributes.float("scale")?.copied(),
        cap: cx.attributes.float_or("softcap", 0.0)?,
        causal: cx.attributes.int_or("is_causal", 0)? != 0,
        left: count("left_window_size", -1)?,
        right: count("right_window_size", -1)?,
        stage,
    }))
}

/// Scaled dot-product attention.
#[derive(Debug, Clone, PartialEq)]
pub struct Attention {
    /// Heads of queries, and of keys and values, where operands have three axes.
    heads: Option<[usize; 2]>,
    scale: Option<f32>,
    cap: f32,
    causal: bool,
    left: Option<usize>,
    right: Option<usize>,
    stage: Stage,
}

const MASK: usize = 3;
const PAST: [usize; 2] = [4, 5];
const VALID: usize = 6;

impl Attention {
    /// Heads of queries, and of keys and values, where operands have three axes.
    pub fn heads(&self) -> Option<[usize; 2]> {
        self.heads
    }

    /// The factor of scores; without one, it is 1 by the root of a query's elements.
    pub fn factor(&self) -> Option<f32> {
        self.scale
    }

    /// The bound that scores are capped to; 0 for none.
    pub fn cap(&self) -> f32 {
        self.cap
    }

    /// How many keys before and behind its own a query sees; `None` for all.
    pub fn window(&self) -> [Option<usize>; 2] {
        [self.left, if self.causal { Some(0) } else { self.right }]
    }

    fn dims<'s>(&self, shape: impl Fn(usize) -> Option<&'s Shape>) -> Result<Dims, EvalError> {
        let must = |i: usize| shape(i).ok_or(EvalError::MissingInput(i));
        let past = match (shape(PAST[0]), shape(PAST[1])) {
            (Some(k), Some(v)) => Some([k, v]),
            (None, None) => None,
            _ => return Err(EvalError::Invalid("past keys and past values go together")),
        };
        Dims::new([must(0)?, must(1)?, must(2)?], self.heads, past)
    }

    fn heads_of(&self, dims: &Dims, flat: bool, dense: [bool; 3], mask: Option<&Layout>) -> Result<Heads, EvalError> {
        let keys = dims.keys();
        let seen = mask.map(|m| m.shape().last().copied().unwrap_or(1));
        let copied = |i: usize| dense[i] || !flat;
        let layouts = Layouts {
            q: dims.layout([dims.q_heads, dims.queries, dims.depth], !copied(0))?,
            k: dims.layout([dims.kv_heads, keys, dims.depth], !copied(1))?,
            v: dims.layout([dims.kv_heads, keys, dims.width], !copied(2))?,
            y: dims.layout([dims.q_heads, dims.queries, dims.width], flat)?,
            mask: mask.zip(seen).map(|(m, seen)| (*m, seen)),
            group: dims.group(),
        };
        Heads::new(&layouts)
    }

    /// The keys that queries of each batch element see, whatever the mask says beside its length.
    fn windows(&self, cx: &EvalCx<'_>, dims: &Dims, mask: Option<&Layout>) -> Result<Vec<KeyWindow>, EvalError> {
        let keys = dims.keys();
        let masked = mask.map_or(keys, |m| m.shape().last().copied().unwrap_or(1));
        if masked > keys {
            return Err(EvalError::Invalid("a mask of an attention has more columns than there are keys"));
        }
        let valid = if cx.has(VALID) { Some(index::integers(cx, VALID)?) } else { None };
        if valid.as_ref().is_some_and(|v| v.len() != dims.batch || dims.past > 0) {
            return Err(EvalError::Invalid("numbers of valid keys are one for each batch element, and go without past keys"));
        }
        let window = |n: usize| -> Result<KeyWindow, EvalError> {
            let (valid, offset) = match &valid {
                None => (keys, dims.past as isize),
                Some(valid) => {
                    let count = usize::try_from(valid[n]).ok().filter(|&count| count <= keys);
                    let count = count.ok_or(EvalError::Element { what: "there are not so many keys", value: valid[n] })?;
                    (count, count as isize - dims.queries as isize)
                }
            };
            let [left, right] = self.window();
            Ok(KeyWindow {
                keys: valid.min(masked),
                first: left.map(|left| offset.saturating_sub_unsigned(left)),
                last: right.map(|right| offset.saturating_add_unsigned(right)),
            })
        };
        (0..dims.batch).map(window).collect()
    }

    fn scale(&self, dims: &Dims) -> f32 {
        self.scale.unwrap_or_else(|| 1.0 / libm::sqrtf(dims.depth as f32))
    }

    fn step(&self, cx: &StepCx<'_>) -> Result<(Dims, Heads, [usize; 5]), EvalError> {
        let dims = self.dims(|i| cx.input_shape(i))?;
        let spec = |i: usize| cx.inputs.get(i).and_then(|s| s.as_ref());
        let flat = cx.input_shape(0).is_some_and(|s| s[..].len() == 3);
        let lens = lens(&dims, |i| spec(i).map(|s| s.dtype), spec(MASK).map_or(0, |s| s.shape().elements()));
        let heads = self.heads_of(&dims, flat, [lens[0] > 0, lens[1] > 0, lens[2] > 0], spec(MASK).map(|s| &s.layout))?;
        Ok((dims, heads, lens))
    }
}

/// Elements of f32 copies: of queries, keys, values, a mask, and the output.
fn lens(dims: &Dims, dtype: impl Fn(usize) -> Option<DType>, mask: usize) -> [usize; 5] {
    let narrow = |i: usize| dtype(i) != Some(DType::F32);
    let (q, kv) = (dims.batch * dims.q_heads * dims.queries, dims.batch * dims.kv_heads * dims.keys());
    let joined = dtype(PAST[0]).is_some();
    let masked = dtype(MASK).is_some_and(|d| d != DType::F32 && d != DType::Bool);
    let when = |yes: bool, n: usize| if yes { n } else { 0 };
    [
        when(narrow(0), q * dims.depth),
        when(narrow(1) || joined, kv * dims.depth),
        when(narrow(2) || joined, kv * dims.width),
        when(masked, mask),
        when(narrow(0), q * dims.width),
    ]
}

impl Op for Attention {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let (q, k, v) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
        let split = |i: usize, heads: Option<usize>| -> Result<[Dim; 4], InferError> {
            let fact = cx.input(i)?;
            if !matches!(fact.dtype, DType::F16 | DType::BF16 | DType::F32) {
                return Err(InferError::DType { input: i, found: fact.dtype });
            }
            match (&fact.dims[..], heads) {
                ([b, h, l, d], _) => Ok([b.clone(), h.clone(), l.clone(), d.clone()]),
                ([b, l, d], Some(heads)) => {
                    let heads = Dim::from(heads as i64);
                    Ok([b.clone(), heads.clone(), l.clone(), d.div_floor(&heads)])
                }
                (dims, _) => Err(InferError::Rank { input: i, found: dims.len(), wanted: "four axes, or three and the numbers of heads, are expected" }),
            }
        };
        if k.rank() != q.rank() || v.rank() != q.rank() {
            return Err(InferError::Invalid("queries, keys and values have the same number of axes"));
        }
        let [batch, q_heads, queries, depth] = split(0, self.heads.map(|h| h[0]))?;
        let [_, kv_heads, new, _] = split(1, self.heads.map(|h| h[1]))?;
        let [.., width] = split(2, self.heads.map(|h| h[1]))?;
        if cx.optional(PAST[0]).is_some() != cx.optional(PAST[1]).is_some() {
            return Err(InferError::Invalid("past keys and past values go together"));
        }
        let mut keys = new;
        for (i, like) in [(PAST[0], k), (PAST[1], v)] {
            let Some(past) = cx.optional(i) else { continue };
            if past.dtype != like.dtype {
                return Err(InferError::DType { input: i, found: past.dtype });
            }
            if past.rank() != 4 {
                return Err(InferError::Rank { input: i, found: past.rank(), wanted: "four axes are expected" });
            }
            if i == PAST[0] {
                keys = keys.add(&past.dims[2]);
            }
        }
        if let Some(mask) = cx.optional(MASK)
            && mask.dtype != DType::Bool
            && mask.dtype != q.dtype
        {
            return Err(InferError::DType { input: MASK, found: mask.dtype });
        }
        let y = match q.rank() {
            3 => vec![batch.clone(), queries.clone(), q_heads.mul(&width)],
            _ => vec![batch.clone(), q_heads.clone(), queries.clone(), width.clone()],
        };
        let present = |dtype, cols: Dim| Fact::new(dtype, vec![batch.clone(), kv_heads.clone(), keys.clone(), cols]);
        let scores = Fact::new(q.dtype, vec![batch.clone(), q_heads, queries, keys.clone()]);
        let all = [Fact::new(q.dtype, y), present(k.dtype, depth), present(v.dtype, width), scores];
        Ok(all.into_iter().take(cx.outputs.max(1)).collect())
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let specs: Vec<_> = (0..7).map(|i| cx.spec(i)).collect();
        let dims = self.dims(|i| specs[i].as_ref().map(|s| s.shape()))?;
        let flat = specs[0].as_ref().is_some_and(|s| s.shape()[..].len() == 3);
        let mask = if cx.has(MASK) { Some(cx.tensor(MASK)?) } else { None };
        let lens = lens(&dims, |i| specs[i].as_ref().map(|s| s.dtype), mask.map_or(0, |m| m.shape().elements()));
        let windows = self.windows(cx, &dims, mask.as_ref().map(|m| m.layout()))?;
        let mut memory = cx.scratch();
        let mut copies = [&mut [][..], &mut [], &mut [], &mut [], &mut []];
        for (copy, len) in copies.iter_mut().zip(lens) {
            *copy = carve::<f32>(&mut memory, len).ok_or(EvalError::Invalid("an attention has less memory than it planned"))?;
        }
        let [q_copy, k_copy, v_copy, mask_copy, y_copy] = copies;
        let past = |i: usize| if cx.has(i) { cx.tensor(i).map(Some) } else { Ok(None) };
        let new = |heads, rows, cols| dims.layout([heads, rows, cols], flat);
        let q = Rows { past: None, new: cx.tensor(0)?, layout: new(dims.q_heads, dims.queries, dims.depth)? };
        let k = Rows { past: past(PAST[0])?, new: cx.tensor(1)?, layout: new(dims.kv_heads, dims.new, dims.depth)? };
        let v = Rows { past: past(PAST[1])?, new: cx.tensor(2)?, layout: new(dims.kv_heads, dims.new, dims.width)? };
        for (i, rows) in [(1, &k), (2, &v)] {
            if cx.wants(i) {
                let present = cx.output_tensor(i)?;
                by_dtype!(scales, rows.dtype(), T => rows.copy::<T>(cx, present.typed::<T>()?.into_data()))?;
            }
        }
        let mask_elements = match mask {
            None => None,
            Some(m) if m.dtype() == DType::Bool => Some(MaskElements::Visible(m.typed::<Bool>()?.data())),
            Some(m) if mask_copy.is_empty() => Some(MaskElements::Added(m.typed::<f32>()?.data())),
            Some(m) => {
                widen(m, mask_copy)?;
                Some(MaskElements::Added(mask_copy))
            }
        };
        let dense = [!q_copy.is_empty(), !k_copy.is_empty(), !v_copy.is_empty()];
        let operands = Operands { q: f32s(cx, &q, q_copy)?, k: f32s(cx, &k, k_copy)?, v: f32s(cx, &v, v_copy)?, mask: mask_elements };
        let heads = self.heads_of(&dims, flat, dense, mask.as_ref().map(|m| m.layout()))?;
        let window = |head: usize| windows[head / dims.q_heads.max(1)];
        let rules = Rules { scale: self.scale(&dims), cap: self.cap, blind_is_zero: true, window };
        if cx.wants(3) {
            let scores = cx.output_tensor(3)?;
            let printed = Printed { heads: &heads, operands: &operands, rules: &rules, stage: self.stage };
            by_dtype!(scales, scores.dtype(), T => printed.write::<T>(cx, scores.typed::<T>()?.into_data()))?;
        }
        if !cx.wants(0) {
            return Ok(());
        }
        let y = cx.output_tensor(0)?;
        if y.dtype() == DType::F32 {
            return heads.run(cx, &operands, &rules, y.typed::<f32>()?.into_data());
        }
        heads.run(cx, &operands, &rules, y_copy)?;
        by_dtype!(scales, y.dtype(), T => narrow::<T>(cx, y_copy, y.typed::<T>()?.into_data()))
    }

    fn scratch(&self, cx: &StepCx<'_>) -> Scratch {
        let Ok((dims, heads, lens)) = self.step(cx) else { return Scratch::default() };
        let Scratch { shared, per_worker } = heads.scratch(cx.level);
        let row = if cx.outputs.len() > 3 { carved::<f32>(dims.keys()) } else { 0 };
        Scratch { shared: lens.map(carved::<f32>).into_iter().fold(shared, usize::saturating_add), per_worker: per_worker.max(row) }
    }

    fn cost(&self, cx: &StepCx<'_>) -> Cost {
        let base = cx.elementwise_cost();
        Cost { flops: self.step(cx).map_or(base.flops, |(_, heads, _)| heads.flops()), ..base }
    }

    fn kernel(&self, cx: &StepCx<'_>) -> String {
        let few = self.step(cx).is_ok_and(|(_, heads, _)| heads.are_few());
        format!("attention-{}-{}", if few { "few" } else { "rows" }, cx.level.vectors())
    }
}

/// The rows as f32: where they lie, or their copy.
fn f32s<'a>(cx: &EvalCx<'_>, rows: &Rows<'a>, copy: &'a mut [f32]) -> Result<&'a [f32], EvalError> {
    if copy.is_empty() {
        // Nothing to copy: either f32 in one part, or no elements at all.
        return if rows.dtype() == DType::F32 { Ok(rows.new.typed::<f32>()?.data()) } else { Ok(&[]) };
    }
    rows.widen(cx, copy)?;
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, from_reals, random, reals, spread, t};
    use millstream_tensor::Tensor;

    /// `[batch, heads, rows, cols]` of a tensor of three or four axes, and its dims.
    fn split(x: &Tensor, heads: usize) -> (Vec<f64>, [usize; 4]) {
        let values = reals(x);
        match x.shape()[..] {
            [b, h, l, d] => (values, [b, h, l, d]),
            [b, l, all] => {
                let d = all / heads;
                let at = |n: usize, h: usize, i: usize, c: usize| values[(n * l + i) * all + h * d + c];
                let mut out = vec![];
                for (n, h, i) in (0..b).flat_map(|n| (0..heads).flat_map(move |h| (0..l).map(move |i| (n, h, i)))) {
                    out.extend((0..d).map(|c| at(n, h, i, c)));
                }
                (out, [b, heads, l, d])
            }
            _ => panic!("three or four axes"),
        }
    }

    fn joined(x: &Tensor, heads: usize, past: Option<&Tensor>) -> (Vec<f64>, [usize; 4]) {
        let (new, [b, h, l, d]) = split(x, heads);
        let Some(past) = past else { return (new, [b, h, l, d]) };
        let (old, p) = (reals(past), past.shape()[2]);
        let mut out = vec![];
        for n in 0..b * h {
            out.extend(&old[n * p * d..(n + 1) * p * d]);
            out.extend(&new[n * l * d..(n + 1) * l * d]);
        }
        (out, [b, h, p + l, d])
    }

    fn reference(case: &Case) -> Vec<Tensor> {
        let count = |name: &str| case.int_or(name, 0) as usize;
        let dtype = case.tensor(0).dtype();
        let (q, [b, h, l, d]) = split(case.tensor(0), count("q_num_heads"));
        let (k, kd) = joined(case.tensor(1), count("kv_num_heads"), case.optional(4));
        let (v, vd) = joined(case.tensor(2), count("kv_num_heads"), case.optional(5));
        let [_, shared, keys, w] = vd;
        let scale = case.float_or("scale", 1.0 / (d as f32).sqrt());
        let (cap, mode) = (case.float_or("softcap", 0.0), case.int_or("qk_matmul_output_mode", 0));
        let (left, right) = (case.int_or("left_window_size", -1), case.int_or("right_window_size", -1));
        let right = if case.int_or("is_causal", 0) != 0 { 0 } else { right };
        let valid = case.optional(6).map(|v| v.as_slice::<i64>().unwrap().to_vec());
        let mask = case.optional(3).map(|m| {
            let mut dims = vec![1; 4 - m.shape()[..].len()];
            dims.extend(&m.shape()[..]);
            let values: Vec<f64> = match m.dtype() {
                DType::Bool => m.as_slice::<Bool>().unwrap().iter().map(|&x| if bool::from(x) { 0.0 } else { f64::NEG_INFINITY }).collect(),
                _ => reals(m),
            };
            (values, dims)
        });
        let bias = |n: usize, head: usize, i: usize, j: usize| {
            let offset = valid.as_ref().map_or((keys - case.tensor(1).shape()[case.tensor(1).shape()[..].len() - 2]) as i64, |v| v[n] - l as i64);
            let distance = j as i64 - (i as i64 + offset);
            if (right >= 0 && distance > right) || (left >= 0 && -distance > left) || valid.as_ref().is_some_and(|v| j as i64 >= v[n]) {
                return f64::NEG_INFINITY;
            }
            let Some((values, dims)) = &mask else { return 0.0 };
            if j >= dims[3] {
                return f64::NEG_INFINITY;
            }
            let at = [n, head, i].iter().zip(dims).fold(0, |at, (&i, &d)| at * d + if d == 1 { 0 } else { i });
            values[at * dims[3] + j]
        };
        let (mut y, mut printed) = (vec![0.0; b * h * l * w], vec![]);
        for (n, head, i) in (0..b).flat_map(|n| (0..h).flat_map(move |head| (0..l).map(move |i| (n, head, i)))) {
            let row = (n * h + head) * l + i;
            let other = n * shared + head / (h / shared);
            let dot = |j: usize| (0..d).map(|c| q[row * d + c] * k[(other * keys + j) * d + c]).sum::<f64>() * scale;
            let capped = |j: usize| if cap == 0.0 { dot(j) } else { cap * (dot(j) / cap).tanh() };
            let masked: Vec<f64> = (0..keys).map(|j| capped(j) + bias(n, head, i, j)).collect();
            let greatest = masked.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let powers: Vec<f64> = masked.iter().map(|s| if greatest == f64::NEG_INFINITY { 0.0 } else { (s - greatest).exp() }).collect();
            let sum: f64 = powers.iter().sum();
            let weights: Vec<f64> = powers.iter().map(|p| if sum == 0.0 { 0.0 } else { p / sum }).collect();
            let flat = case.tensor(0).shape()[..].len() == 3;
            let at = if flat { (n * l + i) * h + head } else { row };
            (0..w).for_each(|c| y[at * w + c] = (0..keys).map(|j| weights[j] * v[(other * keys + j) * w + c]).sum());
            printed.extend((0..keys).map(|j| match mode {
                0 => dot(j),
                1 => capped(j),
                2 => masked[j],
                _ => weights[j],
            }));
        }
        let y_dims = if case.tensor(0).shape()[..].len() == 3 { vec![b, l, h * w] } else { vec![b, h, l, w] };
        let all = [
            from_reals(dtype, &y_dims, &y),
            from_reals(case.tensor(1).dtype(), &kd, &k),
            from_reals(case.tensor(2).dtype(), &vd, &v),
            from_reals(dtype, &[b, h, l, keys], &printed),
        ];
        all.into_iter().take(case.outputs).collect()
    }

    /// Queries `[b, h, l, d]`, keys and values `[b, shared, s, d]`.
    fn case([b, h, shared, l, s, d]: [usize; 6]) -> Case {
        Case::new([random(&[b, h, l, d], 1), random(&[b, shared, s, d], 2), random(&[b, shared, s, d + 3], 3)])
    }

    /// The same in three axes.
    fn flat([b, h, shared, l, s, d]: [usize; 6]) -> Case {
        let case = Case::new([random(&[b, l, h * d], 1), random(&[b, s, shared * d], 2), random(&[b, s, shared * (d + 3)], 3)]);
        case.int("q_num_heads", h as i64).int("kv_num_heads", shared as i64)
    }

    /// With so many past keys, present ones as outputs.
    fn continued(case: Case, [b, _, shared, _, _, d]: [usize; 6], past: usize) -> Case {
        let case = if case.inputs.len() == 3 { case.input(None) } else { case };
        case.input(random(&[b, shared, past, d], 4)).input(random(&[b, shared, past, d + 3], 5)).outputs(3)
    }

    fn shown(dims: &[usize]) -> Tensor {
        let n: usize = dims.iter().product();
        t(dims, &(0..n).map(|i| Bool::from(i % 5 != 2 && i % 7 != 0)).collect::<Vec<_>>())
    }

    fn half(case: Case) -> Case {
        let inputs = case.inputs.iter().map(|x| x.as_ref().map(|x| spread(DType::F16, x.as_tensor().unwrap().shape(), 1.0, 7).into())).collect();
        Case { inputs, ..case }
    }

    const SMALL: [usize; 6] = [2, 4, 4, 9, 11, 8];
    const SHARED: [usize; 6] = [2, 6, 2, 9, 11, 8];
    const STEP: [usize; 6] = [2, 6, 2, 1, 1, 16];
    const LONG: [usize; 6] = [1, 2, 1, 70, 1100, 20];

    op_tests! { DEF, reference, Tolerance { rel: 1e-5, abs: 3e-6 };
        plain => case(SMALL);
        three_axes => flat(SMALL);
        grouped => case(SHARED);
        grouped_three_axes => flat(SHARED).float("scale", 0.3);
        one_head_for_all => case([1, 5, 1, 12, 30, 8]);
        causal => case(SMALL).int("is_causal", 1);
        capped => case(SMALL).float("softcap", 0.4);
        capped_and_masked => case(SHARED).float("softcap", 0.4).input(random(&[2, 1, 9, 11], 9));
        mask_of_two_axes => case(SMALL).input(random(&[9, 11], 9));
        mask_of_three_axes => case(SMALL).input(random(&[4, 9, 11], 9)).int("is_causal", 1);
        mask_of_truth => flat(SHARED).input(shown(&[9, 11]));
        mask_of_truth_for_all_queries => case(SHARED).input(shown(&[2, 1, 1, 11]));
        short_mask => case(SMALL).input(random(&[9, 7], 9));
        nothing_is_shown => case(SMALL).input(t(&[1, 11], &[Bool::from(false); 11]));
        a_step => continued(case(STEP), STEP, 40).int("is_causal", 1);
        a_step_in_three_axes => continued(flat(STEP), STEP, 40);
        a_step_with_a_mask => continued(flat(STEP).input(random(&[2, 6, 1, 41], 9)), STEP, 40);
        a_first_step => flat(STEP);
        three_steps => continued(case([1, 8, 2, 3, 3, 64]), [1, 8, 2, 3, 3, 64], 90).int("is_causal", 1).float("softcap", 2.0);
        a_long_cache => continued(case(LONG), LONG, 500).int("is_causal", 1);
        a_window => continued(flat([1, 4, 2, 30, 30, 8]), [1, 4, 2, 30, 30, 8], 10).int("is_causal", 1).int("left_window_size", 6);
        a_window_to_both_sides => case([1, 2, 2, 40, 40, 8]).int("left_window_size", 3).int("right_window_size", 5);
        a_window_far_on => continued(case([1, 4, 2, 1, 1, 8]), [1, 4, 2, 1, 1, 8], 1500).int("left_window_size", 100);
        valid_keys => case(SMALL).input(None).input(None).input(None).input(t(&[2], &[3i64, 11]));
        valid_keys_causal => flat(SHARED).int("is_causal", 1).input(None).input(None).input(None).input(t(&[2], &[4i64, 10]));
        valid_keys_of_a_step => case([3, 6, 2, 1, 50, 16]).input(None).input(None).input(None).input(t(&[3], &[50i64, 0, 17]));
        scores => case(SMALL).outputs(4).float("softcap", 0.5);
        scores_capped => continued(flat(SHARED), SHARED, 3).outputs(4).float("softcap", 0.5).int("qk_matmul_output_mode", 1);
        scores_masked => case(SHARED).input(shown(&[9, 11])).outputs(4).int("is_causal", 1).int("qk_matmul_output_mode", 2);
        weights => case(SHARED).input(random(&[9, 7], 9)).outputs(4).int("qk_matmul_output_mode", 3);
        no_queries => case([2, 4, 2, 0, 5, 8]);
        no_keys => case([2, 4, 2, 3, 0, 8]);
    }

    mod halves {
        use super::*;

        // Elements and results are rounded to eleven bits.
        op_tests! { DEF, reference, Tolerance { rel: 1e-3, abs: 1e-3 };
            plain => half(case(SMALL));
            masked => half(case(SHARED).input(random(&[9, 11], 9)));
            a_step => half(continued(flat(STEP), STEP, 40)).int("is_causal", 1);
            scores => half(case(SMALL)).outputs(4).int("qk_matmul_output_mode", 3);
        }
    }
}
