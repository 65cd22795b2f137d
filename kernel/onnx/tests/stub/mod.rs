//! A registry that learns whatever operator a model names, for tests of the reader alone.
#![allow(dead_code, reason = "each test uses its part")]

use millstream_graph::{Arity, BuildCx, BuildError, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef, Registry};
use millstream_onnx::{LoadError, LoadOptions, Model, Reason, load};
use millstream_tensor::WeightSource;
use std::{collections::BTreeMap, sync::Arc};

/// An operator that is only looked at.
#[derive(Debug)]
pub(crate) struct Stub;

impl Op for Stub {
    fn infer(&self, _: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        Err(InferError::Invalid("a stub infers nothing"))
    }
    fn eval(&self, _: &mut EvalCx<'_>) -> Result<(), EvalError> {
        Err(EvalError::Invalid("a stub computes nothing"))
    }
}

/// A schema that takes these attributes and subgraphs.
pub(crate) fn schema(domain: &str, name: &str, attributes: &[&str], subgraphs: &[&str]) -> &'static OpDef {
    let leak = |s: &str| -> &'static str { Box::leak(s.to_owned().into_boxed_str()) };
    let all = |s: &[&str]| -> &'static [&'static str] { Box::leak(s.iter().map(|s| leak(s)).collect()) };
    Box::leak(Box::new(OpDef {
        domain: leak(domain),
        name: leak(name),
        since: &[1],
        inputs: Arity::at_least(0),
        outputs: Arity::at_least(0),
        attributes: all(attributes),
        subgraphs: all(subgraphs),
        dtypes: "any",
        build: |_: &BuildCx<'_>| Ok(Box::new(Stub)),
    }))
}

/// Loads with a registry that gets what the model lacks, until nothing is lacking.
pub(crate) fn load_learning(source: Arc<dyn WeightSource>, options: &LoadOptions<'_>) -> Result<(Model, Registry), LoadError> {
    let mut known: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    loop {
        let mut registry = Registry::new();
        for ((domain, name), attributes) in &known {
            let subgraphs: &[&str] = match name.as_str() {
                "If" => &["then_branch", "else_branch"],
                "Loop" | "Scan" => &["body"],
                _ => &[],
            };
            registry.add(schema(domain, name, &attributes.iter().map(String::as_str).collect::<Vec<_>>(), subgraphs));
        }
        let problems = match load(source.clone(), &registry, options) {
            Err(LoadError::Unsupported(problems)) => problems,
            other => return other.map(|model| (model, registry)),
        };
        let mut learnt = false;
        for p in &problems {
            let of = (p.domain.clone(), p.op.clone());
            match &p.reason {
                Reason::Build(BuildError::UnknownOperator { .. }) => {
                    learnt |= !known.contains_key(&of);
                    known.entry(of).or_default();
                }
                Reason::Build(BuildError::UnknownAttribute(a)) => {
                    let attributes = known.entry(of).or_default();
                    learnt |= !attributes.contains(a);
                    attributes.push(a.clone());
                }
                _ => {}
            }
        }
        if !learnt {
            return Err(LoadError::Unsupported(problems));
        }
    }
}
