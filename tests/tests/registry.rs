//! The registry is open: an operator of this crate's own takes part in a model, on every backend.

use millstream::{
    DType, Session, Tensor,
    candle::CandleBackend,
    kernel::graph::{Arity, BuildCx, BuildError, EvalCx, EvalError, Fact, InferCx, InferError, Op, OpDef},
};
use millstream_tests::single::Case;
use std::sync::Arc;

/// `y = x² + bias`.
const SQUARE: OpDef = OpDef {
    domain: "com.example",
    name: "SquarePlus",
    since: &[1],
    inputs: Arity::exactly(1),
    outputs: Arity::exactly(1),
    attributes: &["bias"],
    subgraphs: &[],
    dtypes: "f32",
    build: |cx: &BuildCx<'_>| {
        let bias = cx.attributes.float_or("bias", 0.0)?;
        if !bias.is_finite() {
            return Err(BuildError::UnsupportedAttribute { name: "bias", value: bias.to_string() });
        }
        Ok(Box::new(SquarePlus { bias }))
    },
};

#[derive(Debug)]
struct SquarePlus {
    bias: f32,
}

impl Op for SquarePlus {
    fn infer(&self, cx: &InferCx<'_>) -> Result<Vec<Fact>, InferError> {
        let x = cx.input(0)?;
        if x.dtype != DType::F32 {
            return Err(InferError::DType { input: 0, found: x.dtype });
        }
        Ok(vec![Fact::new(x.dtype, x.dims.clone())])
    }

    fn eval(&self, cx: &mut EvalCx<'_>) -> Result<(), EvalError> {
        let (x, mut y) = (cx.input::<f32>(0)?, cx.output::<f32>(0)?);
        y.fill_from(x.iter().map(|x| x * x + self.bias));
        Ok(())
    }
}

#[test]
fn an_operator_from_outside_runs_on_every_backend() {
    let mut registry = millstream::kernel::ops::registry();
    registry.add(&SQUARE);
    let x = Tensor::from_slice(&[2, 2], &[1.0f32, 2.0, 3.0, -4.0]).expect("four elements");
    let case = Case { domain: "com.example", ..Case::new("square", "SquarePlus", [x.clone()]).float("bias", 0.5) };
    for builder in [Session::builder(), Session::builder().backend(Arc::new(CandleBackend::new()))] {
        let session = builder.registry(registry.clone()).build();
        let (graph, _) = case.graph(session.registry());
        let outputs = session.compile(graph).expect("it compiles").run(&[("x0", x.clone())]).expect("it runs");
        assert_eq!(outputs.first().and_then(|t| Ok(t.as_slice::<f32>()?)).expect("f32"), [1.5, 4.5, 9.5, 16.5]);
    }
}

#[test]
fn without_it_the_registry_does_not_know_it() {
    assert!(millstream::kernel::ops::registry().find("com.example", "SquarePlus").is_none());
}
