//! 3 × 3 convolutions whose dims make Winograd's algorithm pay run by it.

use super::{becomes, stays};
use crate::model::{Model, ints, model, noise};

const RULE: &[&str] = &["winograd"];

fn conv(image: &[usize], weights: &[usize], constant: bool, attributes: &[(&str, &[i64])]) -> Model {
    model(|b| {
        let x = b.input(noise(image, 1));
        let w = if constant { b.constant(noise(weights, 2)) } else { b.input(noise(weights, 2)) };
        let attributes: Vec<_> = attributes.iter().map(|(name, values)| (*name, ints(values))).collect();
        b.op_with("Conv", &[x, w], &attributes)
    })
}

#[test]
fn dense_windows_with_channels_and_pixels_enough_do() {
    becomes(RULE, &conv(&[2, 20, 12, 13], &[24, 20, 3, 3], true, &[("pads", &[1, 1, 1, 1])]), &["FusedConv"]);
}

#[test]
fn others_do_not() {
    stays(RULE, &conv(&[1, 20, 12, 13], &[24, 20, 3, 3], false, &[]));
    stays(RULE, &conv(&[1, 20, 12, 13], &[24, 20, 3, 3], true, &[("strides", &[2, 1])]));
    stays(RULE, &conv(&[1, 20, 12, 13], &[24, 20, 3, 3], true, &[("dilations", &[1, 2])]));
    stays(RULE, &conv(&[1, 20, 12, 13], &[24, 20, 5, 5], true, &[]));
    stays(RULE, &conv(&[1, 4, 12, 13], &[24, 4, 3, 3], true, &[]));
    stays(RULE, &conv(&[1, 20, 3, 3], &[24, 20, 3, 3], true, &[]));
}
