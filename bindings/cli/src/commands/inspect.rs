//! `millstream inspect`: what a model is made of, and what its plan looks like.

use crate::{failure::Failure, output};
use millstream::{Error, Model, Session, Shape, kernel::engine::Port};
use serde_json::{Value as Json, json};
use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

/// Prints a model's signature, operators and parameters, and everything in it that is not supported.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The ONNX model.
    model: PathBuf,
    /// Also print the plan: its steps with their kernels, and the bytes that a run takes.
    #[arg(long)]
    plan: bool,
    /// The dims of an input, for the plan: 1 stands for every dim that is not given.
    #[arg(long = "dims", value_name = "NAME=N,N,…")]
    dims: Vec<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let session = Session::new();
    let read = match session.read(&arguments.model) {
        Err(Error::Load { error, .. }) => {
            if arguments.json {
                println!("{}", json!({ "unsupported": error.to_string().lines().collect::<Vec<_>>() }));
            } else {
                println!("{error}");
            }
            return Ok(ExitCode::from(1));
        }
        read => read?,
    };
    let mut operators: BTreeMap<String, usize> = BTreeMap::new();
    let (mut parameters, mut bytes) = (0, 0);
    count(&read.graph, &mut operators, &mut parameters, &mut bytes);
    let opsets: Vec<String> = read.opsets.iter().map(|(domain, v)| format!("{} {v}", if domain.is_empty() { "ai.onnx" } else { domain })).collect();
    let (producer, metadata) = (read.producer.clone(), read.metadata_props.clone());
    let model = session.compile(read.graph)?;
    let plan = if arguments.plan { Some(plan(&model, &arguments.dims)?) } else { None };
    let signature = model.signature();
    if arguments.json {
        let ports = |ports: &[Port]| ports.iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut report = json!({
            "producer": producer, "opsets": opsets, "metadata": metadata.into_iter().collect::<BTreeMap<_, _>>(), "inputs": ports(&signature.inputs),
            "outputs": ports(&signature.outputs), "operators": operators, "parameters": parameters, "parameter_bytes": bytes, "unsupported": Json::Array(vec![]),
        });
        if let Some((steps, memory)) = plan {
            report["plan"] =
                json!({ "steps": steps, "weight_bytes": memory.weights, "arena_bytes": memory.arena, "scratch_bytes": memory.scratch, "io_bytes": memory.io });
        }
        println!("{report}");
        return Ok(ExitCode::SUCCESS);
    }
    println!("made by {producer}; {}", opsets.join(", "));
    for (title, ports) in [("inputs", &signature.inputs), ("outputs", &signature.outputs)] {
        println!("{title}");
        ports.iter().for_each(|p| println!("  {p}"));
    }
    println!("parameters: {parameters} ({})", output::bytes(bytes));
    println!(
        "operators, all supported\n{}",
        output::table(&["  operator", "nodes"], operators.into_iter().map(|(o, n)| vec![format!("  {o}"), n.to_string()]), true)
    );
    if let Some((steps, memory)) = plan {
        println!("plan: {} steps", steps.len());
        steps.iter().for_each(|s| println!("  {s}"));
        println!(
            "weights {}, arena {} (scratch {}), inputs and outputs {}",
            output::bytes(memory.weights),
            output::bytes(memory.arena),
            output::bytes(memory.scratch),
            output::bytes(memory.io)
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn count(graph: &millstream::kernel::graph::Graph, operators: &mut BTreeMap<String, usize>, parameters: &mut usize, bytes: &mut usize) {
    for (_, node) in graph.nodes() {
        *operators.entry(node.op_name.to_string()).or_default() += 1;
        node.subgraphs.iter().for_each(|s| count(&s.graph, operators, parameters, bytes));
    }
    for weight in graph.values().filter_map(|(_, v)| v.constant()) {
        *parameters += weight.shape().elements();
        *bytes += weight.bytes_len();
    }
}

type Plan = (Vec<String>, millstream::kernel::engine::PlanBytes);

fn plan(model: &Model, dims: &[String]) -> Result<Plan, Failure> {
    let mut given: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for d in dims {
        let wrong = || Failure::Usage(format!("--dims {d}: NAME=N,N,… is expected"));
        let (name, list) = d.split_once('=').ok_or_else(wrong)?;
        let list = list.split(',').filter(|n| !n.is_empty()).map(|n| n.trim().parse().map_err(|_| wrong())).collect::<Result<_, _>>()?;
        given.insert(name, list);
    }
    let shape = |port: &Port| {
        let dims = given.get(&*port.name).cloned().unwrap_or_else(|| port.dims.iter().flatten().map(|d| *d.as_ref().unwrap_or(&1)).collect());
        Shape::new(&dims)
    };
    let shapes = model.signature().inputs.iter().map(shape).collect::<Result<Vec<_>, _>>()?;
    let steps = model.executable().describe(&shapes).map_err(Error::from)?;
    Ok((steps, model.plan_bytes(&shapes)?))
}
