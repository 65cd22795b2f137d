//! The kernels as PTX text, and what the text says of each: its block and its arguments.

use crate::CudaError;
use std::{collections::HashMap, sync::OnceLock};

macro_rules! modules {
    ($($name:literal),* $(,)?) => {
        /// The PTX of each module, ended by a zero as the driver wants it.
        pub(crate) const MODULES: &[(&str, &str)] = &[$(($name, concat!(include_str!(concat!("../ptx/", $name, ".ptx")), "\0"))),*];
    };
}

modules! {
    "attention", "attention_tensor", "cast", "conv", "decoder", "elementwise", "gemm", "movement", "norm", "pool", "quant",
    "quant_tensor", "sample",
}

/// What the PTX says of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The position of its module in [`MODULES`].
    pub(crate) module: usize,
    /// Threads of a block.
    pub(crate) block: u32,
    /// Bytes of each argument.
    pub(crate) arguments: Vec<usize>,
}

/// A kernel by name.
pub(crate) fn entry(name: &str) -> Result<&'static Entry, CudaError> {
    entries().get(name).ok_or_else(|| CudaError::NoKernel(name.to_owned()))
}

/// Every kernel of every module.
pub(crate) fn entries() -> &'static HashMap<&'static str, Entry> {
    static ENTRIES: OnceLock<HashMap<&str, Entry>> = OnceLock::new();
    ENTRIES.get_or_init(|| {
        let of = |(module, (_, text)): (usize, &(&str, &'static str))| {
            text.split(".visible .entry ").skip(1).filter_map(move |t| parse(module, t)).collect::<Vec<_>>()
        };
        MODULES.iter().enumerate().flat_map(of).collect()
    })
}

/// `name(.param …, .param …) .maxntid …` up to the body.
fn parse(module: usize, text: &'static str) -> Option<(&'static str, Entry)> {
    let head = text.split('{').next()?;
    let (name, rest) = head.split_once('(')?;
    let (parameters, rest) = rest.split_once(')')?;
    let arguments = parameters.split(',').map(bytes_of).collect::<Option<Vec<usize>>>()?;
    let block = rest.split(".maxntid ").nth(1)?.split(',').next()?.trim().parse().ok()?;
    Some((name.trim(), Entry { module, block, arguments }))
}

/// Bytes of `.param .u64 p0` and of `.param .align 8 .b8 p5[136]`.
fn bytes_of(parameter: &str) -> Option<usize> {
    if let Some((_, size)) = parameter.split_once('[') {
        return size.split(']').next()?.parse().ok();
    }
    let kind = parameter.split_whitespace().nth(1)?;
    match kind.get(2..)? {
        "64" => Some(8),
        "32" => Some(4),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_of_the_texts_is_understood() {
        let written: usize = MODULES.iter().map(|(_, text)| text.matches(".visible .entry ").count()).sum();
        assert_eq!(entries().len(), written);
        assert_eq!(entry("gemm_f32").unwrap(), &Entry { module: 6, block: 256, arguments: vec![8, 8, 8, 8, 8, 136] });
        assert_eq!(entry("unary_relu_f16").unwrap().arguments, [8, 8, 8, 4, 4]);
        assert_eq!(entry("unary_relu_f64"), Err(CudaError::NoKernel("unary_relu_f64".into())));
    }
}
