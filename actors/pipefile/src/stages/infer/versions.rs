//! Models that change while they run: `watch`, and `canary` for versions that go on trial first.

use std::{
    fmt,
    path::Path as FilePath,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use millstream_io::{WatchOptions, watch_model};
use millstream_runtime::{Canary, Deployment, EngineModel, LoadModel, StageError};

use super::loading::Loading;
use crate::{
    build::{Opened, Workshop},
    table::{At, Table},
};

/// How often somebody looks for candidates, where the file does not say.
const LOOK: Duration = Duration::from_secs(1);

/// Where newer versions come from, and how they come into place.
pub(super) struct Versions {
    every: Duration,
    trial: Option<Canary>,
    /// Candidates have a path of their own: what is there when the pipeline begins is one.
    candidate: Option<At<String>>,
}

impl Versions {
    /// `None` for a model that stays.
    pub(super) fn read(table: &Table<'_>) -> Option<Self> {
        let every = table.read_if::<Duration>("watch", |every| !every.is_zero(), "more than nothing").map(|every| every.value);
        let Some(canary) = table.table("canary") else { return every.map(|every| Versions { every, trial: None, candidate: None }) };
        let mut rules = Canary::default();
        let share = |key, into: &mut f64| {
            if let Some(share) = canary.read_if::<f64>(key, |share| (0.0..=1.0).contains(share), "from 0 to 1") {
                *into = share.value;
            }
        };
        share("share", &mut rules.share);
        share("max_failures", &mut rules.max_failures);
        if let Some(batches) = canary.count("batches") {
            rules.batches = batches as u64;
        }
        if let Some(times) = canary.read_if::<f64>("max_slowdown", |times| *times > 0.0, "more than 0") {
            rules.max_slowdown = times.value;
        }
        if let Some(within) = canary.read_if::<Duration>("within", |time| !time.is_zero(), "more than nothing") {
            rules.within = within.value;
        }
        let candidate = canary.read::<String>("model");
        canary.done();
        if candidate.is_none() && !table.has("watch") {
            let hint = "`watch` tries newer files of the stage's model, `model` in `canary` names where candidates lie";
            table.findings.hint(&table.key_span("canary"), "`canary` has nothing to try", hint);
        }
        Some(Versions { every: every.unwrap_or(LOOK), trial: Some(rules), candidate })
    }

    /// A deployment of the model; when the pipeline runs, somebody watches over its file, or over the candidates'.
    pub(super) fn deploy(
        &self,
        name: &str,
        model: &At<String>,
        opened: Opened,
        loading: &Loading,
        workshop: &mut Workshop<'_>,
    ) -> Option<Deployment<EngineModel>> {
        let (models, stage, loading) = (workshop.models.clone(), name.to_owned(), loading.clone());
        let version = Arc::new(AtomicU64::new(0));
        let load = move |opened: &Opened| {
            let version = version.fetch_add(1, Ordering::Relaxed) + 1;
            loading.handler(&stage, version, opened).map_err(|refused| refused.error)
        };
        let first = load.clone();
        let deployment = match Deployment::new(LoadModel::new(move || first(&opened))) {
            Ok(deployment) => deployment,
            Err(error) => {
                workshop.findings.add(&model.span, format!("`model`: {error}"));
                return None;
            }
        };
        if workshop.to_run {
            let from = self.candidate.as_ref().unwrap_or(model);
            let pattern = workshop.model_pattern(&from.value);
            let mut options = WatchOptions::new(self.every);
            (options.trial, options.present) = (self.trial, self.candidate.is_some());
            let newer = move |path: &FilePath| {
                let (models, load, path) = (models.clone(), load.clone(), path.to_owned());
                LoadModel::new(move || load(&models.open(&path).map_err(StageError::permanent)?))
            };
            match watch_model(&deployment, &pattern, options, newer, |_| {}) {
                Ok(watch) => workshop.watches.push(watch),
                Err(error) => workshop.findings.add(&from.span, format!("`watch`: {error}")),
            }
        }
        Some(deployment)
    }
}

/// What is behind the model's name in a drawing, and what `--dry` says.
impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(rules) = &self.trial else { return write!(f, "watched") };
        let from = self.candidate.as_ref().map_or_else(|| "newer files".to_owned(), |from| from.value.clone());
        write!(f, "{from} on trial: {} % of the batches", rules.share * 100.0)
    }
}
