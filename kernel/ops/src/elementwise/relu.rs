//! `Relu`: max(x, 0); NaN stays NaN.

use crate::grains;
use alloc::{boxed::Box, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Permutation, StepCx};
use millstream_tensor::{Order, tile::Tiles};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Relu",
    since: &[6, 13, 14],
    inputs: Arity::exactly(1),
    outputs: Arity::exactly(1),
    attributes: &[],
    subgraphs: &[],
    dtypes: "f32",
    build: |_: &BuildCx<'_>| Ok(Box::new(Relu)),
};

/// max(x, 0).
#[derive(Debug, Clone, Copy)]
pub struct Relu;

impl Op for Relu {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let x = cx.input(0)?;
        Ok(vec![Fact::new(x.dtype, x.dims.clone())])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let relu = |x: f32| if x < 0.0 { 0.0 } else { x };
        let x = if cx.in_place(0).is_some() { None } else { Some(cx.input::<f32>(0)?.data()) };
        let y = cx.output::<f32>(0)?.into_data();
        let chunk = grains::chunk(y.len(), 1);
        let tiles = Tiles::chunks(y, chunk).ok_or(EvalError::Output(0))?;
        cx.parallel(tiles.count(), |grain, _| {
            let mut tile = tiles.claim(grain)?;
            let y = tile.as_slice()?;
            match x {
                None => y.iter_mut().for_each(|y| *y = relu(*y)),
                Some(x) => y.iter_mut().zip(&x[grain * chunk..]).for_each(|(y, &x)| *y = relu(x)),
            }
            Some(())
        })
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }

    fn permute(&self, _cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        Some(Permutation { inputs: inputs.to_vec(), outputs: vec![inputs[0]?] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, t};
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        let x = case.tensor(0);
        let y: Vec<f32> = x.as_slice::<f32>().unwrap().iter().map(|&v| if v < 0.0 { 0.0 } else { v }).collect();
        vec![t(x.shape(), &y)]
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        small => Case::new([t(&[4], &[-1.0f32, 0.0, 2.0, f32::NAN])]);
        image => Case::new([random(&[2, 3, 5, 7], 1)]);
        large => Case::new([random(&[70_001], 2)]);
        empty => Case::new([random(&[2, 0, 3], 3)]);
        scalar => Case::new([random(&[], 4)]);
    }
}
