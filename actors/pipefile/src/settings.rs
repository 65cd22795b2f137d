//! What a file says of the pipeline as a whole.

use std::time::Duration;

use millstream_io::{CheckpointFolder, letters};
use millstream_runtime::{CheckpointOptions, Order, Pipeline, Scaling};
use millstream_telemetry::{Otlp, TelemetryError};

use crate::{
    build::Workshop,
    supervision::Supervised,
    table::{At, Size, Table},
};

/// Options of the pipeline.
pub(crate) struct Settings {
    /// What metrics call it.
    pub(crate) name: String,
    pub(crate) memory_budget: Option<u64>,
    edge_records: Option<u32>,
    order: Order,
    commit_every: Option<Duration>,
    pub(crate) supervised: Supervised,
    pub(crate) scaling: Scaling,
    dead_letters: Option<String>,
    pub(crate) checkpoints: Option<Stored>,
    pub(crate) metrics: Option<At<String>>,
    pub(crate) telemetry: Option<Telemetry>,
}

/// Where checkpoints are stored.
pub(crate) struct Stored {
    folder: String,
    every: Option<Duration>,
    keep: Option<usize>,
}

/// Where spans go, and how many.
pub(crate) struct Telemetry {
    pub(crate) url: At<String>,
    pub(crate) sample: f64,
    pub(crate) service: String,
}

impl Telemetry {
    pub(crate) fn otlp(&self) -> Otlp {
        Otlp::new(&self.url.value).sample(self.sample).service(&self.service)
    }
}

impl Settings {
    pub(crate) fn read(table: &Table<'_>, file: &str) -> Self {
        let stem = std::path::Path::new(file).file_stem().map_or_else(|| "pipeline".to_owned(), |stem| stem.to_string_lossy().into_owned());
        let few = |records: &u64| (1..=u64::from(u32::MAX)).contains(records);
        let small = |key| table.read_if::<u64>(key, few, "from 1 to 4294967295").map(|number| u32::try_from(number.value).unwrap_or(u32::MAX));
        let window = small("order_window");
        let order = table.choice("order", &[("none", Order::None), ("per_key", Order::PerKey), ("total", Order::TOTAL)]).unwrap_or(Order::PerKey);
        let order = match (order, window) {
            (Order::Total { .. }, Some(window)) => Order::Total { window },
            (order, Some(_)) => {
                table.findings.add(&table.key_span("order_window"), "`order_window` needs `order = \"total\"`");
                order
            }
            (order, None) => order,
        };
        let name = table.read("name").map_or(stem, |name| name.value);
        let settings = Settings {
            telemetry: table.table("telemetry").and_then(|table| telemetry(&table, &name)),
            name,
            memory_budget: table.read_if::<Size>("memory_budget", |size| size.0 > 0, "more than nothing").map(|size| size.value.0),
            edge_records: small("edge_records"),
            order,
            commit_every: table.read("commit_every").map(|time| time.value),
            supervised: Supervised::read(table),
            scaling: table.table("scaling").map_or_else(Scaling::default, |table| scaling(&table)),
            dead_letters: table.table("dead_letters").and_then(|letters| {
                let path = letters.need::<String>("path");
                letters.done();
                path.map(|path| path.value)
            }),
            checkpoints: table.table("checkpoints").and_then(|checkpoints| {
                let (every, keep) = (checkpoints.read("every").map(|time| time.value), checkpoints.count("keep"));
                let folder = checkpoints.need::<String>("folder");
                checkpoints.done();
                Some(Stored { folder: folder?.value, every, keep })
            }),
            metrics: table.table("metrics").and_then(|metrics| {
                let address = metrics.need("address");
                metrics.done();
                address
            }),
        };
        if let (Some(place), Some(_)) = (&settings.supervised.quarantine, &settings.checkpoints) {
            let hint = "checkpoints do not hold what is in the dead letters";
            table.findings.hint(place, "`exceeded = \"quarantine\"` and `checkpoints` exclude each other", hint);
        }
        settings
    }

    pub(crate) fn apply(&self, pipeline: Pipeline, workshop: &Workshop<'_>) -> Pipeline {
        let mut pipeline = self.supervised.apply(pipeline).order(self.order).scaling(self.scaling);
        if let Some(bytes) = self.memory_budget {
            pipeline = pipeline.memory_budget(bytes);
        }
        if let Some(records) = self.edge_records {
            pipeline = pipeline.edge_records(records);
        }
        if let Some(time) = self.commit_every {
            pipeline = pipeline.commit_every(time);
        }
        if let Some(path) = &self.dead_letters {
            pipeline = pipeline.dead_letters(letters(workshop.path(path)));
        }
        if let Some(Stored { folder, every, keep }) = &self.checkpoints {
            let mut store = CheckpointFolder::new(workshop.path(folder));
            if let Some(keep) = keep {
                store = store.keep(*keep);
            }
            let mut options = CheckpointOptions::new(store);
            if let Some(every) = every {
                options = options.every(*every);
            }
            pipeline = pipeline.checkpoint(options);
        }
        pipeline
    }
}

fn telemetry(table: &Table<'_>, name: &str) -> Option<Telemetry> {
    let sample = table.read_if::<f64>("sample", |share| (0.0..=1.0).contains(share), "from 0 to 1").map_or(1.0, |share| share.value);
    let service = table.read("service").map_or_else(|| name.to_owned(), |name| name.value);
    let url = table.need("otlp");
    table.done();
    let telemetry = Telemetry { url: url?, sample, service };
    if let Err(error @ (TelemetryError::Address { .. } | TelemetryError::Tls { .. })) = telemetry.otlp().check() {
        table.findings.add(&telemetry.url.span, error.to_string());
    }
    Some(telemetry)
}

fn scaling(table: &Table<'_>) -> Scaling {
    let mut scaling = Scaling::default();
    let time = |key, into: &mut Duration| {
        if let Some(time) = table.read_if::<Duration>(key, |time| !time.is_zero(), "more than nothing") {
            *into = time.value;
        }
    };
    time("delay", &mut scaling.delay);
    time("every", &mut scaling.every);
    time("cooldown", &mut scaling.cooldown);
    table.done();
    scaling
}
