//! `Shrink`: x + bias below -lambd, x - bias above lambd, else 0.

use super::map::{Map, map_op};
use crate::numeric::Types;
use alloc::boxed::Box;
use millstream_graph::{Arity, BuildCx, OpDef};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Shrink",
    since: &[9],
    inputs: Arity::exactly(1),
    outputs: Arity::exactly(1),
    attributes: &["lambd", "bias"],
    subgraphs: &[],
    dtypes: "floats and integers",
    build: |cx: &BuildCx<'_>| Ok(Box::new(Shrink { lambd: cx.attributes.float_or("lambd", 0.5)?, bias: cx.attributes.float_or("bias", 0.0)? })),
};

/// X + bias below -lambd, x - bias above lambd, else 0.
#[derive(Debug, Clone, Copy)]
pub struct Shrink {
    /// The attribute `lambd`.
    pub lambd: f32,
    /// The attribute `bias`.
    pub bias: f32,
}

impl Map for Shrink {
    const TYPES: Types = Types::Numbers;

    fn real(&self, x: f64) -> f64 {
        let (lambd, bias) = (f64::from(self.lambd), f64::from(self.bias));
        if x < -lambd {
            x + bias
        } else if x > lambd {
            x - bias
        } else {
            0.0
        }
    }

    fn int(&self, x: i128) -> i128 {
        self.real(x as f64) as i128
    }
}
map_op!(Shrink);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, map, spread, t};
    use alloc::vec::Vec;
    use millstream_tensor::{DType, Tensor};

    fn reference(case: &Case) -> Vec<Tensor> {
        let (l, b) = (case.float_or("lambd", 0.5), case.float_or("bias", 0.0));
        map(case, |x| {
            if x < -l {
                x + b
            } else if x > l {
                x - b
            } else {
                0.0
            }
        })
    }

    op_tests! { DEF, reference, Tolerance::F32;
        f32s => Case::new([spread(DType::F32, &[3, 5, 7, 11], 8.0, 1)]);
        f64s => Case::new([spread(DType::F64, &[4, 33], 8.0, 2)]);
        f16s => Case::new([spread(DType::F16, &[65], 8.0, 3)]);
        bf16s => Case::new([spread(DType::BF16, &[2, 3, 4], 8.0, 4)]);
        many => Case::new([spread(DType::F32, &[70_001], 8.0, 5)]);
        special => Case::new([t(&[7], &[0.0f32, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1.0, -1.0])]);
        i32s => Case::new([spread(DType::I32, &[5, 13], 50.0, 6)]);
        empty => Case::new([spread(DType::F32, &[2, 0, 3], 1.0, 7)]);
        scalar => Case::new([spread(DType::F32, &[], 8.0, 8)]);
        attributes => Case::new([spread(DType::F32, &[99], 3.0, 9)]).float("lambd", 1.5).float("bias", 1.5);
    }
}
