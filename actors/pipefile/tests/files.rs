//! Pipeline files as users meet them: what is wrong with them, what they draw, what they do.

mod folder;

use std::{fs, path::Path};

use folder::{Folder, no_models};
use millstream_pipefile::{PipelineFile, Plot, RunError};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

const EXAMPLE: &str = include_str!("../../../examples/pipelines/languages.toml");

/// Each file of `refused` has beside it what is said of it.
#[test]
fn every_problem_is_reported_where_it_is() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/refused");
    let (mut files, mut different) = (0, Vec::new());
    for entry in fs::read_dir(&folder).expect("the folder is there") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        files += 1;
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name of text");
        let text = fs::read_to_string(&path).expect("a text");
        let problems = PipelineFile::parse(name, &text, "").err().unwrap_or_else(|| panic!("{name} is in order"));
        let expected = fs::read_to_string(path.with_extension("txt")).unwrap_or_default();
        let said = problems.to_string();
        if said.trim_end() != expected.trim_end() {
            different.push(format!("{name}:\n{said}\n\n"));
        }
    }
    assert!(different.is_empty(), "{}", different.concat());
    assert_eq!(files, 11);
}

/// Every pipeline that the documentation shows is one.
#[test]
fn the_documentation_shows_pipelines_that_are_in_order() {
    let documents = [include_str!("../../../docs/pipeline-files.md"), include_str!("../src/lib.rs")];
    let mut shown = 0;
    for document in documents {
        let text: String = document.lines().map(|line| line.trim_start_matches("//!").trim_start().to_owned() + "\n").collect();
        for block in text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            if let Err(problems) = PipelineFile::parse("shown.toml", block, "") {
                panic!("{problems}");
            }
            shown += 1;
        }
    }
    assert_eq!(shown, 2);
}

/// Those whose models are no part of this repository too.
#[test]
fn every_example_is_in_order() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/pipelines");
    let mut files = 0;
    for path in fs::read_dir(examples).expect("the folder is there").map(|entry| entry.expect("an entry").path()) {
        if path.extension().is_some_and(|extension| extension == "toml") {
            PipelineFile::open(&path).unwrap_or_else(|error| panic!("{error}"));
            files += 1;
        }
    }
    assert_eq!(files, 5);
}

#[test]
fn what_a_file_names_is_checked_before_it_runs() {
    let folder = Folder::new();
    let text = EXAMPLE.replace("../..", "nowhere");
    let file = PipelineFile::parse("languages.toml", &text, &folder.0).expect("it is in order by itself");
    let Err(RunError::File(problems)) = file.spawn(&no_models()) else { panic!("there is no such folder, and no engine") };
    let messages: Vec<&str> = problems.iter().map(|problem| problem.message.as_str()).collect();
    assert_eq!(messages.len(), 2, "{problems}");
    assert!(messages[0].ends_with("nowhere is no folder") && messages[1].ends_with("language.onnx: no engine"), "{problems}");
    let line = text.lines().position(|line| line.starts_with("model = ")).expect("the example has a model") + 1;
    assert_eq!(problems.iter().last().map(|problem| (problem.line, problem.column)), Some((line, 9)));
}

/// With checkpoints, a pipeline that was drained goes on where it was: each line is in the file once.
#[test]
fn checkpoints_go_on_where_the_last_process_was() {
    let folder = Folder::new();
    let input = folder.0.join("in");
    fs::write(&input, (0..50).map(|n| format!("{n}\n")).collect::<String>()).expect("a file");
    let text = r#"
        checkpoints = { folder = "state", every = "10 ms", keep = 2 }
        [[source]]
        kind = "lines"
        path = "in"
        [[sink]]
        kind = "jsonl"
        path = "out"
    "#;
    let first = folder.run(text);
    // What a process wrote behind its last checkpoint is taken back.
    fs::write(folder.0.join("out"), fs::read_to_string(folder.0.join("out")).expect("a file") + "{\"line\":").expect("a file");
    let second = folder.run(text);
    assert_eq!((first.counts.ok, second.counts.ok), (50, 0));
    let numbers: Vec<_> = folder.lines("out").iter().map(|row| row["line"].as_u64()).collect();
    assert_eq!(numbers, (1..=50).map(Some).collect::<Vec<_>>());

    let wrong = text.replace("path = \"in\"", "path = \"-\"").replace("path = \"out\"", "path = \"out\"\nappend = true");
    let file = PipelineFile::parse("wrong.toml", &wrong, &folder.0).expect("it is in order by itself");
    let Err(RunError::File(problems)) = file.spawn(&no_models()) else { panic!("it cannot run") };
    assert!(problems.to_string().contains("`append` and `checkpoints` exclude each other"), "{problems}");
    let file = PipelineFile::parse("wrong.toml", &wrong.replace("append = true", ""), &folder.0).expect("it is in order by itself");
    let Err(RunError::File(problems)) = file.spawn(&no_models()) else { panic!("standard input has no positions") };
    let found: Vec<_> = problems.iter().map(|problem| (problem.line, problem.message.as_str())).collect();
    assert_eq!(found, [(3, "source `lines` does not tell positions, checkpoints need them")]);
}

/// A wrong address is told before sinks begin their files anew.
#[test]
fn an_address_that_is_taken_costs_no_file() {
    let folder = Folder::new();
    fs::write(folder.0.join("in"), "a\n").and_then(|()| fs::write(folder.0.join("out"), "precious")).expect("files");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| Ok((listener.local_addr()?, listener))).expect("an address");
    let text = format!("[metrics]\naddress = \"{}\"\n[[source]]\nkind = \"lines\"\npath = \"in\"\n[[sink]]\nkind = \"jsonl\"\npath = \"out\"\n", taken.0);
    let file = PipelineFile::parse("taken.toml", &text, &folder.0).expect("it is in order by itself");
    let Err(RunError::File(problems)) = file.spawn(&no_models()) else { panic!("the address is taken") };
    assert!(problems.to_string().contains("taken.toml:2:11"), "{problems}");
    assert_eq!(fs::read_to_string(folder.0.join("out")).expect("a file"), "precious");
}

/// What the runtime has against a pipeline is told at the stage that it is about.
#[test]
fn refusals_of_the_runtime_have_a_place() {
    let folder = Folder::new();
    let text = "order = \"total\"\norder_window = 8\n[[source]]\nkind = \"lines\"\npath = \"in\"\n[[sink]]\nname = \"out\"\nkind = \"jsonl\"\npath = \"out\"\nreplicas = 2\n";
    let file = PipelineFile::parse("total.toml", text, &folder.0).expect("it is in order by itself");
    let problems = file.describe(&no_models()).expect_err("total order needs one replica");
    let found: Vec<_> = problems.iter().map(|problem| (problem.line, problem.message.as_str())).collect();
    assert!(found.contains(&(7, "sink `out` has 2 replicas, total order needs one")), "{problems}");
}

#[test]
fn records_are_read_changed_filtered_split_and_written() {
    let folder = Folder::new();
    let input: String = (0..40)
        .map(|n| if n % 10 == 7 { "no JSON\n".to_owned() } else { json!({ "n": n, "inner": { "text": format!("t{n}") } }).to_string() + "\n" })
        .collect();
    fs::write(folder.0.join("in.txt"), input).expect("a file");
    let report = folder.run(
        r#"
        memory_budget = "1 MiB"
        order = "total"
        dead_letters = { path = "dead.jsonl" }
        [[source]]
        kind = "lines"
        path = "in.txt"
        [[stage]]
        kind = "json"
        letter_payload = true
        [[stage]]
        kind = "filter"
        when = ["n >= 10", "line != 12"]
        [[stage]]
        name = "short"
        kind = "fields"
        rename = { "inner.text" = "t", n = "line", line = "n" }
        drop = ["inner", "n"]
        replicas = 2
        [[stage]]
        kind = "split"
        way = [{ name = "few", when = "line < 20" }, { name = "more", when = "line < 38" }]
        [[sink]]
        name = "few"
        kind = "jsonl"
        from = "split.few"
        path = "few.jsonl"
        [[sink]]
        name = "more"
        kind = "jsonl"
        from = "split.more"
        path = "more.jsonl"
        "#,
    );
    let row = |n: u32| json!({ "t": format!("t{n}"), "line": n });
    let wanted = |range: std::ops::Range<u32>| range.filter(|n| n % 10 != 7 && *n != 11).map(row).collect::<Vec<_>>();
    assert_eq!(folder.lines("few.jsonl"), wanted(10..20));
    assert_eq!(folder.lines("more.jsonl"), wanted(20..38));
    let dead = folder.lines("dead.jsonl");
    // Four lines are no JSON; 38 and 39 go no way.
    assert_eq!((report.counts.ok, report.counts.dead_lettered, dead.len()), (34, 6, 6));
    let broken: Vec<&Json> = dead.iter().filter(|letter| letter["stage"] == "json").collect();
    assert_eq!(broken.len(), 4);
    assert_eq!(serde_json::from_str::<Json>(broken[0]["payload"].as_str().expect("text")).expect("JSON"), json!({ "line": 8, "text": "no JSON" }));
}

/// An output that two nodes take from is copied; two outputs that one node takes from are merged; files are read.
#[test]
fn outputs_are_copied_and_merged() {
    let folder = Folder::new();
    fs::create_dir(folder.0.join("a[1]")).expect("a folder");
    for name in ["x.txt", "y.txt", "z.bin"] {
        fs::write(folder.0.join("a[1]").join(name), format!("{name}\u{0}{}", "é".repeat(9))).expect("a file");
    }
    let text = r#"
        [[source]]
        kind = "files"
        pattern = "*.txt"
        [[source]]
        kind = "walk"
        folder = "."
        [[stage]]
        kind = "read"
        from = ["files", "walk"]
        head = "6 B"
        on_error = "fail"
        [[stage]]
        kind = "filter"
        when = "bytes contains 'x.'"
        [[stage]]
        name = "numbers"
        kind = "tensor"
        field = "bytes"
        dtype = "uint8"
        length = 7
        pad = 9
        from = "read"
        [[sink]]
        name = "texts"
        kind = "jsonl"
        from = "filter"
        path = "../texts.jsonl"
        append = true
        [[sink]]
        name = "all"
        kind = "jsonl"
        from = ["numbers", "filter"]
        path = "../all.jsonl"
    "#;
    let inner = Folder(folder.0.join("a[1]"));
    let report = inner.run(text);
    // Two files by the pattern, three by the folder.
    assert_eq!((report.counts.ok, report.counts.dead_lettered), (5, 0));
    let texts = folder.lines("texts.jsonl");
    assert_eq!(texts.iter().map(|row| row["bytes"].as_str()).collect::<Vec<_>>(), [Some("x.txt\u{0}"); 2]);
    let all = folder.lines("all.jsonl");
    assert_eq!(all.iter().filter(|row| row["bytes"].is_array()).count(), 5);
    assert_eq!(all.iter().filter(|row| row["bytes"] == json!([122, 46, 98, 105, 110, 0, 9])).count(), 1);
    let names: Vec<&str> = report.snapshot.stages.iter().map(|stage| stage.name.as_str()).collect();
    assert!(names.contains(&"read.tee") && names.contains(&"filter.tee"), "{names:?}");
}

#[test]
fn graphs_are_drawn() {
    let file = PipelineFile::parse("languages.toml", EXAMPLE, "").unwrap_or_else(|problems| panic!("{problems}"));
    let expected = include_str!("drawn/languages.mmd");
    assert_eq!(file.plot(Plot::Mermaid), expected);
    let svg = file.plot(Plot::Svg);
    assert_eq!(svg.matches("<rect").count(), 10);
    assert_eq!(svg.matches("marker-end").count(), 9);
    assert!(svg.contains(">yes</text>") && svg.contains("yes: probability &gt;= 0.6"), "{svg}");
}

/// Pieces of pipeline files, so that what is random is often nearly right.
const PIECES: &[&str] = &[
    "[[source]]\n",
    "[[stage]]\n",
    "[[sink]]\n",
    "[stage.way]\n",
    "[[stage.way]]\n",
    "[supervision]\n",
    "[[stage.ragged]]\n",
    "kind = ",
    "name = ",
    "from = ",
    "way = ",
    "when = ",
    "batch = ",
    "inputs = ",
    "model = ",
    "field = ",
    "path = ",
    "order = ",
    "rename = ",
    "dtype = ",
    "sizing = ",
    "\"lines\"\n",
    "\"split\"\n",
    "\"infer\"\n",
    "\"fields\"\n",
    "\"tensor\"\n",
    "\"label\"\n",
    "\"jsonl\"\n",
    "{ n = \"sum x\" }\n",
    "values = ",
    "size = ",
    "with = ",
    "\"event_time\"\n",
    "\"join\"\n",
    "\"window\"\n",
    "[[group]]\n",
    "[scaling]\n",
    "stages = ",
    "strategy = ",
    "exceeded = \"quarantine\"\n",
    "canary = ",
    "sequence = ",
    "shared = ",
    "\"ask\"\n",
    "\"ensemble\"\n",
    "replicas = [1, 3]\n",
    "\"a\"\n",
    "\"a.b\"\n",
    "'n >= 3'\n",
    "'n contains \"é'\n",
    "\"9e99 GiB\"\n",
    "\"5 ms\"\n",
    "-1\n",
    "0x7fffffffffffffff\n",
    "1e400\n",
    "nan\n",
    "[1, [2]]\n",
    "{ a = { b = 1 } }\n",
    "{ name = \"x\", when = \"n > 1\" }\n",
    "1979-05-27\n",
    "\n",
    "\"\"\"",
    "é",
    "\t",
    "#",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_text_makes_the_reader_panic(text in ".{0,200}") {
        read(&text)?;
    }

    #[test]
    fn no_heap_of_pieces_makes_the_reader_panic(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..60)) {
        read(&pieces.concat())?;
    }

    #[test]
    fn no_damage_to_a_file_makes_the_reader_panic(cuts in prop::collection::vec((0..EXAMPLE.len(), 0..40usize, prop::sample::select(PIECES)), 1..6)) {
        let mut text = EXAMPLE.to_owned();
        for (at, length, piece) in cuts {
            let at = at.min(text.len());
            text.replace_range(at..(at + length).min(text.len()), if length % 2 == 0 { piece } else { "" });
            if !text.is_ascii() {
                break;
            }
        }
        read(&text)?;
    }
}

/// Reads a text; what is wrong with it has a place in it.
fn read(text: &str) -> Result<(), TestCaseError> {
    match PipelineFile::parse("random.toml", text, "") {
        Ok(file) => prop_assert!(!file.plot(Plot::Mermaid).is_empty() && !file.plot(Plot::Svg).is_empty()),
        Err(problems) => {
            prop_assert!(problems.iter().len() > 0);
            prop_assert!(problems.iter().all(|problem| problem.line <= text.lines().count() + 1));
            prop_assert!(problems.to_string().contains("random.toml"));
        }
    }
    Ok(())
}
