//! Inference against evaluation, on random operators, attributes, types and dims.
//!
//! Where all inputs are known, inferred facts are those of the results. Where dims are symbols, or elements unknown, every dim
//! and element that inference tells is still that of the results. Nothing panics, whatever the inputs.

mod blind;
mod sensible;

use millstream_graph::{Attribute, Attributes, BuildCx, Dim, Fact, InferCx, InferError, Known, Op, OpDef, Spec, Symbol, eval_to_values};
use millstream_simd::Level;
use millstream_tensor::{DType, Tensor, Value};
use std::{collections::BTreeMap, fmt};

/// Larger results are not computed.
const MOST_BYTES: usize = 1 << 20;

/// A node and its inputs.
#[derive(Clone)]
struct Case {
    def: &'static OpDef,
    opset: u32,
    attributes: Vec<(String, Attribute)>,
    inputs: Vec<Option<Tensor>>,
    outputs: usize,
}

/// How much of an input inference may see.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Sight {
    /// Its elements.
    Elements,
    /// Its dims as numbers.
    Dims,
    /// Every dim as a symbol of its own.
    Rank,
    /// Every dim as a symbol that all dims of this extent share.
    Equal,
}

impl Case {
    /// The operator, if the attributes fit it.
    fn op(&self) -> Option<Box<dyn Op>> {
        let attributes: Attributes = self.attributes.iter().cloned().collect();
        let cx = BuildCx { version: 0, attributes: &attributes, inputs: self.inputs.len(), outputs: self.outputs, subgraphs: &[] };
        self.def.instantiate(self.opset, cx).ok()
    }

    fn infer(&self, op: &dyn Op, facts: &[Option<Fact>]) -> Result<Vec<Fact>, InferError> {
        let refs: Vec<Option<&Fact>> = facts.iter().map(Option::as_ref).collect();
        op.infer(&InferCx { path: "node", inputs: &refs, outputs: self.outputs })
    }

    /// The inferred facts from all that there is, and the results; `None` if the inputs do not fit the operator.
    fn results(&self, op: &dyn Op) -> Option<(Vec<Fact>, Vec<Tensor>)> {
        let facts: Vec<Option<Fact>> = self.inputs.iter().map(|t| t.as_ref().map(|t| Fact::constant(t.clone().into()))).collect();
        let inferred = self.infer(op, &facts).ok()?;
        let specs: Vec<Option<Spec>> = inferred.iter().map(|f| f.shape()?.ok().map(|s| Spec::row_major(f.dtype, s))).collect();
        if specs.iter().flatten().map(Spec::bytes).sum::<usize>() > MOST_BYTES {
            return None;
        }
        let inputs: Vec<Option<Value>> = self.inputs.iter().map(|t| t.clone().map(Value::Tensor)).collect();
        let values = eval_to_values(op, Level::scalar(), &inputs, &specs).ok()?;
        Some((inferred, values.into_iter().map(|v| v.into_tensor().ok()).collect::<Option<_>>()?))
    }

    /// The facts of the inputs as far as sight reaches, and what their symbols stand for.
    fn seen(&self, sights: &[Sight]) -> (Vec<Option<Fact>>, BTreeMap<Symbol, i64>) {
        let mut symbols = BTreeMap::new();
        let mut fact = |i: usize, t: &Tensor| {
            let sight = sights[i % sights.len()];
            let mut dim = |axis: usize, extent: usize| {
                let name = if sight == Sight::Equal { format!("extent{extent}") } else { format!("input{i}.{axis}") };
                symbols.insert(Symbol::new(&name), extent as i64);
                Dim::symbol(Symbol::new(&name))
            };
            match sight {
                Sight::Elements => Fact::constant(t.clone().into()),
                Sight::Dims => Fact::concrete(t.dtype(), t.shape()),
                Sight::Rank | Sight::Equal => Fact::new(t.dtype(), t.shape().iter().enumerate().map(|(axis, &d)| dim(axis, d)).collect()),
            }
        };
        let facts = self.inputs.iter().enumerate().map(|(i, t)| t.as_ref().map(|t| fact(i, t))).collect();
        (facts, symbols)
    }

    /// Holds inference against evaluation. True if the inputs fit the operator.
    fn check(&self, sights: &[Sight]) -> bool {
        let Some(op) = self.op() else { return false };
        let (facts, symbols) = self.seen(sights);
        let partly = self.infer(&*op, &facts);
        let Some((inferred, results)) = self.results(&*op) else { return false };
        self.agree(&inferred, &results, &symbols);
        match partly {
            Ok(partly) => self.agree(&partly, &results, &symbols),
            Err(InferError::NeedsValue(_) | InferError::NeedsDims(_)) => {}
            Err(e) => panic!("inference with {sights:?} refuses what runs: {e}\n{}", self.text()),
        }
        true
    }

    fn agree(&self, facts: &[Fact], results: &[Tensor], symbols: &BTreeMap<Symbol, i64>) {
        for (i, (fact, result)) in facts.iter().zip(results).enumerate() {
            let told = |what: &str| format!("output {i}: {what}: {fact} for {}[{}]\n{}", result.dtype(), result.shape(), self.text());
            assert_eq!(fact.dtype, result.dtype(), "{}", told("type"));
            assert_eq!(fact.rank(), result.shape().rank(), "{}", told("rank"));
            for (dim, &extent) in fact.dims.iter().zip(result.shape().iter()) {
                // Windows over fewer elements than they reach are none: inference counts them below 0.
                if let Some(number) = dim.substitute(symbols).as_const().map(|n| n.max(0)) {
                    assert_eq!(number, extent as i64, "{}", told("dims"));
                }
            }
            match &fact.known {
                Some(Known::Const(w)) => assert_eq!(&w.to_tensor().expect("a constant"), result, "{}", told("elements")),
                Some(Known::Dims(dims)) => {
                    for (dim, element) in dims.iter().zip(integers(result)) {
                        assert!(dim.substitute(symbols).as_const().is_none_or(|n| n == element), "{}", told("elements"));
                    }
                }
                None => {}
            }
        }
    }

    fn text(&self) -> String {
        let input = |t: &Option<Tensor>| t.as_ref().map_or("-".into(), |t| format!("{}[{}]{:?}", t.dtype(), t.shape(), integers(t)));
        let inputs: Vec<String> = self.inputs.iter().map(input).collect();
        format!("{} {} {:?} on {}, {} outputs", self.def.name, self.opset, self.attributes, inputs.join(", "), self.outputs)
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

fn integers(t: &Tensor) -> Vec<i64> {
    match t.dtype() {
        DType::I64 => t.as_slice::<i64>().expect("i64").to_vec(),
        DType::I32 => t.as_slice::<i32>().expect("i32").iter().map(|&x| x.into()).collect(),
        _ => vec![],
    }
}

/// Any sight for each of the first inputs, which repeats for the rest.
fn sights() -> impl proptest::strategy::Strategy<Value = Vec<Sight>> {
    proptest::collection::vec(proptest::sample::select(vec![Sight::Elements, Sight::Dims, Sight::Rank, Sight::Equal]), 1..5)
}
