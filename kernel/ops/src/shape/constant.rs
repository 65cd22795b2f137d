//! `Constant`: the tensor that an attribute holds.

use alloc::{boxed::Box, string::String, vec, vec::Vec};
use millstream_graph::{Arity, BuildCx, BuildError, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef};
use millstream_tensor::{Tensor, Value};

/// The operator's schema.
pub const DEF: OpDef = OpDef {
    domain: "",
    name: "Constant",
    since: &[1, 9, 11, 12, 13, 19, 21, 23, 24, 25],
    inputs: Arity::exactly(0),
    outputs: Arity::exactly(1),
    attributes: &["value", "value_float", "value_floats", "value_int", "value_ints", "value_string", "value_strings"],
    subgraphs: &[],
    dtypes: "any",
    build: |cx: &BuildCx<'_>| {
        let a = cx.attributes;
        let tensor = if let Some(t) = a.tensor("value")? {
            t.clone()
        } else if let Some(&x) = a.float("value_float")? {
            Tensor::scalar(x)?
        } else if let Some(x) = a.floats("value_floats")? {
            Tensor::from_slice(&[x.len()], x)?
        } else if let Some(&x) = a.int("value_int")? {
            Tensor::scalar(x)?
        } else if let Some(x) = a.ints("value_ints")? {
            Tensor::from_slice(&[x.len()], x)?
        } else if let Some(x) = a.string("value_string")? {
            Tensor::from_strings(&[], vec![String::clone(x)])?
        } else if let Some(x) = a.strings("value_strings")? {
            Tensor::from_strings(&[x.len()], x.clone())?
        } else {
            return Err(BuildError::MissingAttribute("value"));
        };
        Ok(Box::new(Constant { value: tensor }))
    },
};

/// A tensor that is part of the model.
#[derive(Debug, Clone)]
pub struct Constant {
    value: Tensor,
}

impl Constant {
    /// The tensor.
    pub fn value(&self) -> &Tensor {
        &self.value
    }
}

impl Op for Constant {
    fn infer(&self, _cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        Ok(vec![Fact::constant(self.value.clone().into())])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        cx.set_value(0, Value::Tensor(self.value.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, Tolerance, random, t};
    use millstream_graph::Attribute;

    fn reference(case: &Case) -> Vec<Tensor> {
        let a = &case.attributes;
        vec![match a.names().next().and_then(|n| a.find(n)).unwrap() {
            Attribute::Tensor(x) => x.clone(),
            Attribute::Float(x) => t(&[], &[*x]),
            Attribute::Floats(x) => t(&[x.len()], x),
            Attribute::Int(x) => t(&[], &[*x]),
            Attribute::Ints(x) => t(&[x.len()], x),
            Attribute::String(x) => Tensor::from_strings(&[], vec![x.clone()]).unwrap(),
            Attribute::Strings(x) => Tensor::from_strings(&[x.len()], x.clone()).unwrap(),
            _ => unreachable!("no such attribute in the cases"),
        }]
    }

    op_tests! { DEF, reference, Tolerance::EXACT;
        tensor => Case::new([]).attr("value", Attribute::Tensor(random(&[2, 3], 1)));
        float => Case::new([]).float("value_float", 2.5);
        floats => Case::new([]).attr("value_floats", Attribute::Floats(vec![1.0, 2.0]));
        int => Case::new([]).int("value_int", -7);
        ints => Case::new([]).ints("value_ints", &[1, 2, 3]);
        string => Case::new([]).string("value_string", "x");
        strings => Case::new([]).attr("value_strings", Attribute::Strings(vec!["x".into(), "y".into()]));
    }
}
