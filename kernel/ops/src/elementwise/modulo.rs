//! `Mod`: the remainder of a / b, with the divisor's sign, or with the dividend's if `fmod` is 1. A zero divisor of integers
//! is an error.

use super::zip::{Zip, zip_op};
use alloc::boxed::Box;
use millstream_graph::{Arity, BuildCx, Dim, OpDef};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Mod",
    since: &[10, 13],
    inputs: Arity::exactly(2),
    outputs: Arity::exactly(1),
    attributes: &["fmod"],
    subgraphs: &[],
    dtypes: "floats and integers",
    build: |cx: &BuildCx<'_>| Ok(Box::new(Mod { fmod: cx.attributes.flag_or("fmod", false)? })),
};

/// The remainder of a / b.
#[derive(Debug, Clone, Copy)]
pub struct Mod {
    /// True if the remainder has the dividend's sign.
    pub fmod: bool,
}

impl Zip for Mod {
    const WORK: usize = 8;
    const DIVIDES: bool = true;

    fn real(&self, a: f64, b: f64) -> f64 {
        let r = libm::fmod(a, b);
        if !self.fmod && r != 0.0 && (r < 0.0) != (b < 0.0) { r + b } else { r }
    }

    fn int(&self, a: i128, b: i128) -> i128 {
        let r = a % b;
        if !self.fmod && r != 0 && (r < 0) != (b < 0) { r + b } else { r }
    }

    fn dim(&self, a: &Dim, b: &Dim) -> Option<Dim> {
        (a.at_least(0) && b.at_least(1)).then(|| a.sub(&b.mul(&a.div_floor(b))))
    }
}
zip_op!(Mod; &[(0, 0)]);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random_ints, spread, t, zip};
    use alloc::vec::Vec;
    use millstream_tensor::{DType, Tensor};

    fn reference(case: &Case) -> Vec<Tensor> {
        let fmod = case.int_or("fmod", 0) != 0;
        zip(case, None, |a, b| if fmod { a % b } else { a - b * (a / b).floor() })
    }

    op_tests! { DEF, reference, Tolerance::F32;
        floored => Case::new([random_ints(&[7, 5], -9, 9, 1), t(&[5], &[3i64, -3, 4, -1, 7])]);
        truncated => Case::new([random_ints(&[7, 5], -9, 9, 1), t(&[5], &[3i64, -3, 4, -1, 7])]).int("fmod", 1);
        floats => Case::new([spread(DType::F32, &[7, 5], 9.0, 1), t(&[1], &[2.5f32])]).int("fmod", 1);
        f16s => Case::new([spread(DType::F16, &[7, 5], 9.0, 1), spread(DType::F16, &[], 5.0, 3)]).int("fmod", 1);
        bytes => Case::new([spread(DType::U8, &[7, 5], 200.0, 1), t(&[1], &[7u8])]);
        empty => Case::new([spread(DType::I64, &[0, 5], 9.0, 1), t(&[], &[2i64])]);
    }
}
