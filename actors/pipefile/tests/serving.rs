//! Pipeline files whose models crash, follow the load, change, are tried, and remember.

mod fakes;
mod folder;

use std::{collections::BTreeMap, fs, thread, time::Duration};

use fakes::fakes;
use folder::Folder;
use millstream_pipefile::{Plot, Running};
use millstream_runtime::StageState;
use serde_json::{Value as Json, json};

/// The beginning of a file: numbers from lines, which one model takes.
fn text(head: &str, model: &str) -> String {
    format!(
        r#"
        {head}
        [[source]]
        kind = "lines"
        path = "in"
        [[stage]]
        kind = "json"
        {model}
        "#
    )
}

fn numbers(folder: &Folder, numbers: impl Iterator<Item = i64>) {
    fs::write(folder.0.join("in"), numbers.map(|n| format!("{}\n", json!({ "x": [n], "key": n % 3 }))).collect::<String>()).expect("a file");
}

fn spawn(folder: &Folder, text: &str) -> Running {
    folder.open(text).spawn(&fakes()).unwrap_or_else(|error| panic!("{error}"))
}

/// A model that crashes goes into quarantine, and the branch beside it goes on.
#[test]
fn a_group_goes_into_quarantine_and_the_rest_goes_on() {
    let folder = Folder::new();
    numbers(&folder, -5..200);
    fs::write(folder.0.join("model"), "fragile").expect("a file");
    let text = text(
        "[[group]]\nname = \"models\"\nstages = [\"model\", \"kept\"]\nstrategy = \"one_for_all\"\nrestarts = 0\nwithin = \"1 min\"\nexceeded = \"quarantine\"",
        r#"
        [[stage]]
        name = "model"
        kind = "infer"
        model = "model"
        [[stage]]
        name = "kept"
        kind = "fields"
        keep = "y"
        [[sink]]
        name = "doubles"
        kind = "jsonl"
        path = "doubles"
        [[sink]]
        name = "all"
        kind = "jsonl"
        from = "json"
        path = "all"
        "#,
    );
    let report = spawn(&folder, &text).join().expect("the rest goes on");
    assert_eq!(folder.lines("all").len(), 205);
    let state = |name: &str| report.snapshot.stages.iter().find(|stage| stage.name == name).map(|stage| stage.state);
    assert_eq!((state("model"), state("kept")), (Some(StageState::Quarantined), Some(StageState::Stopped)), "{report}");
    assert!(report.counts.dead_lettered >= 5 && report.counts.ended() == 205, "{report}");
    let description = folder.open(&text).describe(&fakes()).unwrap_or_else(|problems| panic!("{problems}"));
    let shown = description.to_string();
    assert!(shown.contains("group `models` (model, kept): one_for_all, 0 restarts within 60s, then quarantine\n"), "{shown}");
    // The stages that a node is made of belong to its group.
    let grouped: Vec<&str> = description.stages.iter().filter(|stage| stage.group.is_some()).map(|stage| stage.name.as_str()).collect();
    assert_eq!(grouped, ["model", "model.outputs", "kept"]);
    let drawn = folder.open(&text).plot(Plot::Mermaid);
    assert!(drawn.contains("    subgraph group.models [\"models\"]\n        model\n        kept\n    end\n"), "{drawn}");
    assert_eq!(folder.open(&text).plot(Plot::Svg).matches(">group models</text>").count(), 2);

    // Without quarantine, the pipeline fails.
    let strict = text.replace("exceeded = \"quarantine\"", "exceeded = \"escalate\"");
    assert!(spawn(&folder, &strict).join().is_err());
}

#[test]
fn replicas_follow_the_load() {
    let folder = Folder::new();
    numbers(&folder, 0..1_000);
    fs::write(folder.0.join("model"), "slow").expect("a file");
    let text = text(
        "[scaling]\ndelay = \"2 ms\"\nevery = \"5 ms\"\ncooldown = \"10 ms\"",
        "[[stage]]\nkind = \"infer\"\nmodel = \"model\"\nbatch = 4\nreplicas = [1, 3]\n[[sink]]\nkind = \"jsonl\"\npath = \"out\"",
    );
    let running = spawn(&folder, &text);
    let monitor = running.handle().monitor();
    let mut most = 0;
    while !running.handle().has_ended() && most < 2 {
        let snapshot = monitor.snapshot();
        most = most.max(snapshot.stages.iter().find(|stage| stage.name == "infer").map_or(0, |stage| stage.replicas));
        thread::sleep(Duration::from_millis(2));
    }
    let report = running.join().expect("nothing fails");
    assert_eq!((report.counts.ok, most >= 2), (1_000, true), "{report}");
    let shown = folder.open(&text).describe(&fakes()).unwrap_or_else(|problems| panic!("{problems}")).to_string();
    assert!(shown.contains("1 to 3") && shown.contains("get another where records would wait longer than 2ms"), "{shown}");
    assert!(folder.open(&text).plot(Plot::Mermaid).contains("infer × 1 to 3"));
}

/// Candidates that are there from the start: a good one takes the model's place, one that crashes costs no record.
#[test]
fn candidates_are_tried_and_promoted_or_rolled_back() {
    for (candidate, promoted) in [("triple", true), ("fragile", false)] {
        let folder = Folder::new();
        numbers(&folder, (0..1_500).map(|n| -n));
        fs::write(folder.0.join("model"), "slow").and_then(|()| fs::write(folder.0.join("candidate"), candidate)).expect("files");
        let text = text(
            "",
            r#"
            [[stage]]
            name = "model"
            kind = "infer"
            model = "model"
            batch = 4
            watch = "5 ms"
            canary = { model = "candidate", share = 0.5, batches = 6, max_failures = 0.1, max_slowdown = 1000.0, within = "1 min" }
            model_id = "by"
            [[sink]]
            kind = "jsonl"
            path = "out"
            "#,
        );
        let report = spawn(&folder, &text).join().expect("nothing fails");
        assert_eq!((report.counts.ok, report.counts.dead_lettered), (1_500, 0), "{report}");
        let rows = folder.lines("out");
        let by = |row: &Json| row["by"].as_str().map(str::to_owned);
        let last = if promoted { "model@2" } else { "model@1" };
        assert_eq!(rows.last().and_then(by).as_deref(), Some(last), "{candidate}");
        assert_eq!(rows.iter().any(|row| by(row).as_deref() == Some("model@2")), promoted);
        for row in &rows {
            let times = if by(row).as_deref() == Some("model@2") { 3.0 } else { 2.0 };
            assert_eq!(row["y"][0].as_f64(), row["x"][0].as_f64().map(|x| x * times), "{row}");
        }
        let shown = folder.open(&text).describe(&fakes()).unwrap_or_else(|problems| panic!("{problems}")).to_string();
        assert!(shown.contains("candidate on trial: 50 % of the batches"), "{shown}");
        assert!(folder.open(&text).plot(Plot::Mermaid).contains("candidate on trial"), "{shown}");
    }
}

/// A state for each key, begun anew behind a record that is its sequence's last; states are part of checkpoints.
#[test]
fn models_remember_the_records_of_a_key() {
    for checkpoints in ["", "checkpoints = { folder = \"state\", every = \"5 ms\" }"] {
        let folder = Folder::new();
        numbers(&folder, 0..300);
        fs::write(folder.0.join("model"), "sum").expect("a file");
        let text = text(
            checkpoints,
            r#"
            [[stage]]
            kind = "key"
            field = "key"
            [[stage]]
            name = "sums"
            kind = "infer"
            model = "model"
            batch = 8
            replicas = 2
            shared = { rate = 0.5 }
            sequence = { state = { sum = "sumN" }, most = 10, bytes = "1 KiB", timeout = "1 min", when_full = "refuse", last = "line == 150" }
            outputs = { y = "sum" }
            [[sink]]
            kind = "jsonl"
            path = "out"
            "#,
        );
        let report = spawn(&folder, &text).join().expect("nothing fails");
        assert_eq!(report.counts.ok, 300, "{report}");
        let mut sums: BTreeMap<u64, f32> = BTreeMap::new();
        let mut rows = folder.lines("out");
        rows.sort_by_key(|row| row["line"].as_u64());
        for row in &rows {
            let sum = sums.entry(row["key"].as_u64().expect("a key")).or_default();
            *sum = *sum * 0.5 + row["x"][0].as_f64().expect("a number") as f32;
            assert_eq!(row["sum"][0].as_f64().map(|sum| sum as f32), Some(*sum), "{row}");
            assert!(row["sumN"].is_null(), "the state is no output");
            if row["line"] == 150 {
                *sum = 0.0;
            }
        }
        let shown = folder.open(&text).describe(&fakes()).unwrap_or_else(|problems| panic!("{problems}")).to_string();
        assert!(shown.contains("; remembers 10 sequences, which begin with 4 B, of 1 KiB"), "{shown}");
        assert!(folder.open(&text).plot(Plot::Mermaid).contains("a state for each key"));
    }
}

/// What can only be known once a model is open.
#[test]
fn a_model_that_does_not_remember_so_is_refused_where_the_file_says_it_does() {
    let folder = Folder::new();
    fs::write(folder.0.join("model"), "sum").expect("a file");
    let refused = |key: &str, replicas: &str, stage: &str| {
        let text = text("", &format!("{key}\n[[stage]]\nkind = \"infer\"\nmodel = \"model\"\n{replicas}\n{stage}\n[[sink]]\nkind = \"discard\"\n"));
        let problems = folder.open(&text).describe(&fakes()).err().unwrap_or_else(|| panic!("{stage} is in order"));
        problems.iter().map(|problem| (text.lines().nth(problem.line - 1).unwrap_or_default().trim().to_owned(), problem.message.clone())).collect::<Vec<_>>()
    };
    let sequence = "sequence = { state = { sum = \"sumN\" } }";
    let shared = "shared = { rate = 0.5 }";
    let keyed = "[[stage]]\nkind = \"key\"\nfield = \"key\"";
    let found = refused(keyed, "", &format!("{sequence}\nshared = {{ rte = 1 }}"));
    assert_eq!(found, [("shared = { rte = 1 }".to_owned(), "`shared`: input `rte` is unknown or missing".to_owned())]);
    let found = refused(keyed, "", &format!("{shared}\nsequence = {{ state = {{ sum = \"sums\" }} }}"));
    assert!(found.len() == 1 && found[0].0.starts_with("sequence") && found[0].1.contains("`state`: the state `sum` has no output `sums`"), "{found:?}");
    let found = refused("", "", &format!("{shared}\n{sequence}"));
    assert!(found.iter().any(|(_, message)| message == "stage `infer` has sequences of records without keys"), "{found:?}");
    let found = refused(keyed, "replicas = [1, 2]", &format!("{shared}\n{sequence}"));
    assert!(found.iter().any(|(_, message)| message.contains("states of sequences need a number")), "{found:?}");
}

/// Each key has a model of its own, which is loaded when it is wanted; a key without one, or that is no name, costs its records.
#[test]
fn keys_have_models_of_their_own() {
    let folder = Folder::new();
    const KEYS: [&str; 6] = ["a", "b", "c", "../a", ".", "sum"];
    let record = |n: usize| format!("{}\n", json!({ "x": [n], "key": KEYS[n % 6] }));
    fs::write(folder.0.join("in"), (0..120).map(record).collect::<String>()).expect("a file");
    fs::create_dir(folder.0.join("models")).expect("a folder");
    for (name, word) in [("model", "double"), ("models/a", "double"), ("models/b", "triple"), ("models/sum", "sum")] {
        fs::write(folder.0.join(name), word).expect("a file");
    }
    let text = text(
        "",
        r#"
        [[stage]]
        name = "model"
        kind = "infer"
        model = "model"
        per_key = { field = "key", models = "models/{key}", memory = "1 MiB" }
        model_id = "by"
        batch = 8
        time_limit = "10 s"
        [[sink]]
        kind = "jsonl"
        path = "out"
        "#,
    );
    let report = spawn(&folder, &text).join().expect("nothing fails");
    assert_eq!((report.counts.ok, report.counts.dead_lettered), (40, 80), "{report}");
    for row in folder.lines("out") {
        let times = if row["key"] == "a" { 2.0 } else { 3.0 };
        assert_eq!(row["y"], json!([times * row["x"][0].as_f64().expect("a number")]), "{row}");
        assert_eq!(row["by"], json!(format!("model@{}", row["key"].as_str().expect("a key"))));
    }
    let said = |part: &str| report.dead_letters.iter().filter(|letter| letter.to_string().contains(part)).count();
    assert_eq!([said("the model of \"c\" could not be loaded"), said("and the stage's own model is"), said("must be a name of a file")], [20, 20, 40]);
    let shown = folder.open(&text).describe(&fakes()).unwrap_or_else(|problems| panic!("{problems}")).to_string();
    assert!(shown.contains("; for each `key` models/{key} within 1 MiB\n"), "{shown}");
}

/// The newest of the files that match is the model.
#[test]
fn a_model_may_be_a_pattern() {
    let folder = Folder::new();
    numbers(&folder, 0..3);
    let text = text("", "[[stage]]\nkind = \"infer\"\nmodel = \"m-*\"\nwatch = \"1 s\"\n[[sink]]\nkind = \"jsonl\"\npath = \"out\"");
    let none = folder.open(&text).describe(&fakes()).expect_err("there is no such file").to_string();
    assert!(none.contains("`model`: no file matches ") && none.contains("/m-*\n"), "{none}");
    for (name, word) in [("m-1", "double"), ("m-2", "triple")] {
        fs::write(folder.0.join(name), word).expect("a file");
        thread::sleep(Duration::from_millis(20));
    }
    spawn(&folder, &text).join().expect("nothing fails");
    assert_eq!(folder.lines("out")[2]["y"], json!([6.0]));
}

/// A cascade: what the first model is not sure of is asked of the second, and both answers go on together.
#[test]
fn a_cascade_is_a_split_and_a_merge() {
    let folder = Folder::new();
    numbers(&folder, 0..100);
    for (name, word) in [("cheap", "double"), ("costly", "triple")] {
        fs::write(folder.0.join(name), word).expect("a file");
    }
    let text = text(
        "",
        r#"
        [[stage]]
        name = "cheap"
        kind = "infer"
        model = "cheap"
        outputs = { y = "first" }
        [[stage]]
        kind = "label"
        field = "first"
        labels = ["it"]
        score = "sure"
        [[stage]]
        name = "gate"
        kind = "split"
        way = [{ name = "sure", when = "sure < 100" }, { name = "unsure" }]
        [[stage]]
        name = "costly"
        kind = "infer"
        model = "costly"
        outputs = { y = "second" }
        from = "gate.unsure"
        [[sink]]
        kind = "jsonl"
        path = "out"
        from = ["gate.sure", "costly"]
        "#,
    );
    let report = spawn(&folder, &text).join().expect("nothing fails");
    assert_eq!(report.counts.ok, 100);
    let second = folder.lines("out").iter().filter(|row| row.get("second").is_some()).count();
    assert_eq!(second, 50);
}

#[test]
fn a_model_that_hangs_costs_its_record() {
    let folder = Folder::new();
    numbers(&folder, 0..40);
    fs::write(folder.0.join("model"), "stuck").expect("a file");
    let text = text("", "[[stage]]\nkind = \"infer\"\nmodel = \"model\"\nbatch = 1\ntime_limit = \"200 ms\"\n[[sink]]\nkind = \"jsonl\"\npath = \"out\"");
    let report = spawn(&folder, &text).join().expect("nothing fails");
    assert_eq!((report.counts.ok, report.counts.dead_lettered), (39, 1), "{report}");
    assert_eq!(report.snapshot.stages.iter().map(|stage| stage.hangs).sum::<u64>(), 1, "{report}");
}
