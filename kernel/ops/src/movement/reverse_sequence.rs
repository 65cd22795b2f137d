//! `ReverseSequence`: the first `lengths[b]` steps of each batch row in reverse, the rest as they are.

use super::{index, pick};
use alloc::{boxed::Box, string::ToString, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, BuildError, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "ReverseSequence",
    since: &[10],
    inputs: Arity::exactly(2),
    outputs: Arity::exactly(1),
    attributes: &["batch_axis", "time_axis"],
    subgraphs: &[],
    dtypes: "any",
    build: |cx: &BuildCx<'_>| match (cx.attributes.int_or("batch_axis", 1)?, cx.attributes.int_or("time_axis", 0)?) {
        (1, 0) => Ok(Box::new(ReverseSequence { time_first: true })),
        (0, 1) => Ok(Box::new(ReverseSequence { time_first: false })),
        (batch, _) => Err(BuildError::UnsupportedAttribute { name: "batch_axis", value: batch.to_string() }),
    },
};

/// Sequences in reverse.
#[derive(Debug, Clone, Copy)]
pub struct ReverseSequence {
    time_first: bool,
}

impl Op for ReverseSequence {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let x = cx.input(0)?;
        if x.rank() < 2 {
            return Err(InferError::Rank { input: 0, found: x.rank(), wanted: "at least 2" });
        }
        Ok(vec![Fact::new(x.dtype, x.dims.clone())])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let x = *cx.spec(0).ok_or(EvalError::MissingInput(0))?.shape();
        let [a, b, ref inner @ ..] = x[..] else { return Err(EvalError::Invalid("sequences need a batch and a time axis")) };
        let (steps, batch) = if self.time_first { (a, b) } else { (b, a) };
        let lengths = index::integers(cx, 1)?;
        if lengths.len() != batch {
            return Err(EvalError::Invalid("there is not one length for each batch row"));
        }
        if let Some(&bad) = lengths.iter().find(|&&n| n < 0 || n > steps as i64) {
            return Err(EvalError::Element { what: "a sequence length is out of range", value: bad });
        }
        let row: usize = inner.iter().product();
        let flip = |t: usize, b: usize| if t < lengths[b] as usize { lengths[b] as usize - 1 - t } else { t };
        pick::make(cx, 0, &x, a * b, row, |n| {
            let at = if self.time_first { flip(n / batch, n % batch) * batch + n % batch } else { n / steps * steps + flip(n % steps, n / steps) };
            at * row
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, t};
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        let x = case.tensor(0);
        let time_first = case.int_or("time_axis", 0) == 0;
        let lengths = case.tensor(1).as_slice::<i64>().unwrap();
        let row: usize = x.shape()[2..].iter().product();
        let data = x.as_slice::<f32>().unwrap();
        let mut out: Vec<f32> = vec![];
        for i in 0..x.shape()[0] {
            for j in 0..x.shape()[1] {
                let (time, b) = if time_first { (i, j) } else { (j, i) };
                let from = if time < lengths[b] as usize { lengths[b] as usize - 1 - time } else { time };
                let (i, j) = if time_first { (from, b) } else { (b, from) };
                out.extend(&data[(i * x.shape()[1] + j) * row..][..row]);
            }
        }
        vec![t(x.shape(), &out)]
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        time_first => Case::new([random(&[4, 3, 2], 1), t(&[3], &[4i64, 2, 0])]);
        batch_first => Case::new([random(&[3, 4], 1), t(&[3], &[4i64, 1, 3])]).int("batch_axis", 0).int("time_axis", 1);
    }
}
