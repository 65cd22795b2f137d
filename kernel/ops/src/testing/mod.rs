//! The machinery behind `op_tests!`: every case runs on every ISA level, with row-major and permuted inputs, with constants
//! packed and not, in place where the operator allows it, on one worker and on four, and is held against the reference.

mod oracle;
mod parallel;
pub(crate) mod recurrent;
pub(crate) mod reduction;
mod run;

use alloc::{
    string::{String, ToString},
    vec,
    vec::Vec,
};
use millstream_graph::{Attribute, Attributes, OpDef};
use millstream_tensor::{Tensor, Value};

pub(crate) use oracle::{cast, from_reals, map, pairs, reals, spread, zip};
pub(crate) use run::check;

/// One input for an operator.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// The schema version to build, the newest by default.
    pub(crate) version: Option<u32>,
    pub(crate) attributes: Attributes,
    pub(crate) inputs: Vec<Option<Value>>,
    /// Inputs that the plan would know as constants (and offer to `prepack`).
    pub(crate) constants: Vec<usize>,
    /// How many outputs the node names.
    pub(crate) outputs: usize,
}

impl Case {
    /// A case with these inputs.
    pub(crate) fn new(inputs: impl IntoIterator<Item = Tensor>) -> Case {
        Case { version: None, attributes: Attributes::default(), inputs: inputs.into_iter().map(|t| Some(t.into())).collect(), constants: vec![], outputs: 1 }
    }

    /// With an attribute.
    pub(crate) fn attr(mut self, name: &str, value: Attribute) -> Case {
        self.attributes.insert(name.to_string(), value);
        self
    }

    /// With an integer attribute.
    pub(crate) fn int(self, name: &str, value: i64) -> Case {
        self.attr(name, Attribute::Int(value))
    }

    /// With an attribute of integers.
    pub(crate) fn ints(self, name: &str, value: &[i64]) -> Case {
        self.attr(name, Attribute::Ints(value.to_vec()))
    }

    /// With a float attribute.
    pub(crate) fn float(self, name: &str, value: f32) -> Case {
        self.attr(name, Attribute::Float(value))
    }

    /// With a text attribute.
    pub(crate) fn string(self, name: &str, value: &str) -> Case {
        self.attr(name, Attribute::String(String::from(value)))
    }

    /// With another input; `None` leaves an optional one out.
    pub(crate) fn input(mut self, t: impl Into<Option<Tensor>>) -> Case {
        self.inputs.push(t.into().map(Value::Tensor));
        self
    }

    /// With input `i` known as a constant.
    pub(crate) fn constant(mut self, i: usize) -> Case {
        self.constants.push(i);
        self
    }

    /// With this many outputs.
    pub(crate) fn outputs(mut self, n: usize) -> Case {
        self.outputs = n;
        self
    }

    /// Built as this schema version.
    pub(crate) fn version(mut self, v: u32) -> Case {
        self.version = Some(v);
        self
    }

    /// Input `i`, which must be a tensor.
    pub(crate) fn tensor(&self, i: usize) -> &Tensor {
        self.inputs[i].as_ref().expect("the case has this input").as_tensor().expect("the case's input is a tensor")
    }

    /// Input `i`, if the case has it.
    pub(crate) fn optional(&self, i: usize) -> Option<&Tensor> {
        self.inputs.get(i)?.as_ref()?.as_tensor().ok()
    }

    /// A float attribute.
    pub(crate) fn float_or(&self, name: &str, default: f32) -> f64 {
        self.attributes.float_or(name, default).expect("the case's attribute is a float").into()
    }

    /// An integer attribute.
    pub(crate) fn int_or(&self, name: &str, default: i64) -> i64 {
        self.attributes.int_or(name, default).expect("the case's attribute is an integer")
    }
}

/// How far a result may be from the reference: |got − want| ≤ abs + rel·|want|.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tolerance {
    pub(crate) rel: f64,
    pub(crate) abs: f64,
}

impl Tolerance {
    /// The same bits (NaN equals NaN).
    pub(crate) const EXACT: Tolerance = Tolerance { rel: 0.0, abs: 0.0 };
    /// A few roundings of f32.
    pub(crate) const F32: Tolerance = Tolerance { rel: 2e-6, abs: 1e-7 };
    /// Sums of f32 whose terms may cancel.
    pub(crate) const SUM: Tolerance = Tolerance { rel: 1e-5, abs: 1e-5 };
}

/// An f32 tensor of values in −1..1 that depend on `seed` alone.
pub(crate) fn random(dims: &[usize], seed: u64) -> Tensor {
    let n: usize = dims.iter().product();
    let values: Vec<f32> = noise(seed).take(n).map(|x| (x >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect();
    Tensor::from_slice(dims, &values).expect("as many values as elements")
}

/// An i64 tensor of values in `low..high` that depend on `seed` alone.
pub(crate) fn random_ints(dims: &[usize], low: i64, high: i64, seed: u64) -> Tensor {
    let n: usize = dims.iter().product();
    let values: Vec<i64> = noise(seed).take(n).map(|x| low + (x >> 16) as i64 % (high - low)).collect();
    Tensor::from_slice(dims, &values).expect("as many values as elements")
}

/// SplitMix64.
pub(crate) fn noise(seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed;
    core::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

/// A shorter name for `Tensor::from_slice`.
pub(crate) fn t<T: millstream_tensor::Element>(dims: &[usize], values: &[T]) -> Tensor {
    Tensor::from_slice(dims, values).expect("as many values as elements")
}

/// Tests an operator: `op_tests! { DEF, reference, tolerance; name => case; … }`. Every case becomes a test of its own.
macro_rules! op_tests {
    ($def:expr, $reference:expr, $tolerance:expr; $($name:ident => $case:expr;)*) => {
        $( #[test] fn $name() { crate::testing::check(&$def, $reference, $tolerance, &$case); } )*
    };
}

/// The operator's output facts, values, and so on are compared by [`check`]; this gives its definition's newest version.
pub(crate) fn newest(def: &OpDef) -> u32 {
    *def.since.last().expect("every operator has a version")
}
