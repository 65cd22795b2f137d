//! Figures as text.

use super::{Figures, figures::StageFigures};
use crate::output;
use std::time::Duration;

const HEAD: [&str; 14] = ["stage", "state", "replicas", "in/s", "out/s", "queue", "bytes", "batch", "p50", "p99", "busy", "waits", "restarts", "dead letters"];

/// A few lines for each pipeline.
pub(crate) fn draw(pipelines: &[Figures]) -> String {
    pipelines.iter().map(pipeline).collect::<Vec<_>>().join("\n")
}

fn pipeline(figures: &Figures) -> String {
    let outcomes = figures.outcomes.iter().filter(|(_, _, all)| *all > 0.0).map(|(word, rate, all)| format!(", {word} {rate:.0}/s ({all:.0})"));
    let memory = figures.budget.map_or_else(String::new, |budget| format!(" of {}", bytes(budget)));
    let mut text = format!("{}: admitted {:.0}/s{}\n", figures.pipeline, figures.admitted, outcomes.collect::<String>());
    text += &format!("on their way: {:.0} records, {}{memory} reserved, {} at most\n\n", figures.in_flight, bytes(figures.reserved), bytes(figures.peak));
    let mut table = output::table(&HEAD, figures.stages.iter().map(row), true);
    // Lines that a terminal would break are cut off by it instead.
    table.set_content_arrangement(comfy_table::ContentArrangement::Disabled);
    text += &format!("{table}\n");
    for stage in &figures.stages {
        if let Some(model) = &stage.model {
            text += &format!("{}: model {model}\n", stage.name);
        }
    }
    text
}

fn row(stage: &StageFigures) -> Vec<String> {
    let none = || "-".to_owned();
    let seconds = |seconds: Option<f64>| seconds.map_or_else(none, |seconds| format!("{:.1?}", Duration::from_secs_f64(seconds)));
    let percent = |part: f64| format!("{:.0} %", part * 100.0);
    vec![
        stage.name.clone(),
        stage.state.clone(),
        format!("{:.0}", stage.replicas),
        format!("{:.0}", stage.taken),
        format!("{:.0}", stage.passed),
        stage.queue.map_or_else(none, |(queued, limit)| format!("{queued:.0}/{limit:.0}")),
        bytes(stage.queue_bytes),
        stage.mean_batch.map_or_else(none, |batch| format!("{batch:.1}")),
        seconds(stage.p50),
        seconds(stage.p99),
        percent(stage.busy),
        percent(stage.waiting),
        format!("{:.0}", stage.restarts),
        format!("{:.0}", stage.dead_letters),
    ]
}

fn bytes(bytes: f64) -> String {
    output::bytes(bytes.max(0.0) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_is_a_line() {
        let stage = StageFigures {
            name: "model".into(),
            state: "running".into(),
            replicas: 2.0,
            taken: 1234.5,
            queue: Some((17.0, 1024.0)),
            mean_batch: Some(7.25),
            p50: Some(0.002),
            busy: 0.5,
            model: Some("bert@3".into()),
            ..Default::default()
        };
        let figures = Figures {
            pipeline: "texts".into(),
            admitted: 100.0,
            outcomes: vec![("ok".into(), 99.0, 1000.0), ("expired".into(), 0.0, 0.0)],
            in_flight: 3.0,
            reserved: 2048.0,
            peak: 4096.0,
            budget: Some(1048576.0),
            stages: vec![stage],
        };
        let text = draw(&[figures]);
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        assert_eq!(lines[0], "texts: admitted 100/s, ok 99/s (1000)");
        assert_eq!(lines[1], "on their way: 3 records, 2.00 KiB of 1.00 MiB reserved, 4.00 KiB at most");
        let cells: Vec<&str> = lines[4].split_whitespace().collect();
        assert_eq!(cells, ["model", "running", "2", "1234", "0", "17/1024", "0", "B", "7.2", "2.0ms", "-", "50", "%", "0", "%", "0", "0"]);
        assert_eq!(lines[5], "model: model bert@3");
    }
}
