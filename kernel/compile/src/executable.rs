//! A lowered model that runs: binds plans, caches them in workspaces, and executes them.

use crate::{Template, template::Segment};
use alloc::{
    boxed::Box,
    string::{String, ToString},
    sync::Arc,
    vec,
    vec::Vec,
};
use core::{
    any::Any,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};
use millstream_engine::{Bindings, Executable, Given, Plan, PlanBytes, PlanOutput, Request, RunError, Signature, Workers, Workspace, run_plan};
use millstream_graph::{FOLD_LIMIT, Fact, Spec};
use millstream_tensor::{DType, Shape, Tensor, TensorError, TensorView, TensorViewMut, Value};

/// Distinguishes executables that share a workspace.
static NEXT_ID: AtomicUsize = AtomicUsize::new(0);

/// A [`Template`] with the workers that run its plans.
pub struct CompiledModel {
    id: usize,
    template: Template,
    workers: Arc<dyn Workers>,
    /// One bit an input: plans depend on its elements, since shapes are computed from them. Bits are only ever set.
    by_value: AtomicU64,
}

/// What a plan was bound for: the shapes of all inputs, and the elements of those that shapes depend on.
struct BoundFor {
    shapes: Vec<Shape>,
    values: Vec<(usize, Tensor)>,
}

impl Bindings for BoundFor {
    fn same(&self, other: &dyn Any) -> bool {
        other.downcast_ref::<BoundFor>().is_some_and(|o| o.shapes == self.shapes && o.values == self.values)
    }
}

impl BoundFor {
    fn matches(&self, inputs: Given<'_>) -> bool {
        let same_shape = |(i, s): (usize, &Shape)| inputs.tensor(i).is_ok_and(|t| t.shape() == s);
        let same = |(i, t): &(usize, Tensor)| inputs.tensor(*i).and_then(|x| same_elements(x, t.view())).unwrap_or(false);
        self.shapes.iter().enumerate().all(same_shape) && self.values.iter().all(same)
    }
}

impl CompiledModel {
    /// A model that runs on these workers.
    pub fn new(template: Template, workers: Arc<dyn Workers>) -> CompiledModel {
        CompiledModel { id: NEXT_ID.fetch_add(1, Ordering::Relaxed), template, workers, by_value: AtomicU64::new(0) }
    }

    /// The lowered model.
    pub fn template(&self) -> &Template {
        &self.template
    }

    fn depends_on(&self, input: usize) -> bool {
        input < 64 && self.by_value.load(Ordering::Relaxed) & (1 << input) != 0
    }

    /// Binds the first segment. If it ends early because small inputs' elements were not known, they become known.
    fn bind(&self, inputs: Given<'_>) -> Result<Segment, RunError> {
        loop {
            let mut facts = Vec::with_capacity(inputs.len());
            for i in 0..inputs.len() {
                facts.push(fact_of(inputs, i, self.depends_on(i))?);
            }
            let segment = self.template.bind(&facts);
            let wanted = match &segment {
                Ok(s) if !s.is_last() => s.wanted_inputs.clone(),
                Ok(_) => return segment,
                // Nothing could be done at all without the elements: every small input may help.
                Err(RunError::Shape(_) | RunError::DataDependent(_)) => (0..inputs.len()).collect(),
                Err(_) => return segment,
            };
            let small = |i: &usize| *i < 64 && !self.depends_on(*i) && inputs.tensor(*i).is_ok_and(|t| t.shape().elements() <= FOLD_LIMIT);
            let fresh: Vec<usize> = wanted.into_iter().filter(small).collect();
            if fresh.is_empty() {
                return segment;
            }
            for i in fresh {
                self.by_value.fetch_or(1 << i, Ordering::Relaxed);
            }
        }
    }

    /// The plan for these inputs if it is a whole one, from the workspace or bound now; else the first segment.
    fn plan(&self, workspace: &mut Workspace, inputs: Given<'_>) -> Result<Result<Arc<Plan>, Segment>, RunError> {
        let found = workspace.find_plan(self.id, |b| (b as &dyn Any).downcast_ref::<BoundFor>().is_some_and(|b| b.matches(inputs)));
        if let Some(plan) = found {
            return Ok(Ok(plan));
        }
        let segment = self.bind(inputs)?;
        if !segment.is_last() {
            return Ok(Err(segment));
        }
        let mut bound = BoundFor { shapes: Vec::new(), values: Vec::new() };
        for i in 0..inputs.len() {
            bound.shapes.push(*inputs.tensor(i)?.shape());
            if self.depends_on(i) {
                bound.values.push((i, inputs.to_value(i)?.into_tensor()?));
            }
        }
        let plan = Arc::new(segment.plan);
        workspace.keep_plan(self.id, Box::new(bound), plan.clone());
        Ok(Ok(plan))
    }

    fn execute(
        &self,
        plan: &Plan,
        workspace: &mut Workspace,
        inputs: Given<'_>,
        request: &mut Rest<'_, '_>,
        last: bool,
    ) -> Result<Vec<Option<Value>>, RunError> {
        let mut result = Ok(Vec::new());
        let level = self.template.level();
        self.workers.enter(&mut |parallel| {
            let outputs: &mut [Option<TensorViewMut<'_>>] = if last { request.outputs } else { &mut [] };
            let profiler = request.profiler.as_mut().map(|p| &mut **p as &mut dyn millstream_engine::Profiler);
            result = run_plan(plan, level, parallel, workspace, inputs, outputs, request.cancel, profiler);
        });
        result
    }

    fn run_given(&self, workspace: &mut Workspace, inputs: Given<'_>, mut rest: Rest<'_, '_>) -> Result<Vec<Option<Value>>, RunError> {
        self.signature().check(inputs)?;
        let mut segment = match self.plan(workspace, inputs)? {
            Ok(plan) => return self.execute(&plan, workspace, inputs, &mut rest, true),
            Err(segment) => segment,
        };
        let mut values = self.execute(&segment.plan, workspace, inputs, &mut rest, false)?;
        loop {
            let given: Vec<Value> = values.into_iter().flatten().collect();
            let given = Given::Values(&given);
            // What ran is known now, whatever its size: an operator may want any of it.
            let facts = (0..given.len()).map(|i| fact_of(given, i, true)).collect::<Result<Vec<_>, _>>()?;
            segment = self.template.bind_next(&segment, facts)?;
            values = self.execute(&segment.plan, workspace, given, &mut rest, segment.is_last())?;
            if segment.is_last() {
                return Ok(values);
            }
        }
    }

    fn bind_shapes(&self, inputs: &[Shape]) -> Result<Segment, RunError> {
        self.template.bind(&self.template.signature().facts(inputs)?)
    }
}

/// True if two dense tensors of one shape have the same type and elements.
fn same_elements(a: TensorView<'_>, b: TensorView<'_>) -> Result<bool, TensorError> {
    Ok(match (a.dtype(), b.dtype()) {
        (DType::String, DType::String) => a.as_strings()? == b.as_strings()?,
        (a_type, b_type) => a_type == b_type && a.bytes()? == b.bytes()?,
    })
}

/// What of a request is left once its inputs are taken.
struct Rest<'a, 'o> {
    outputs: &'a mut [Option<TensorViewMut<'o>>],
    cancel: Option<&'a millstream_engine::Cancel>,
    profiler: Option<&'a mut dyn millstream_engine::Profiler>,
}

fn fact_of(inputs: Given<'_>, i: usize, with_elements: bool) -> Result<Fact, RunError> {
    let t = inputs.tensor(i)?;
    Ok(if with_elements { Fact::constant(inputs.to_value(i)?.into_tensor()?.into()) } else { Fact::concrete(t.dtype(), t.shape()) })
}

impl Executable for CompiledModel {
    fn signature(&self) -> &Signature {
        self.template.signature()
    }

    fn run(&self, workspace: &mut Workspace, request: Request<'_, '_>) -> Result<Vec<Option<Value>>, RunError> {
        let Request { inputs, outputs, cancel, profiler } = request;
        self.run_given(workspace, Given::Values(inputs), Rest { outputs, cancel, profiler })
    }

    fn run_views(
        &self,
        workspace: &mut Workspace,
        inputs: &[TensorView<'_>],
        outputs: &mut [Option<TensorViewMut<'_>>],
    ) -> Result<Vec<Option<Value>>, RunError> {
        let rest = Rest { outputs, cancel: None, profiler: None };
        if inputs.iter().all(|v| v.layout().is_row_major()) {
            return self.run_given(workspace, Given::Views(inputs), rest);
        }
        self.run_given(workspace, Given::Values(&Given::Views(inputs).to_values()?), rest)
    }

    fn output_specs(&self, workspace: &mut Workspace, inputs: &[TensorView<'_>]) -> Result<Vec<Option<Spec>>, RunError> {
        let inputs = Given::Views(inputs);
        self.signature().check(inputs)?;
        let Ok(plan) = self.plan(workspace, inputs)? else { return Ok(vec![None; self.signature().outputs.len()]) };
        let spec = |output: &PlanOutput| match output {
            PlanOutput::Memory(spec) => Some(*spec),
            PlanOutput::Constant(t) => Some(Spec::row_major(t.dtype(), *t.shape())),
            PlanOutput::Input(i) => inputs.tensor(*i).ok().map(|t| Spec::row_major(t.dtype(), *t.shape())),
            _ => None,
        };
        Ok(plan.outputs.iter().map(spec).collect())
    }

    fn plan_bytes(&self, inputs: &[Shape]) -> Result<PlanBytes, RunError> {
        let segment = self.bind_shapes(inputs)?;
        if !segment.is_last() {
            return Err(RunError::DataDependent("shapes that depend on elements".into()));
        }
        let plan = &segment.plan;
        Ok(PlanBytes::new(self.template.weight_bytes(), plan.arena_bytes, plan.scratch_bytes, plan.io_bytes()))
    }

    fn describe(&self, inputs: &[Shape]) -> Result<Vec<String>, RunError> {
        let segment = self.bind_shapes(inputs)?;
        Ok(segment.plan.steps.iter().map(ToString::to_string).collect())
    }
}
