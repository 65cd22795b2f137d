//! `EyeLike`: a matrix of the input's shape with ones on diagonal `k`.

use crate::{elementwise::casting::element_type, movement::typed::by_number};
use alloc::{boxed::Box, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, BuildError, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef};
use millstream_tensor::{Bool, DType, Element, Tensor, Value, bf16, f16};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "EyeLike",
    since: &[9, 22],
    inputs: Arity::exactly(1),
    outputs: Arity::exactly(1),
    attributes: &["dtype", "k"],
    subgraphs: &[],
    dtypes: "numbers, bool",
    build: |cx: &BuildCx<'_>| {
        let dtype = cx.attributes.int("dtype")?.map(|&n| element_type("dtype", n)).transpose()?;
        if dtype == Some(DType::String) {
            return Err(BuildError::UnsupportedAttribute { name: "dtype", value: "string".into() });
        }
        Ok(Box::new(EyeLike { dtype, k: cx.attributes.int_or("k", 0)? }))
    },
};

/// Ones on a diagonal.
#[derive(Debug, Clone, Copy)]
pub struct EyeLike {
    dtype: Option<DType>,
    k: i64,
}

/// The number one.
trait One: Element {
    const ONE: Self;
}

macro_rules! ones {
    ($($t:ty => $one:expr),*) => { $( impl One for $t { const ONE: $t = $one; } )* };
}
ones!(f32 => 1.0, f64 => 1.0, f16 => f16::ONE, bf16 => bf16::ONE, i8 => 1, i16 => 1, i32 => 1, i64 => 1, u8 => 1, u16 => 1, u32 => 1, u64 => 1);

fn eye<T: Element>(one: T, rows: usize, columns: usize, k: i64) -> Result<Tensor, EvalError> {
    let mut out = Tensor::zeros(T::DTYPE, &[rows, columns])?;
    let mut view = out.view_mut()?.typed::<T>()?;
    for (i, row) in view.data_mut().chunks_exact_mut(columns.max(1)).enumerate() {
        let at = usize::try_from(k.saturating_add(i as i64)).ok();
        if let Some(to) = at.and_then(|j| row.get_mut(j)) {
            *to = one;
        }
    }
    Ok(out)
}

impl Op for EyeLike {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let x = cx.input(0)?;
        if x.rank() != 2 {
            return Err(InferError::Rank { input: 0, found: x.rank(), wanted: "2" });
        }
        Ok(vec![Fact::new(self.dtype.unwrap_or(x.dtype), x.dims.clone())])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let spec = cx.spec(0).ok_or(EvalError::MissingInput(0))?;
        let &[rows, columns] = spec.shape().dims() else { return Err(EvalError::Invalid("the input is no matrix")) };
        let out = match self.dtype.unwrap_or(spec.dtype) {
            DType::Bool => eye(Bool::from(true), rows, columns, self.k)?,
            other => by_number!(other, T => eye(T::ONE, rows, columns, self.k)?),
        };
        cx.set_value(0, Value::Tensor(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random_ints, t};

    fn reference(case: &Case) -> Vec<Tensor> {
        let (r, c) = (case.tensor(0).shape()[0] as i64, case.tensor(0).shape()[1] as i64);
        let k = case.int_or("k", 0);
        let ones: Vec<i64> = (0..r * c).map(|n| i64::from(n % c - n / c == k)).collect();
        let dims = [r as usize, c as usize];
        vec![if case.int_or("dtype", 7) == 1 { t(&dims, &ones.iter().map(|&x| x as f32).collect::<Vec<_>>()) } else { t(&dims, &ones) }]
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        square => Case::new([random_ints(&[4, 4], 0, 9, 1)]);
        above => Case::new([random_ints(&[4, 5], 0, 9, 1)]).int("k", 1).int("dtype", 1);
        below => Case::new([random_ints(&[4, 2], 0, 9, 1)]).int("k", -2);
        empty => Case::new([random_ints(&[0, 2], 0, 9, 1)]);
    }
}
