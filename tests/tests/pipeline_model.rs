//! A model of the engine inside a pipeline gives what it gives alone, for ragged examples and several replicas.

use millstream::{
    DType, Session, Tensor,
    kernel::graph::{BuildCx, Declared, Graph, Node},
    runtime::{Pipeline, RunInference, collect, from_iter},
};

/// `y = relu(x)`, for any number of rows of any length.
fn relu(session: &Session) -> millstream::Model {
    let mut graph = Graph::new("relu");
    let dims = Some(vec![Some(Err("batch".to_owned())), Some(Err("n".to_owned()))]);
    let x = graph.add_input("x", Declared { dtype: Some(DType::F32), dims });
    let y = graph.add_placeholder("y", Declared::default());
    let def = session.registry().find("", "Relu").expect("an operator of ours");
    let cx = BuildCx { version: 14, attributes: &Default::default(), inputs: 1, outputs: 1, subgraphs: &[] };
    let op = def.instantiate(14, cx).expect("no attributes to refuse");
    graph.add_node(Node { path: "relu".into(), op_name: "Relu".into(), op: op.into(), inputs: vec![Some(x)], outputs: vec![Some(y)], subgraphs: Vec::new() });
    graph.add_output(y);
    session.compile(graph).expect("the graph is whole")
}

#[test]
fn a_model_in_a_pipeline_gives_what_it_gives_alone() {
    let model = relu(&Session::builder().threads(1).build());
    let examples: Vec<Tensor> = (0..500usize)
        .map(|i| {
            let row: Vec<f32> = (0..1 + i % 9).map(|j| (i as f32).sin() + j as f32 - 3.0).collect();
            Tensor::from_slice(&[row.len()], &row).expect("a vector")
        })
        .collect();
    let alone: Vec<Tensor> = examples
        .iter()
        .map(|x| {
            let row = x.reshaped(&[1, x.shape().dims()[0]]).expect("one row");
            let y = model.run(&[("x", row)]).expect("it runs");
            y.first().and_then(|y| Ok(y.reshaped(x.shape().dims())?)).expect("one row")
        })
        .collect();

    let (sink, results) = collect();
    let records = examples.into_iter().enumerate();
    let report = Pipeline::from(from_iter(records))
        .infer("model", RunInference::new(&model).batch(1..=32).replicas(2).preprocess(|(_, x): &(usize, Tensor)| Ok::<_, millstream::Error>(vec![x.clone()])))
        .map("index", |p| (p.example.0, p.inference))
        .sink(sink)
        .memory_budget(64 << 20)
        .run()
        .expect("nothing fails");
    assert_eq!(report.counts.ok, 500);
    let mut results = results.take();
    results.sort_by_key(|(index, _)| *index);
    for ((index, inference), alone) in results.iter().zip(&alone) {
        assert_eq!(inference.as_slice(), std::slice::from_ref(alone), "example {index}");
    }
}
