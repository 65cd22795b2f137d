//! `Upsample`: ONNX's older `Resize`: asymmetric coordinates, scales of at least 1.

use super::{
    coordinate::{Mode, Nearest, Sampling, Transform},
    resize::{Policy, Resize, Scales},
};
use alloc::boxed::Box;
use millstream_graph::{Arity, BuildCx, BuildError, Op, OpDef};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Upsample",
    since: &[7, 9, 10],
    inputs: Arity::range(1, 2),
    outputs: Arity::exactly(1),
    attributes: &["mode", "scales"],
    subgraphs: &[],
    dtypes: "all but strings (nearest), floats (linear)",
    build,
};

fn build(cx: &BuildCx<'_>) -> Result<Box<dyn Op>, BuildError> {
    let mode = match cx.attributes.string_or("mode", "nearest")? {
        "nearest" => Mode::Nearest(Nearest::Floor),
        "linear" => Mode::Linear,
        other => return Err(BuildError::UnsupportedAttribute { name: "mode", value: other.into() }),
    };
    let scales = match cx.attributes.floats("scales")? {
        Some(scales) => Scales::Attribute(scales.clone()),
        None if cx.version < 9 => return Err(BuildError::MissingAttribute("scales")),
        None => Scales::Input(1),
    };
    let sampling = Sampling { mode, transform: Transform::Asymmetric, exclude_outside: false, antialias: false };
    Ok(Box::new(Resize { sampling, extrapolation: 0.0, axes: None, policy: Policy::Stretch, scales, later: false }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, t};
    use alloc::{vec, vec::Vec};
    use millstream_graph::Attribute;
    use millstream_tensor::Tensor;

    /// Doubles both innermost axes.
    fn reference(case: &Case) -> Vec<Tensor> {
        let x = case.tensor(0);
        let d = x.shape();
        let v = x.as_slice::<f32>().unwrap();
        let (h, w) = (2 * d[2], 2 * d[3]);
        let y: Vec<f32> = (0..d[0] * d[1] * h * w).map(|i| v[(i / (h * w) * d[2] + i / w % h / 2) * d[3] + i % w / 2]).collect();
        vec![t(&[d[0], d[1], h, w], &y)]
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        input => Case::new([random(&[1, 3, 4, 5], 1)]).input(t(&[4], &[1.0f32, 1.0, 2.0, 2.0])).constant(1);
        attribute => Case::new([random(&[1, 3, 4, 5], 1)]).attr("scales", Attribute::Floats(vec![1.0, 1.0, 2.0, 2.0])).version(7);
    }
}
