//! `DynamicQuantizeLinear`: f32 to u8 with a scale that covers the data's own range and 0, and a zero point that is exactly 0.

use super::quantize_linear::bytes;
use crate::grains;
use alloc::{boxed::Box, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Permutation, StepCx};
use millstream_simd::{SimdF32, dispatch, slice};
use millstream_tensor::{DType, Order, TensorError, tile::Tiles};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "DynamicQuantizeLinear",
    since: &[11],
    inputs: Arity::exactly(1),
    outputs: Arity::range(1, 3),
    attributes: &[],
    subgraphs: &[],
    dtypes: "f32",
    build: |_: &BuildCx<'_>| Ok(Box::new(DynamicQuantizeLinear)),
};

/// f32 to u8, with the scale and the zero point that were chosen.
#[derive(Debug, Clone, Copy)]
pub struct DynamicQuantizeLinear;

impl Op for DynamicQuantizeLinear {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let x = cx.input(0)?;
        if x.dtype != DType::F32 {
            return Err(InferError::DType { input: 0, found: x.dtype });
        }
        let all = [Fact::new(DType::U8, x.dims.clone()), Fact::concrete(DType::F32, &[]), Fact::concrete(DType::U8, &[])];
        Ok(all.into_iter().take(cx.outputs.max(1)).collect())
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let level = cx.level();
        let x = cx.input::<f32>(0)?;
        let least = dispatch!(level, s => slice::fold(s, x.data(), 0.0, #[inline(always)] |a, b| a.min(b)).reduce_min());
        let greatest = dispatch!(level, s => slice::fold(s, x.data(), 0.0, #[inline(always)] |a, b| a.max(b)).reduce_max());
        let scale = if greatest > least { (greatest - least) / 255.0 } else { 1.0 };
        let zero = libm::rintf((-least / scale).clamp(0.0, 255.0));
        if cx.wants(1) {
            cx.output::<f32>(1)?.fill_from([scale]);
        }
        if cx.wants(2) {
            cx.output::<u8>(2)?.fill_from([zero as u8]);
        }
        if !cx.wants(0) {
            return Ok(());
        }
        let y = cx.output::<u8>(0)?;
        if !x.layout().same_memory(y.layout()) {
            return Err(TensorError::Strided.into());
        }
        let y = y.into_data();
        let chunk = grains::chunk(y.len(), 4);
        let tiles = Tiles::chunks(y, chunk).ok_or(EvalError::Output(0))?;
        cx.parallel(tiles.count(), |grain, _| {
            let mut tile = tiles.claim(grain)?;
            let y = tile.as_slice()?;
            bytes(level, &x.data()[grain * chunk..][..y.len()], scale, zero, (0.0, 255.0), y);
            Some(())
        })
    }

    fn permute(&self, cx: &StepCx<'_>, inputs: &[Option<Order>]) -> Option<Permutation> {
        let order = (*inputs.first()?)?;
        let outputs = cx.outputs.iter().enumerate().map(|(i, s)| if i == 0 { order } else { Order::row_major(s.shape().rank()) });
        Some(Permutation { inputs: vec![Some(order)], outputs: outputs.collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, from_reals, map, spread, t};
    use millstream_tensor::Tensor;

    fn reference(case: &Case) -> Vec<Tensor> {
        let x = case.tensor(0);
        let values = x.as_slice::<f32>().unwrap();
        let (least, greatest) = values.iter().fold((0f32, 0f32), |(a, b), &v| (a.min(v), b.max(v)));
        let scale = if greatest > least { (greatest - least) / 255.0 } else { 1.0 };
        let zero = (-least / scale).clamp(0.0, 255.0).round_ties_even();
        let y: Vec<f64> = values.iter().map(|v| f64::from(((v / scale).round_ties_even() + zero).clamp(0.0, 255.0))).collect();
        [from_reals(DType::U8, x.shape(), &y), t(&[], &[scale]), t(&[], &[zero as u8])].into_iter().take(case.outputs).collect()
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        image => Case::new([spread(DType::F32, &[2, 3, 5, 7], 3.0, 1)]).outputs(3);
        positive => Case::new([map(&Case::new([spread(DType::F32, &[99], 3.0, 1)]), |x| x.abs() + 1.0).remove(0)]).outputs(3);
        zeros => Case::new([t(&[3], &[0.0f32; 3])]).outputs(3);
        data_alone => Case::new([spread(DType::F32, &[70_001], 3.0, 1)]);
        empty => Case::new([spread(DType::F32, &[0], 3.0, 1)]).outputs(3);
    }
}
