//! The program as a process: it runs pipelines from files, with a real model.
#![cfg(unix)]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use millstream::{Session, Shape};
use serde_json::Value as Json;

/// A folder that is removed in the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let path = std::env::temp_dir().join(format!("millstream-run-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir_all(&path).expect("a folder for the test");
        Folder(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("a folder");
        fs::write(&path, text).expect("a file");
        path
    }

    fn lines(&self, name: &str) -> Vec<Json> {
        let text = fs::read_to_string(self.0.join(name)).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples")
}

fn millstream(arguments: &[&str], path: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_millstream")).args(arguments).arg(path).output().expect("the program runs")
}

fn json(output: &Output) -> Json {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

/// The example's folder with the model beside it, and a few sources above.
fn example() -> (Folder, PathBuf) {
    let folder = Folder::new();
    let text = fs::read_to_string(examples().join("pipelines/languages.toml")).expect("the example is there");
    let file = folder.write("examples/pipelines/languages.toml", &text);
    symlink(examples().join("language-model").canonicalize().expect("the model's folder"), folder.0.join("examples/language-model")).expect("a link");
    let rust = "fn main() {\n    let total: u64 = (0..10).map(|x| x * x).sum();\n    println!(\"{total}\");\n}\n";
    let python = "import os\n\n\ndef main():\n    for name in os.listdir(\".\"):\n        print(name)\n\n\nif __name__ == \"__main__\":\n    main()\n";
    for number in 0..40 {
        folder.write(&format!("src/{number}.rs"), &rust.repeat(1 + number % 20));
        folder.write(&format!("src/{number}.py"), &python.repeat(1 + number % 20));
    }
    folder.write("src/empty.rs", "");
    folder.write("src/binary", "a\0b");
    // What the pipeline writes is not to be read by it, nor the file that tests change.
    folder.write(".ignore", "*.jsonl\n*.toml\n");
    folder.write("src/odd", "zzzz");
    (folder, file)
}

/// What `demo` does with the same model, written in Rust, the example does from its file.
#[test]
fn the_example_does_what_the_demo_does() {
    let (folder, file) = example();
    let report = json(&millstream(&["run", "--json"], &file));
    let demo = json(&millstream(&["demo", "--json", "--files"], &folder.0.join("src")));
    assert_eq!((report["ended"].as_str(), report["dead_letters"].as_u64()), (Some("complete"), Some(0)), "{report}");
    let mut results: Vec<(String, String, f64, bool)> = Vec::new();
    for (name, sure) in [("languages.jsonl", true), ("unsure.jsonl", false)] {
        for row in folder.lines(&format!("examples/pipelines/{name}")) {
            let text = |key: &str| row[key].as_str().unwrap_or_else(|| panic!("no {key} in {row}")).to_owned();
            results.push((text("path"), text("language"), row["probability"].as_f64().expect("a probability"), sure));
        }
    }
    let mut compared = 0;
    for wanted in demo["results"].as_array().expect("a list of files") {
        let path = format!("/src/{}", wanted["path"].as_str().expect("a path"));
        let found = results.iter().find(|(found, ..)| found.ends_with(&path)).unwrap_or_else(|| panic!("{path} is missing"));
        let probability = wanted["probability"].as_f64().expect("a probability");
        assert!((found.2 - probability).abs() < 1e-6, "{path}: {found:?}, {wanted}");
        assert_eq!(wanted["language"].as_str(), found.3.then_some(found.1.as_str()), "{path}");
        compared += 1;
    }
    assert_eq!(compared, 81);

    // Nor do the options of the batcher change a result.
    let options = "batch = [2, 16]\nmax_bytes = \"64 KiB\"\nmax_tokens = 9\nmax_padding = 0.5\nidle_dispatch = false\npool = 20\naging = \"1 ms\"\n\
                   sizing = { p99 = \"20 ms\" }\nbatch_by = \"path\"\nhold_until = 8\nmemory = \"16 MiB\"\nretry = 2\nbackoff = \"1 ms\"\nletter_payload = true\n\
                   expansion = 1.5";
    let written = |name: &str| {
        let mut lines: Vec<String> = folder.lines(&format!("examples/pipelines/{name}")).iter().map(Json::to_string).collect();
        lines.sort();
        lines
    };
    let before = (written("languages.jsonl"), written("unsure.jsonl"));
    let text = fs::read_to_string(&file).expect("the example").replace("batch = 32", options);
    fs::write(&file, text).expect("a file");
    assert_eq!(json(&millstream(&["run", "--json"], &file))["dead_letters"].as_u64(), Some(0));
    assert!((written("languages.jsonl"), written("unsure.jsonl")) == before, "results changed");
}

/// The other examples that this repository has a model for, for real: an ensemble of models with a group, ranges of replicas
/// and a canary.
#[test]
fn juries_and_canaries_run_from_their_files() {
    let (folder, _) = example();
    let run = |name: &str| {
        let text = fs::read_to_string(examples().join("pipelines").join(name)).expect("the example is there");
        let report = json(&millstream(&["run", "--json"], &folder.write(&format!("examples/pipelines/{name}"), &text)));
        assert_eq!((report["ended"].as_str(), report["dead_letters"].as_u64()), (Some("complete"), Some(0)), "{report}");
        folder.lines(&format!("examples/pipelines/{}", name.replace("toml", "jsonl")))
    };
    let (jury, canary) = (run("jury.toml"), run("canary.toml"));
    let single: Vec<Json> = [run("languages.toml"), folder.lines("examples/pipelines/unsure.jsonl")].concat();
    let of = |rows: &[Json], path: &str| rows.iter().find(|row| row["path"].as_str().is_some_and(|found| found.ends_with(path))).cloned().unwrap_or_default();
    for (repeated, path) in (0..40).flat_map(|number| ["rs", "py"].map(|ending| (number % 20, format!("/src/{number}.{ending}")))) {
        let (wanted, verdict, tried) = (of(&single, &path), of(&jury, &path), of(&canary, &path));
        assert!(wanted["language"].is_string() && tried["language"] == wanted["language"], "{path}: {tried}, {wanted}");
        assert!((2..=3).contains(&verdict["answers"].as_u64().unwrap_or_default()) && verdict["language"].is_string(), "{verdict}");
        // Short files have one beginning, whatever its length.
        assert!(repeated > 2 || verdict["language"] == wanted["language"], "{path}: {verdict}, {wanted}");
    }
    assert!(canary.iter().all(|row| row["model"].as_str().is_some_and(|model| model.starts_with("language@"))), "{canary:?}");
    let shown = String::from_utf8(millstream(&["run", "--dry"], &folder.0.join("examples/pipelines/jury.toml")).stdout).expect("text");
    assert!(shown.contains("group `long` (first-2-kib, long-window, long): one_for_one, 3 restarts within 5s, then quarantine"), "{shown}");
    assert!(shown.contains("1 to 2") && shown.contains("longer than 20ms"), "{shown}");
    let shown = String::from_utf8(millstream(&["run", "--dry"], &folder.0.join("examples/pipelines/canary.toml")).stdout).expect("text");
    assert!(shown.contains("; ../language-model/language.onnx on trial: 20 % of the batches"), "{shown}");
}

/// `--dry` says exactly what the engine's plan says of the largest batch, and divides what does not fit.
#[test]
fn dry_tells_budgets_edges_and_exact_plans() {
    let (_folder, file) = example();
    let model = Session::builder().threads(1).build().open(examples().join("language-model/language.onnx")).expect("the model");
    let plan = |rows: u64| {
        let shape = Shape::new(&[rows as usize, 2048]).expect("two dims");
        model.plan_bytes(&[shape]).expect("a plan").per_run() as u64
    };
    let description = json(&millstream(&["run", "--dry", "--json"], &file));
    let model = &description["models"][0];
    assert_eq!(model["largest_batch"], 32);
    assert_eq!(model["largest_batch_bytes"].as_u64(), Some(plan(32)), "{model}");
    // Half of the budget is for runs, shared by two replicas.
    assert_eq!((description["record_bytes"].as_u64(), model["run_bytes"].as_u64()), (Some(128 << 20), Some(64 << 20)));
    let edges = description["stages"].as_array().expect("a list of stages");
    let edge = |name: &str| edges.iter().find(|stage| stage["name"] == name).unwrap_or_else(|| panic!("no stage {name}"));
    assert_eq!((edge("text")["edge_records"].as_u64(), edge("text")["edge_bytes"].as_u64()), (Some(1024), Some(64 << 20)));
    assert_eq!(edge("languages")["takes_from"], serde_json::json!(["sure"]));

    let text = fs::read_to_string(&file).expect("the example");
    let tight = file.with_file_name("tight.toml");
    fs::write(&tight, text.replace("batch = 32", &format!("batch = 32\nmemory = \"{} B\"", plan(20)))).expect("a file");
    let model = json(&millstream(&["run", "--dry", "--json"], &tight))["models"][0].clone();
    let fitting = model["fitting_batch"].as_u64().expect("a batch fits");
    assert!(plan(fitting) <= plan(20) && plan(fitting + 1) > plan(20) && fitting >= 20, "{model}");
    let shown = String::from_utf8(millstream(&["run", "--dry"], &tight).stdout).expect("text");
    assert!(shown.contains(&format!("a batch of 32 takes {} bytes", plan(32))), "{shown}");
    assert!(shown.contains(&format!("batches of more than {fitting} are divided")), "{shown}");
    assert!(shown.contains("1024 records, 64 MiB"), "{shown}");
}

#[test]
fn what_is_wrong_is_said_and_nothing_runs() {
    let (folder, file) = example();
    let text = fs::read_to_string(&file).expect("the example");
    fs::write(&file, text.replace("\"probabilities\" }", "\"p\", logits = \"l\" }").replace("language.onnx", "langauge.onnx")).expect("a file");
    let line = text.lines().position(|line| line.starts_with("model = ")).expect("the example has a model") + 1;
    let output = millstream(&["run"], &file);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(&format!("languages.toml:{line}:9")) && said.contains("langauge.onnx"), "{said}");

    fs::write(&file, text.replace("probabilities = \"probabilities\"", "probs = \"p\"").replace("replicas = 2", "replcas = 2")).expect("a file");
    let said = String::from_utf8_lossy(&millstream(&["run"], &file).stderr).into_owned();
    assert!(said.contains("`replcas` is no key of a stage of kind `infer`") && said.contains("^^^^^^^ did you mean `replicas`?"), "{said}");
    fs::write(&file, text.replace("probabilities = \"probabilities\"", "probs = \"p\"")).expect("a file");
    let said = String::from_utf8_lossy(&millstream(&["run"], &file).stderr).into_owned();
    assert!(said.contains("the model has no output `probs`"), "{said}");
    fs::write(&file, text.replace("inputs = { bytes", "ragged = [{ pad = { window = 0 } }]\ndims = { bytes = [8, 8] }\ninputs = { byte")).expect("a file");
    let said = String::from_utf8_lossy(&millstream(&["run", "--dry"], &file).stderr).into_owned();
    assert!(said.contains("`ragged`: ") && said.contains("window"), "{said}");
    fs::write(&file, text.replace("inputs = { bytes", "dims = { bytes = [8, 8] }\ninputs = { byte")).expect("a file");
    let said = String::from_utf8_lossy(&millstream(&["run", "--dry"], &file).stderr).into_owned();
    assert!(said.contains("the model has no input `byte`") && said.contains("did you mean `bytes`?"), "{said}");
    assert!(said.contains("input `bytes` has 1 dims in an example, 2 are given"), "{said}");
    assert!(folder.lines("examples/pipelines/languages.jsonl").is_empty() && !folder.0.join("examples/pipelines/languages.jsonl").exists());
    let plot = folder.0.join("graph.svg");
    let drawn = Command::new(env!("CARGO_BIN_EXE_millstream")).arg("run").arg("--plot").arg(&plot).arg(examples().join("pipelines/languages.toml")).output();
    assert!(drawn.expect("the program runs").status.success() && fs::read_to_string(plot).expect("a picture").starts_with("<svg"));
}

/// A program that reads lines from its standard input.
struct Process {
    child: Child,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Process {
    fn start(file: &Path) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command.args(["run", "--json"]).arg(file).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        Process { child, stderr }
    }

    /// Where its metrics are.
    fn address(&mut self) -> String {
        let mut line = String::new();
        self.stderr.read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("metrics at http://").and_then(|rest| rest.strip_suffix("/metrics"));
        address.unwrap_or_else(|| panic!("no address: {line}")).to_owned()
    }

    fn send(&mut self, lines: &str) {
        let stdin = self.child.stdin.as_mut().expect("it is piped");
        stdin.write_all(lines.as_bytes()).and_then(|()| stdin.flush()).expect("the program reads");
    }

    fn terminate(&self) {
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().expect("kill runs");
        assert!(sent.success(), "the program had ended before it was told to");
    }

    /// What it printed, once it has ended.
    fn ended(mut self) -> (Option<i32>, Json) {
        let until = Instant::now() + Duration::from_secs(60);
        while self.child.try_wait().expect("it is our child").is_none() {
            if Instant::now() > until {
                let _ = self.child.kill();
                panic!("the program went on for a minute");
            }
            thread::sleep(Duration::from_millis(10));
        }
        let output = self.child.wait_with_output().expect("it has ended");
        let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("one JSON object, not {output:?}"));
        (output.status.code(), report)
    }
}

fn page(address: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("somebody listens");
    stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").expect("a request");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("an answer");
    page
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < until, "never: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

const COPY: &str = r#"
[metrics]
address = "127.0.0.1:0"
[[source]]
kind = "lines"
path = "-"
[[stage]]
kind = "read"
field = "text"
head = "1 B"
retry = 1000
backoff = "5 ms"
[[sink]]
kind = "jsonl"
path = "out.jsonl"
"#;

#[test]
fn the_first_signal_drains_and_metrics_are_served_until_the_end() {
    let folder = Folder::new();
    let file = folder.write("copy.toml", COPY);
    let text = folder.write("text", "abc");
    let mut process = Process::start(&file);
    let address = process.address();
    process.send(&format!("{0}\n{0}\n", text.display()));
    wait_for("two records", || page(&address).contains("millstream_outcomes_total{pipeline=\"copy\",outcome=\"ok\"} 2\n"));
    process.terminate();
    let (status, report) = process.ended();
    assert_eq!((status, report["ended"].as_str(), report["ok"].as_u64()), (Some(0), Some("drained"), Some(2)), "{report}");
    let written = folder.lines("out.jsonl");
    assert_eq!(written.iter().map(|row| (row["line"].as_u64(), row["bytes"].as_str())).collect::<Vec<_>>(), [(Some(1), Some("a")), (Some(2), Some("a"))]);
}

/// Another process looks at a running pipeline, by its page.
#[test]
fn top_shows_what_a_pipeline_does() {
    let folder = Folder::new();
    let file = folder.write("copy.toml", &("memory_budget = \"1 MiB\"\n".to_owned() + COPY));
    let text = folder.write("text", "abc");
    let mut process = Process::start(&file);
    let address = process.address();
    process.send(&format!("{0}\n{0}\n{0}\n", text.display()));
    wait_for("three records", || page(&address).contains("outcome=\"ok\"} 3\n"));
    let top = |url: &str| Command::new(env!("CARGO_BIN_EXE_millstream")).args(["top", "--once", "--interval", "0.05", url]).output().expect("the program runs");
    let shown = top(&format!("http://{address}/metrics"));
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.status.success(), "{text}{}", String::from_utf8_lossy(&shown.stderr));
    assert!(text.starts_with("copy: admitted 0/s, ok 0/s (3)\n"), "{text}");
    assert!(text.contains(" of 1.00 MiB reserved"), "{text}");
    for stage in ["lines", "read", "jsonl"] {
        assert!(text.lines().any(|line| line.trim_start().starts_with(stage) && line.contains("running")), "{text}");
    }
    process.terminate();
    assert_eq!(process.ended().0, Some(0));
    // A page that is gone, and one that is no page of ours.
    let refused = top(&format!("http://{address}/metrics"));
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).starts_with(&format!("error: http://{address}/metrics: ")));
    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("an address");
    let url = format!("http://{}/", other.local_addr().expect("it has one"));
    let answering = thread::spawn(move || {
        let (mut stream, _) = other.accept().expect("a visitor");
        let _ = stream.read(&mut [0; 1024]);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>").expect("an answer");
    });
    let refused = top(&url);
    answering.join().expect("it answered");
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("line 1 is no sample of a metric: <html>"), "{refused:?}");
}

/// In a pseudo-terminal, whose size nobody has set: the figures stand on a second screen, and the report on the first.
#[test]
fn a_run_shows_its_figures_and_leaves_the_terminal_as_it_was() {
    let folder = Folder::new();
    let file = folder.write("copy.toml", &COPY.replace("[metrics]\naddress = \"127.0.0.1:0\"\n", "").replace("\"-\"", "\"in\"").replace("1000", "7"));
    folder.write("in", "nothing is here\n");
    let terminal = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)";
    let mut command = Command::new("python3");
    command.args(["-c", terminal, env!("CARGO_BIN_EXE_millstream"), "run", "--top"]).arg(&file).env("TERM", "xterm").stdin(Stdio::null());
    let output = command.output().expect("Python runs");
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{shown}");
    let (before, rest) = shown.split_once("\x1b[?1049h").unwrap_or_else(|| panic!("no second screen: {shown}"));
    let (second, first) = rest.split_once("\x1b[?1049l").unwrap_or_else(|| panic!("it stays: {shown}"));
    assert!(before.is_empty() && second.contains("copy: admitted") && second.contains("running") && second.ends_with("\x1b[?25h"), "{shown}");
    assert!(!first.contains("\x1b[?1049h") && first.contains("complete: 1 records"), "{shown}");
    let refused = millstream(&["run", "--top"], &file);
    assert_eq!(
        (refused.status.code(), String::from_utf8_lossy(&refused.stderr).as_ref()),
        (Some(2), "error: --top draws on a terminal, and standard output is none\n")
    );
}

/// A record that is tried again and again holds a drain up; the second signal gives it up.
#[test]
fn the_second_signal_aborts() {
    let folder = Folder::new();
    let file = folder.write("copy.toml", &COPY.replace("5 ms", "10 min"));
    let mut process = Process::start(&file);
    let address = process.address();
    process.send("nothing is here\n");
    wait_for("a retry", || page(&address).lines().any(|line| line.starts_with("millstream_retries_total") && line.ends_with(" 1")));
    process.terminate();
    thread::sleep(Duration::from_millis(300));
    process.terminate();
    let (status, report) = process.ended();
    assert_eq!((status, report["ended"].as_str(), report["ok"].as_u64()), (Some(2), Some("aborted"), Some(0)), "{report}");
    assert_eq!(report["cancelled"].as_u64(), Some(1), "{report}");
}

/// The watch sees another file under the same name, and the records that come from then on say so.
#[test]
fn a_model_is_swapped_when_its_file_changes() {
    let folder = Folder::new();
    let source = examples().join("language-model/language.onnx");
    let model = folder.0.join("models/language.onnx");
    fs::create_dir(folder.0.join("models")).and_then(|()| fs::copy(&source, &model)).expect("a copy of the model");
    let text = r#"
        [metrics]
        address = "127.0.0.1:0"
        [[source]]
        kind = "lines"
        path = "-"
        [[stage]]
        kind = "tensor"
        field = "text"
        into = "bytes"
        dtype = "int32"
        length = 2048
        pad = 256
        [[stage]]
        name = "model"
        kind = "infer"
        model = "models"
        watch = "30 ms"
        outputs = {}
        model_id = "model"
        [[stage]]
        kind = "fields"
        keep = ["line", "model"]
        [[sink]]
        kind = "jsonl"
        path = "out.jsonl"
    "#;
    let mut process = Process::start(&folder.write("watch.toml", text));
    let address = process.address();
    process.send("let x = 1;\n");
    wait_for("a record", || page(&address).contains("outcome=\"ok\"} 1\n"));
    fs::copy(&source, folder.0.join("models/new")).and_then(|_| fs::rename(folder.0.join("models/new"), &model)).expect("another file of this name");
    wait_for("another version", || {
        process.send("let x = 1;\n");
        page(&address).lines().any(|line| line.starts_with("millstream_model_info") && line.contains("version=\"2\""))
    });
    process.terminate();
    let (status, report) = process.ended();
    assert_eq!((status, report["dead_letters"].as_u64()), (Some(0), Some(0)), "{report}");
    let written = folder.lines("out.jsonl");
    let version = |row: Option<&Json>| row.and_then(|row| row["model"].as_str().map(str::to_owned));
    assert_eq!((version(written.first()), version(written.last())), (Some("model@1".to_owned()), Some("model@2".to_owned())));
}

/// A collector that answers one request: its head and body.
fn collect_once(listener: &TcpListener) -> (String, Vec<u8>) {
    let (stream, _) = listener.accept().expect("the program sends spans");
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    while reader.read_line(&mut head).expect("a request") > 2 {
        let last = head.lines().last().expect("a line").to_ascii_lowercase();
        length = last.strip_prefix("content-length:").map_or(length, |number| number.trim().parse().expect("a length"));
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").expect("it waits for an answer");
    (head, body)
}

#[test]
fn spans_go_where_the_command_line_says() {
    let folder = Folder::new();
    folder.write("in.txt", "a\nb\n");
    let text =
        "[telemetry]\notlp = \"http://127.0.0.1:1\"\nservice = \"copying\"\n[[source]]\nkind = \"lines\"\npath = \"in.txt\"\n[[sink]]\nkind = \"discard\"\n";
    let file = folder.write("copy.toml", text);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let shown = String::from_utf8(millstream(&["run", "--dry", "--otlp", &url], &file).stdout).expect("text");
    assert!(shown.contains(&format!("\nspans of 100 % of the records go to {url}\n")), "{shown}");
    let collector = thread::spawn(move || collect_once(&listener));
    let done = millstream(&["run", "--otlp", &url], &file);
    let (head, body) = collector.join().expect("a request");
    assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
    let holds = |text: &str| body.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("copying") && holds("admit lines") && holds("discard"));
    assert!(done.status.success() && done.stderr.is_empty(), "{done:?}");
    let refused = millstream(&["run", "--otlp", "nowhere"], &file);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).starts_with("error: --otlp `nowhere` is no address of a collector"), "{refused:?}");
}
