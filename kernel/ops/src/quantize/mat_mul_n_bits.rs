//! `com.microsoft.MatMulNBits`: `A · Bᵀ + bias`, where B has `bits` bits an element: `(q - zero) · scale`, with a scale and a zero point for
//! each block of `block_size` columns of each of its `N` rows.
//!
//! ```text
//! B       [N, blocks, block_size · bits / 8]  u8; 4 bits: element 2 i of a block in the low half of byte i, 2 i + 1 in the high one
//! scales  [N · blocks]                        of A's type
//! zeros   [N · ceil(blocks · bits / 8)]       u8, packed as B; without them 2^(bits - 1)
//! ```
//! B stays as narrow as it is in plans: constants are packed for [`BlockGemm`], which widens them in registers or, for many rows of A, a
//! panel at a time. What is no constant is widened a column at a time. Sums are f32 whatever `accuracy_level` allows.
//!
//! Taken: 4 and 8 bits, blocks of 16 or a multiple of 32. Not taken: reordered columns (`g_idx`), zero points that are floats.

use crate::carve::{carve, carved};
use alloc::{boxed::Box, format, string::String, sync::Arc, vec, vec::Vec};
use millstream_gemm::{Activation, BlockBits, BlockCodes, BlockGemm, BlockScales, BlockZeros, Blocks, Epilogue, GemmError, Residual};
use millstream_graph::{Arity, BuildCx, BuildError, Cost, Dim, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Packed, PrepackCx, Scratch, StepCx};
use millstream_simd::dispatch;
use millstream_tensor::{DType, TensorError, TensorView, bf16, f16, tile::Tiles};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "com.microsoft",
    name: "MatMulNBits",
    since: &[1],
    inputs: Arity::range(3, 6),
    outputs: Arity::exactly(1),
    attributes: &["K", "N", "bits", "block_size", "accuracy_level", "weight_prepacked"],
    subgraphs: &[],
    dtypes: "f32, f16, bf16, with u8",
    build: |cx: &BuildCx<'_>| {
        let unsupported = |name, value: i64| BuildError::UnsupportedAttribute { name, value: format!("{value}") };
        let size = |name| {
            let value = cx.attributes.int_or(name, 0)?;
            usize::try_from(value).ok().filter(|&v| v > 0 && v < 1 << 31).ok_or_else(|| unsupported(name, value))
        };
        let bits = match cx.attributes.int_or("bits", 4)? {
            4 => BlockBits::Four,
            8 => BlockBits::Eight,
            other => return Err(unsupported("bits", other)),
        };
        if let prepacked @ 1.. = cx.attributes.int_or("weight_prepacked", 0)? {
            return Err(unsupported("weight_prepacked", prepacked));
        }
        let (k, n, block) = (size("K")?, size("N")?, size("block_size")?);
        MatMulNBits::new(k, n, bits, block).map(|op| Box::new(op) as Box<dyn Op>).ok_or_else(|| unsupported("block_size", block as i64))
    },
};

/// The input of the scales, and those behind it.
pub const SCALES: usize = 2;
/// The input of the zero points.
pub const ZEROS: usize = 3;
/// The input that would reorder columns.
const ORDER: usize = 4;
/// The input of the bias.
pub const BIAS: usize = 5;
/// The input of the residual, where the product has one.
pub const RESIDUAL: usize = 6;

/// A product with weights of few bits, and what follows it: `activation(A Bᵀ + bias + residual)`.
#[derive(Debug, Clone, Copy)]
pub struct MatMulNBits {
    k: usize,
    n: usize,
    bits: BlockBits,
    block: usize,
    activation: Activation,
    residual: bool,
}

impl MatMulNBits {
    /// A product with an n × k matrix of which `block` elements of a row share a scale; `None` for blocks that no kernel takes.
    pub fn new(k: usize, n: usize, bits: BlockBits, block: usize) -> Option<MatMulNBits> {
        let taken = block == 16 || block.is_multiple_of(32) && block > 0;
        taken.then_some(MatMulNBits { k, n, bits, block, activation: Activation::None, residual: false })
    }

    /// The weight's columns and rows.
    pub fn dims(&self) -> [usize; 2] {
        [self.k, self.n]
    }

    /// How many bits an element has.
    pub fn bits(&self) -> BlockBits {
        self.bits
    }

    /// How many elements of a row share a scale.
    pub fn block(&self) -> usize {
        self.block
    }

    /// What follows the product.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// True if input [`RESIDUAL`] is added before the activation.
    pub fn has_residual(&self) -> bool {
        self.residual
    }

    /// The same product with a residual; `None` if it has one already, or an activation before it.
    pub fn with_residual(&self) -> Option<MatMulNBits> {
        (!self.residual && self.activation == Activation::None).then_some(MatMulNBits { residual: true, ..*self })
    }

    /// The same product followed by an activation; `None` if it has one already.
    pub fn with_activation(&self, activation: Activation) -> Option<MatMulNBits> {
        (self.activation == Activation::None).then_some(MatMulNBits { activation, ..*self })
    }

    fn blocks(&self) -> usize {
        self.k.div_ceil(self.block)
    }

    /// Bytes of a block, and of the zero points of a row.
    fn widths(&self) -> [usize; 2] {
        match self.bits {
            BlockBits::Four => [self.block / 2, self.blocks().div_ceil(2)],
            BlockBits::Eight => [self.block, self.blocks()],
        }
    }

    /// How many elements an input has, whatever its dims.
    fn elements(&self, input: usize) -> usize {
        let [blob, zeros] = self.widths();
        let each = match input {
            1 => self.blocks().saturating_mul(blob),
            SCALES => self.blocks(),
            ZEROS => zeros,
            _ => 1,
        };
        self.n.saturating_mul(each)
    }

    /// The integer at `i` of row `j` of B or of the zero points, `row` bytes each.
    fn integer(&self, bytes: &[u8], row: usize, i: usize, j: usize) -> i8 {
        match self.bits {
            BlockBits::Four => (bytes[j * row + i / 2] >> (i % 2 * 4) & 15) as i8,
            BlockBits::Eight => (bytes[j * row + i] ^ 128) as i8,
        }
    }

    fn code(&self, bytes: &[u8], i: usize, j: usize) -> i8 {
        // Blocks are whole bytes, so that they follow each other.
        self.integer(bytes, self.blocks() * self.widths()[0], i, j)
    }

    fn zero(&self, bytes: &[u8], block: usize, j: usize) -> i8 {
        self.integer(bytes, self.widths()[1], block, j)
    }

    fn rows(&self, cx: &StepCx<'_>) -> usize {
        cx.outputs.first().map_or(0, |y| y.shape().elements() / self.n)
    }
}

macro_rules! packed {
    ($($(#[$doc:meta])* $name:ident of $parts:ident),*) => {
        $(
            $(#[$doc])*
            #[derive(Debug)]
            struct $name($parts);

            impl Packed for $name {
                fn bytes_len(&self) -> usize {
                    self.0.bytes()
                }
            }
        )*
    };
}
packed! {
    /// B.
    Codes of BlockCodes,
    /// Its scales.
    Scales of BlockScales,
    /// Its zero points.
    Zeros of BlockZeros
}

/// Numbers that are computed as f32.
trait Real: millstream_tensor::Element {
    fn wide(self) -> f32;
    fn narrow(x: f32) -> Self;
}

macro_rules! real {
    ($($t:ty: $wide:expr, $narrow:expr);*) => { $(
        impl Real for $t {
            fn wide(self) -> f32 {
                $wide(self)
            }
            fn narrow(x: f32) -> $t {
                $narrow(x)
            }
        }
    )* };
}
real!(f32: |x| x, |x| x; f16: f16::to_f32, f16::from_f32; bf16: bf16::to_f32, bf16::from_f32);

/// `$body` with `$t` as the type of `$dtype`.
macro_rules! by_real {
    ($dtype:expr, $t:ident => $body:expr, _ => $other:expr) => {
        match $dtype {
            DType::F32 => {
                type $t = f32;
                $body
            }
            DType::F16 => {
                type $t = f16;
                $body
            }
            DType::BF16 => {
                type $t = bf16;
                $body
            }
            _ => $other,
        }
    };
}

fn no_memory(error: GemmError) -> TensorError {
    match error {
        GemmError::OutOfMemory(bytes) => TensorError::OutOfMemory(bytes),
        _ => TensorError::OutOfMemory(usize::MAX),
    }
}

impl Op for MatMulNBits {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let (a, b) = (cx.input(0)?, cx.input(1)?);
        if !matches!(a.dtype, DType::F32 | DType::F16 | DType::BF16) {
            return Err(InferError::DType { input: 0, found: a.dtype });
        }
        if b.dtype != DType::U8 {
            return Err(InferError::DType { input: 1, found: b.dtype });
        }
        if cx.optional(ORDER).is_some() {
            return Err(InferError::Invalid("reordered columns (g_idx) are not supported"));
        }
        for input in [SCALES, BIAS, RESIDUAL] {
            if let Some(f) = cx.optional(input).filter(|f| f.dtype != a.dtype) {
                return Err(InferError::DType { input, found: f.dtype });
            }
        }
        if let Some(f) = cx.optional(ZEROS).filter(|f| f.dtype != DType::U8) {
            return Err(InferError::DType { input: ZEROS, found: f.dtype });
        }
        for (input, what) in [(1, "elements of B"), (SCALES, "scales"), (ZEROS, "bytes of zero points"), (BIAS, "elements of the bias")] {
            if let Some(Ok(shape)) = cx.optional(input).and_then(Fact::shape)
                && shape.elements() != self.elements(input)
            {
                return Err(InferError::Mismatch { what, left: format!("{}", shape.elements()), right: format!("{}", self.elements(input)) });
            }
        }
        let Some((last, outer)) = a.dims.split_last() else {
            return Err(InferError::Rank { input: 0, found: 0, wanted: "at least one axis is expected" });
        };
        if let Some(k) = last.as_const().filter(|&k| k != self.k as i64) {
            return Err(InferError::Mismatch { what: "the inner dims of a product", left: format!("{k}"), right: format!("{}", self.k) });
        }
        let mut dims = outer.to_vec();
        dims.push(Dim::from(self.n));
        Ok(vec![Fact::new(a.dtype, dims)])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let dtype = cx.dtype(0)?;
        by_real!(dtype, T => self.run::<T>(cx), _ => Err(EvalError::DType(dtype)))
    }

    fn scratch(&self, cx: &StepCx<'_>) -> Scratch {
        let (m, is_narrow) = (self.rows(cx), cx.outputs.first().is_some_and(|y| y.dtype != DType::F32));
        let part = |wanted: bool, elements: usize| if wanted { carved::<f32>(elements) } else { 0 };
        let residual = self.residual && is_narrow;
        let shared = part(is_narrow, m.saturating_mul(self.k))
            + part(is_narrow, m.saturating_mul(self.n))
            + part(is_narrow, self.n)
            + part(residual, m.saturating_mul(self.n));
        let each = if self.is_packed(|i| cx.is_packed(i), cx.inputs.get(ZEROS).is_some_and(Option::is_some)) {
            BlockGemm::new(cx.level, m, self.k, self.n).scratch_len()
        } else {
            self.k
        };
        Scratch { shared, per_worker: carved::<f32>(each) }
    }

    fn prepack(&self, input: usize, weight: TensorView<'_>, cx: &PrepackCx<'_>) -> Result<Option<Arc<dyn Packed>>, TensorError> {
        let (k, n, level) = (self.k, self.n, cx.level);
        if !matches!(input, 1 | SCALES | ZEROS) || weight.shape().elements() != self.elements(input) {
            return Ok(None);
        }
        if input == SCALES {
            return by_real!(weight.dtype(), T => {
                let view = weight.typed::<T>()?;
                let Some(scales) = view.as_slice() else { return Ok(None) };
                let packed = BlockScales::new(level, self.block, k, n, |g, j| scales[j * self.blocks() + g].wide());
                Ok(Some(Arc::new(Scales(packed.map_err(no_memory)?))))
            }, _ => Ok(None));
        }
        if weight.dtype() != DType::U8 {
            return Ok(None);
        }
        let view = weight.typed::<u8>()?;
        let Some(bytes) = view.as_slice() else { return Ok(None) };
        Ok(Some(match input {
            1 => Arc::new(Codes(BlockCodes::new(level, self.bits, k, n, |i, j| self.code(bytes, i, j)).map_err(no_memory)?)),
            _ => Arc::new(Zeros(BlockZeros::new(level, self.block, k, n, |g, j| self.zero(bytes, g, j)).map_err(no_memory)?)),
        }))
    }

    fn cost(&self, cx: &StepCx<'_>) -> Cost {
        Cost { flops: 2.0 * (self.rows(cx) * self.n) as f64 * self.k as f64, ..cx.elementwise_cost() }
    }

    fn kernel(&self, cx: &StepCx<'_>) -> String {
        let how = if self.is_packed(|i| cx.is_packed(i), cx.inputs.get(ZEROS).is_some_and(Option::is_some)) { "matmul" } else { "matmul-columns" };
        let bits = if self.bits == BlockBits::Four { 4 } else { 8 };
        format!("{how}-int{bits}-{}{}", cx.level.vectors(), crate::matmul::activation::suffix(self.activation, self.residual))
    }
}

impl MatMulNBits {
    /// True if the fast product can run.
    fn is_packed(&self, packed: impl Fn(usize) -> bool, has_zeros: bool) -> bool {
        packed(1) && packed(SCALES) && (!has_zeros || packed(ZEROS))
    }

    fn run<T: Real>(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let dense = |input: usize| -> Result<Option<&[T]>, EvalError> {
            let view = cx.optional::<T>(input)?;
            view.map(|v| v.as_slice().ok_or(EvalError::Invalid("row-major memory is expected"))).transpose()
        };
        let (a, bias) = (dense(0)?.ok_or(EvalError::MissingInput(0))?, dense(BIAS)?);
        let residual = if self.residual { Some(dense(RESIDUAL)?.ok_or(EvalError::MissingInput(RESIDUAL))?) } else { None };
        let mut scratch = cx.scratch();
        let y = cx.output::<T>(0)?.into_data();
        let m = y.len() / self.n;
        if a.len() != m * self.k || bias.is_some_and(|b| b.len() != self.n) || residual.is_some_and(|r| r.len() != y.len()) {
            return Err(EvalError::Invalid("operands do not fit the product"));
        }
        if T::DTYPE == DType::F32 {
            let (a, bias, residual) = (bytemuck::cast_slice(a), bias.map(bytemuck::cast_slice), residual.map(bytemuck::cast_slice));
            return self.product(cx, a, bias, residual, bytemuck::cast_slice_mut(y), m);
        }
        let mut widened = |x: &[T]| -> Option<&mut [f32]> {
            let wide = carve::<f32>(&mut scratch, x.len())?;
            wide.iter_mut().zip(x).for_each(|(to, x)| *to = x.wide());
            Some(wide)
        };
        let small = || EvalError::Invalid("the scratch memory is too small");
        let a = widened(a).ok_or_else(small)?;
        let bias = bias.map(|b| widened(b).ok_or_else(small)).transpose()?;
        let residual = residual.map(|r| widened(r).ok_or_else(small)).transpose()?;
        let wide = carve::<f32>(&mut scratch, y.len()).ok_or_else(small)?;
        self.product(cx, a, bias.as_deref(), residual.as_deref(), wide, m)?;
        y.iter_mut().zip(wide).for_each(|(y, x)| *y = T::narrow(*x));
        Ok(())
    }

    fn product(&self, cx: &EvalCx<'_>, a: &[f32], bias: Option<&[f32]>, residual: Option<&[f32]>, y: &mut [f32], m: usize) -> Result<(), EvalError> {
        let (codes, scales, zeros) = (cx.packed::<Codes>(1), cx.packed::<Scales>(SCALES), cx.packed::<Zeros>(ZEROS));
        let residual = residual.map(|data| Residual { data, row_stride: self.n, beta: 1.0 });
        let epilogue = Epilogue { bias_cols: bias, residual, activation: self.activation, ..Epilogue::default() };
        let unfit = |_| EvalError::Invalid("the dims of a product do not fit its operands");
        match (codes, scales) {
            (Some(codes), Some(scales)) if zeros.is_some() || !cx.has(ZEROS) => {
                let b = Blocks { codes: &codes.0, scales: &scales.0, zeros: zeros.map(|z| &z.0) };
                let job = BlockGemm::new(cx.level(), m, self.k, self.n);
                let tiles = job.tiles(y).map_err(unfit)?;
                cx.parallel(job.grains(), |grain, mut scratch| {
                    let scratch = carve(&mut scratch, job.scratch_len())?;
                    job.run_grain(grain, a, &b, &tiles, &epilogue, scratch).ok()
                })
            }
            _ => self.by_columns(cx, a, &epilogue, y, m),
        }
    }

    /// The product with operands of which some are no constants: a column of B after the other.
    fn by_columns(&self, cx: &EvalCx<'_>, a: &[f32], epilogue: &Epilogue<'_>, y: &mut [f32], m: usize) -> Result<(), EvalError> {
        let weight = Loose::new(self, cx)?;
        let each = crate::grains::rows(self.n, self.k, m + 2);
        let tiles = Tiles::new(y, m, self.n, self.n, m.max(1), each).ok_or(EvalError::Output(0))?;
        cx.parallel(tiles.count(), |grain, mut scratch| {
            let mut tile = tiles.claim(grain)?;
            let (_, first) = tile.origin();
            let column = carve::<f32>(&mut scratch, self.k)?;
            for j in 0..tile.cols() {
                column.iter_mut().enumerate().for_each(|(i, w)| *w = weight.at(i, first + j));
                let bias = epilogue.bias_cols.map_or(0.0, |b| b[first + j]);
                for r in 0..m {
                    let sum = a[r * self.k..][..self.k].iter().zip(&*column).map(|(x, w)| x * w).sum::<f32>();
                    tile.row(r)[j] = sum + bias + epilogue.residual.as_ref().map_or(0.0, |res| res.data[r * res.row_stride + first + j]);
                }
            }
            (0..m).for_each(|r| dispatch!(cx.level(), s => epilogue.activation.run(s, tile.row(r))));
            Some(())
        })
    }
}

/// A weight of which some parts may be packed and others not.
struct Loose<'o, 'a> {
    op: &'o MatMulNBits,
    codes: Result<&'a BlockCodes, &'a [u8]>,
    scales: Result<&'a BlockScales, TensorView<'a>>,
    zeros: Option<Result<&'a BlockZeros, &'a [u8]>>,
}

impl<'o, 'a> Loose<'o, 'a> {
    fn new(op: &'o MatMulNBits, cx: &EvalCx<'a>) -> Result<Loose<'o, 'a>, EvalError> {
        let bytes = |input: usize| cx.input::<u8>(input)?.as_slice().ok_or(EvalError::Invalid("row-major memory is expected"));
        let codes = cx.packed::<Codes>(1).map_or_else(|| bytes(1).map(Err), |c| Ok(Ok(&c.0)))?;
        let scales = cx.packed::<Scales>(SCALES).map_or_else(|| cx.tensor(SCALES).map(Err), |s| Ok(Ok(&s.0)))?;
        let zeros = match (cx.has(ZEROS), cx.packed::<Zeros>(ZEROS)) {
            (false, _) => None,
            (true, Some(zeros)) => Some(Ok(&zeros.0)),
            (true, None) => Some(Err(bytes(ZEROS)?)),
        };
        let fits =
            |input: usize, found: usize| if found == op.elements(input) { Ok(()) } else { Err(EvalError::Invalid("the weight's parts do not fit each other")) };
        codes.map_or_else(|b| fits(1, b.len()), |_| Ok(()))?;
        scales.as_ref().map_or_else(|s| fits(SCALES, s.shape().elements()), |_| Ok(()))?;
        if let Some(Err(bytes)) = zeros {
            fits(ZEROS, bytes.len())?;
        }
        Ok(Loose { op, codes, scales, zeros })
    }

    fn at(&self, i: usize, j: usize) -> f32 {
        let (op, g) = (self.op, i / self.op.block);
        let code = self.codes.map_or_else(|bytes| op.code(bytes, i, j), |codes| codes.code(i, j));
        let zero = match self.zeros {
            None if op.bits == BlockBits::Four => 8,
            None => 0,
            Some(zeros) => zeros.map_or_else(|bytes| op.zero(bytes, g, j), |zeros| zeros.at(i, j)),
        };
        let place = j * op.blocks() + g;
        let scale = match &self.scales {
            Ok(scales) => scales.at(i, j),
            Err(view) => {
                by_real!(view.dtype(), T => view.typed::<T>().ok().and_then(|v| Some(v.as_slice()?.get(place)?.wide())).unwrap_or(f32::NAN), _ => f32::NAN)
            }
        };
        f32::from(i16::from(code) - i16::from(zero)) * scale
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, cast, random, random_ints, reals, t};
    use millstream_tensor::Tensor;

    /// The definition in f64, from the operator's documentation.
    fn reference(case: &Case) -> Vec<Tensor> {
        let (k, n) = (case.int_or("K", 0) as usize, case.int_or("N", 0) as usize);
        let (bits, block) = (case.int_or("bits", 4) as usize, case.int_or("block_size", 0) as usize);
        let blocks = k.div_ceil(block);
        let (a, scales) = (reals(case.tensor(0)), reals(case.tensor(SCALES)));
        let b = case.tensor(1).as_slice::<u8>().expect("bytes");
        let zeros = case.optional(ZEROS).map(|z| z.as_slice::<u8>().expect("bytes"));
        // A row's integers are one run of bits, from the lowest bit of its first byte on; each row begins at a byte.
        let integer = |bytes: &[u8], each: usize, row: usize, i: usize| {
            let width = (each * bits).div_ceil(8);
            u32::from(bytes[row * width + i * bits / 8]) >> (i * bits % 8) & ((1 << bits) - 1)
        };
        let weight = |i: usize, j: usize| {
            let zero = zeros.map_or(1 << (bits - 1), |z| integer(z, blocks, j, i / block));
            (f64::from(integer(b, blocks * block, j, i)) - f64::from(zero)) * scales[j * blocks + i / block]
        };
        let bias = case.optional(BIAS).map(reals);
        let cell = |c: usize| (0..k).map(|i| a[c / n * k + i] * weight(i, c % n)).sum::<f64>() + bias.as_ref().map_or(0.0, |b| b[c % n]);
        let mut dims = case.tensor(0).shape()[..case.tensor(0).shape().rank() - 1].to_vec();
        dims.push(n);
        let y = t(&dims, &(0..a.len() / k * n).map(|c| cell(c) as f32).collect::<Vec<f32>>());
        vec![cast(&y, case.tensor(0).dtype())]
    }

    fn bytes(n: usize, seed: u64) -> Tensor {
        let ints = random_ints(&[n], 0, 256, seed);
        t(&[n], &ints.as_slice::<i64>().expect("integers").iter().map(|&x| x as u8).collect::<Vec<u8>>())
    }

    /// Without zero points; constants are packed.
    fn case(a: &[usize], n: usize, bits: usize, block: usize) -> Case {
        let k = a[a.len() - 1];
        let blocks = k.div_ceil(block);
        let case = Case::new([random(a, 1), bytes(n * blocks * block * bits / 8, 2), random(&[n * blocks], 3)]);
        case.int("K", k as i64).int("N", n as i64).int("bits", bits as i64).int("block_size", block as i64).constant(1).constant(2)
    }

    fn zeroed(a: &[usize], n: usize, bits: usize, block: usize) -> Case {
        let blocks = a[a.len() - 1].div_ceil(block);
        case(a, n, bits, block).input(bytes(n * (blocks * bits).div_ceil(8), 4)).constant(3)
    }

    /// The same in another type of floats.
    fn narrow(case: Case, dtype: DType) -> Case {
        let inputs = case
            .inputs
            .iter()
            .map(|v| v.as_ref().map(|v| v.as_tensor().expect("a tensor")))
            .map(|t| t.map(|t| if t.dtype() == DType::F32 { cast(t, dtype) } else { t.clone() }.into()));
        Case { inputs: inputs.collect(), ..case.clone() }
    }

    // Sums of up to some hundred terms of up to 16 that cancel.
    op_tests! { DEF, reference, Tolerance { rel: 1e-5, abs: 5e-4 };
        four_by_16 => case(&[1, 96], 45, 4, 16);
        four_by_32 => case(&[2, 3, 100], 40, 4, 32);
        four_by_64 => case(&[9, 200], 33, 4, 64);
        four_by_128 => case(&[1, 1, 130], 70, 4, 128);
        four_by_256 => case(&[5, 100], 17, 4, 256);
        zeros_by_16 => zeroed(&[7, 50], 20, 4, 16);
        zeros_by_32 => zeroed(&[1, 96], 50, 4, 32);
        zeros_by_128 => zeroed(&[3, 300], 21, 4, 128);
        eight => case(&[4, 70], 30, 8, 32);
        eight_with_zeros => zeroed(&[1, 70], 30, 8, 32);
        eight_by_16_with_zeros => zeroed(&[17, 40], 9, 8, 16);
        bias => zeroed(&[2, 64], 24, 4, 32).input(None).input(random(&[24], 5));
        vector => case(&[64], 19, 4, 32);
        no_rows => case(&[0, 64], 19, 4, 32);
        only_weights_are_constant => Case { constants: vec![1], ..zeroed(&[3, 64], 19, 4, 32) };
        only_scales_are_constant => Case { constants: vec![2], ..zeroed(&[3, 64], 19, 8, 32) };
        zeros_are_no_constant => Case { constants: vec![1, 2], ..zeroed(&[3, 64], 19, 4, 32) };
    }

    #[test]
    fn halves_are_rounded_once() {
        for (dtype, rel) in [(DType::F16, 1e-3), (DType::BF16, 8e-3)] {
            let tolerance = Tolerance { rel, abs: 2e-3 };
            crate::testing::check(&DEF, reference, tolerance, &narrow(case(&[3, 96], 40, 4, 32), dtype));
            crate::testing::check(&DEF, reference, tolerance, &narrow(zeroed(&[1, 70], 20, 8, 16).input(None).input(random(&[20], 5)), dtype));
        }
    }

    #[test]
    fn what_no_kernel_takes_is_refused() {
        let build = |case: &Case| {
            let cx = BuildCx { version: 1, attributes: &case.attributes, inputs: 3, outputs: 1, subgraphs: &[] };
            DEF.instantiate(1, cx).map(|_| ()).map_err(|e| format!("{e}"))
        };
        let refused = |name: &str, value: i64| {
            let error = build(&case(&[1, 64], 8, 4, 32).int(name, value)).expect_err(name);
            assert!(error.contains(name), "{error}");
        };
        refused("bits", 2);
        refused("block_size", 8);
        refused("block_size", 48);
        refused("K", 0);
        refused("N", -3);
        refused("weight_prepacked", 1);
        assert!(build(&case(&[1, 64], 8, 4, 32).int("accuracy_level", 4)).is_ok());
        // Types and sizes, found by inference.
        let infer = |case: &Case| {
            let facts: Vec<Option<Fact>> =
                case.inputs.iter().map(|v| v.as_ref().map(|v| Fact::constant(v.as_tensor().expect("a tensor").clone().into()))).collect();
            let facts: Vec<Option<&Fact>> = facts.iter().map(Option::as_ref).collect();
            let op = MatMulNBits::new(64, 8, BlockBits::Four, 32).expect("a block of 32");
            op.infer(&InferCx { path: "test", inputs: &facts, outputs: 1 }).map(|_| ()).map_err(|e| format!("{e}"))
        };
        let good = zeroed(&[1, 64], 8, 4, 32);
        assert_eq!(infer(&good), Ok(()));
        let with = |i: usize, tensor: Tensor| {
            let mut case = good.clone();
            case.inputs.resize(case.inputs.len().max(i + 1), None);
            case.inputs[i] = Some(tensor.into());
            infer(&case)
        };
        for (i, tensor) in [(0, random(&[1, 63], 1)), (1, bytes(8, 1)), (SCALES, random(&[15], 1)), (ZEROS, random(&[8], 1)), (BIAS, random(&[7], 1))] {
            assert!(with(i, tensor).is_err(), "input {i}");
        }
        assert!(with(ORDER, t(&[64], &[0i32; 64])).is_err_and(|e| e.contains("g_idx")));
    }

    #[test]
    fn packed_weights_stay_narrow() {
        let case = case(&[1, 1024], 512, 4, 32);
        let op = MatMulNBits::new(1024, 512, BlockBits::Four, 32).expect("a block of 32");
        let cx = PrepackCx { level: millstream_simd::Level::detect(), inputs: &[] };
        let bytes = |i: usize| op.prepack(i, case.tensor(i).view(), &cx).expect("memory").expect("it is packed").bytes_len();
        assert_eq!((bytes(1), bytes(SCALES)), (1024 * 512 / 2, 1024 / 32 * 512 * 4));
    }
}
