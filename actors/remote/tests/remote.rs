//! Remote models against an HTTP server of another project: Python's own, in a process of its own.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use millstream_remote::{RateLimit, RemoteModel, Retries};
use millstream_runtime::{Pipeline, Report, RunInference, StageError, collect, from_iter, ms};

struct Server {
    process: Child,
    port: u16,
}

impl Server {
    fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/server.py");
        let mut process = Command::new("python3").arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3 starts");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("a pipe")).read_line(&mut line).expect("it says its port");
        Server { process, port: line.trim().parse().expect("a port") }
    }

    fn model(&self, path: &str) -> RemoteModel<String, usize> {
        RemoteModel::new(
            "lengths",
            &format!("http://127.0.0.1:{}{path}", self.port),
            |batch: &[&String]| Ok(batch.iter().map(|line| format!("{line}\n")).collect::<String>().into_bytes()),
            |answer, _| String::from_utf8_lossy(answer).lines().map(|n| Ok(n.parse::<usize>()?)).collect::<Result<Vec<_>, StageError>>(),
        )
        .header("X-Token", "secret")
        .retries(Retries { times: 8, pause: ms(5), longest: ms(50) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn lines(n: usize) -> impl Iterator<Item = String> {
    (0..n).map(|i| if i == 13 { "poison".to_owned() } else { "x".repeat(i % 17) })
}

fn run(model: RemoteModel<String, usize>, n: usize) -> (Report, usize) {
    let (sink, results) = collect();
    let run = RunInference::new(model).batch(1..=16).hold_until(16).replicas(2);
    let report = Pipeline::from(from_iter(lines(n))).infer("remote", run).sink(sink).run().expect("it ends");
    let results = results.take();
    assert!(results.iter().all(|p| p.inference == p.example.len() && p.model.to_string() == "lengths@remote"));
    (report, results.len())
}

#[test]
fn a_batch_is_a_request() {
    let server = Server::start();
    let (report, results) = run(server.model("/ok"), 200);
    assert_eq!((results, report.snapshot.stages[1].errors), (200, 0), "{report}");
}

#[test]
fn what_fails_for_a_while_is_tried_again() {
    let server = Server::start();
    let (report, results) = run(server.model("/flaky").throttle(None), 200);
    assert_eq!((results, report.counts.dead_lettered), (200, 0), "{report}");
}

#[test]
fn a_line_that_the_endpoint_refuses_costs_itself_only() {
    let server = Server::start();
    let (report, results) = run(server.model("/picky"), 100);
    assert_eq!((results, report.counts.dead_lettered), (99, 1));
    let letter = report.dead_letters[0].to_string();
    assert!(letter.contains("answered 400: poison is no line"), "{letter}");
}

#[test]
fn an_endpoint_that_is_down_a_wrong_answer_and_a_late_one_are_errors() {
    let server = Server::start();
    let few = |model: RemoteModel<String, usize>| model.retries(Retries { times: 1, pause: ms(1), longest: ms(5) }).throttle(None);
    for (model, message) in [
        (few(server.model("/down")), "answered 503: busy"),
        (few(server.model("/short")), "answered for 0 examples of 1"),
        (few(server.model("/ok").header("x-token", "wrong")), "answered 401: who are you?"),
        (few(server.model("/slow").timeout(ms(50))), "cannot be reached"),
        (few(RemoteModel::new("nobody", "http://127.0.0.1:1/", |_: &[&String]| Ok(Vec::new()), |_, _| Ok(Vec::<usize>::new()))), "cannot be reached"),
    ] {
        let (report, results) = run(model, 2);
        assert_eq!((results, report.counts.dead_lettered), (0, 2), "{message}");
        assert!(report.dead_letters[0].to_string().contains(message), "{} lacks {message}", report.dead_letters[0]);
    }
}

#[test]
fn the_rate_limit_holds_over_all_replicas() {
    let server = Server::start();
    let start = Instant::now();
    let (_, results) = run(server.model("/ok").max_batch(1).rate_limit(RateLimit::per_second(50.0, 5.0)), 25);
    assert_eq!(results, 25);
    // Five at once, and twenty at fifty a second.
    assert!(start.elapsed() >= Duration::from_millis(390), "{:?}", start.elapsed());
}
