//! Pipeline files whose models are behind HTTP, against a server in this process.

mod endpoint;
mod folder;

use std::{
    fs,
    time::{Duration, Instant},
};

use endpoint::{Answer, Endpoint, Request};
use folder::{Folder, no_models};
use millstream_pipefile::{Plot, RunError};
use serde_json::{Value as Json, json};

/// Cargo sets it for tests: what stands for a secret here.
const VARIABLE: &str = "CARGO_PKG_NAME";
const SECRET: &str = env!("CARGO_PKG_NAME");

/// Lines that a remote model of these keys is asked about.
fn pipeline(folder: &Folder, lines: usize, keys: &str) -> String {
    let line = |n: usize| format!("{}\n", json!({ "n": n, "text": "x".repeat(n % 7) }));
    fs::write(folder.0.join("in"), (0..lines).map(line).collect::<String>()).expect("a file");
    format!(
        r#"
        [[source]]
        kind = "lines"
        path = "in"
        [[stage]]
        kind = "json"
        [[stage]]
        name = "lengths"
        kind = "remote"
        {keys}
        [[sink]]
        kind = "jsonl"
        path = "out"
        "#
    )
}

fn examples(request: &Request) -> Vec<Json> {
    let list = request.body.get("instances").unwrap_or(&request.body);
    list.as_array().expect("a list of examples").clone()
}

fn length(example: &Json) -> usize {
    example.get("line").unwrap_or(example).as_str().expect("text").len()
}

#[test]
fn a_batch_is_a_request_and_answers_become_fields() {
    let folder = Folder::new();
    let endpoint = Endpoint::start(|request| {
        let answer = |example: &Json| json!({ "size": { "letters": length(example) }, "noise": 1 });
        (200, "", json!({ "result": { "predictions": examples(request).iter().map(answer).collect::<Vec<_>>() } }))
    });
    let text = pipeline(
        &folder,
        40,
        &format!(
            r#"
            url = "{}"
            send = {{ line = "text" }}
            examples = "instances"
            body = {{ model = "m-1", temperature = 0.5 }}
            answers = "result.predictions"
            outputs = {{ "size.letters" = "letters" }}
            headers = {{ Authorization = {{ env = "{VARIABLE}", prefix = "Bearer " }}, X-Client = "test" }}
            rate_limit = {{ per_second = 1000, burst = 10 }}
            timeout = "5 s"
            version = "7"
            model_id = "model"
            batch = [8, 8]
            replicas = 2
            "#,
            endpoint.url()
        ),
    );
    let report = folder.run(&text);
    assert_eq!((report.counts.ok, report.counts.dead_lettered), (40, 0), "{report}");
    let mut rows = folder.lines("out");
    rows.sort_by_key(|row| row["n"].as_u64());
    assert_eq!(rows[13], json!({ "line": 14, "n": 13, "text": "xxxxxx", "letters": 6, "model": "lengths@7" }));
    let requests = endpoint.requests();
    assert_eq!(requests.len(), 5);
    for request in &requests {
        let Json::Object(body) = &request.body else { panic!("{}", request.body) };
        assert_eq!((body.len(), &body["model"], &body["temperature"]), (3, &json!("m-1"), &json!(0.5)));
        assert_eq!(examples(request).len(), 8);
        assert_eq!(request.header("authorization"), Some(&*format!("Bearer {SECRET}")));
        assert_eq!((request.header("x-client"), request.header("content-type")), (Some("test"), Some("application/json")));
    }

    // Looked at, it says what it would do, and no secret.
    let shown = folder.open(&text).describe(&no_models()).unwrap_or_else(|problems| panic!("{problems}"));
    let line = format!(
        "model of `lengths`: asked at {}, up to 8 records a request, 5s a try, again 4 times after 500ms to 30s, 1000 requests a second at most, \
         less where it refuses; Authorization: Bearer ${VARIABLE}, X-Client: test\n",
        endpoint.url()
    );
    assert!(shown.to_string().ends_with(&line), "{shown}");
    assert!(!serde_json::to_string(&shown).expect("JSON").contains(SECRET));
    let drawn = folder.open(&text).plot(Plot::Mermaid);
    assert!(drawn.contains("lengths: remote × 2") && drawn.contains(&format!("{}, batches of 8 to 8", endpoint.url())), "{drawn}");
}

/// What is sent and taken where the file says little: whole records, or a field; a list, or an object for each.
#[test]
fn little_has_to_be_said() {
    let folder = Folder::new();
    let run = |keys: &str, answer: fn(&Request) -> Answer| {
        let endpoint = Endpoint::start(answer);
        let report = folder.run(&pipeline(&folder, 3, &format!("url = \"{}\"\n{keys}", endpoint.url())));
        assert_eq!(report.counts.ok, 3, "{report}");
        folder.lines("out")[2].clone()
    };
    let whole = run("", |request| (200, "", examples(request).iter().map(|example| json!({ "twice": example["n"].as_u64().unwrap() * 2 })).collect()));
    assert_eq!(whole, json!({ "line": 3, "n": 2, "text": "xx", "twice": 4 }));
    let field = run("send = \"text\"\ninto = \"length\"", |request| (200, "", examples(request).iter().map(length).collect()));
    assert_eq!(field, json!({ "line": 3, "n": 2, "text": "xx", "length": 2 }));
    let some = run("send = [\"n\"]\ninto = \"sent\"", |request| (200, "", request.body.clone()));
    assert_eq!(some, json!({ "line": 3, "n": 2, "text": "xx", "sent": { "n": 2 } }));
}

#[test]
fn an_endpoint_that_refuses_for_a_while_is_asked_again() {
    let folder = Folder::new();
    let endpoint = Endpoint::start(|request| match request.number % 3 {
        2 => (200, "", examples(request).iter().map(length).collect()),
        _ => (503, "Retry-After: 0\r\n", json!("busy")),
    });
    let keys = "into = \"length\"\nsend = \"text\"\nbatch = [5, 5]\nthrottle = false\nretries = { times = 5, pause = \"2 ms\", longest = \"10 ms\" }";
    let report = folder.run(&pipeline(&folder, 20, &format!("url = \"{}\"\n{keys}", endpoint.url())));
    assert_eq!((report.counts.ok, endpoint.requests().len()), (20, 12), "{report}");
}

/// What an endpoint refuses, and answers that are none, are dead letters that say so.
#[test]
fn what_the_endpoint_refuses_and_answers_that_are_none_are_dead_letters() {
    let folder = Folder::new();
    let keys = "send = \"text\"\nthrottle = { pause = \"1 ms\" }\nretries = 0\ntimeout = \"300 ms\"";
    let cases: [(&str, fn(&Request) -> Answer, &str); 8] = [
        ("into = \"y\"", |_| (401, "", json!("who are you?")), "answered 401: \"who are you?\""),
        ("into = \"y\"", |_| (503, "", json!("busy")), "answered 503: \"busy\""),
        // Not followed: the headers are for this endpoint alone.
        ("into = \"y\"", |_| (307, "Location: http://127.0.0.1:1/\r\n", Json::Null), "answered 307"),
        ("into = \"y\"", |_| (200, "", Json::Null), "the endpoint's answer is no JSON"),
        ("into = \"y\"", |_| (200, "", json!({ "y": [1] })), "the endpoint's answer has no list at its top"),
        ("into = \"y\"\nanswers = \"y.z\"", |_| (200, "", json!({ "y": [1] })), "the endpoint's answer has no list at `y.z`"),
        ("outputs = { a = \"b\" }", |request| (200, "", request.body.clone()), "the endpoint's answer for a record has no `a`"),
        ("", |request| (200, "", request.body.clone()), "is text, and no object: `into` names a field for it"),
    ];
    for (more, answer, message) in cases {
        let endpoint = Endpoint::start(answer);
        let report = folder.run(&pipeline(&folder, 2, &format!("url = \"{}\"\n{keys}\n{more}", endpoint.url())));
        assert_eq!((report.counts.ok, report.counts.dead_lettered), (0, 2), "{message}: {report}");
        let letter = report.dead_letters[0].to_string();
        assert!(letter.contains(message), "{letter} lacks {message}");
    }
    // A record without the field costs itself only.
    let endpoint = Endpoint::start(|request| (200, "", examples(request).iter().map(length).collect()));
    let text = pipeline(&folder, 9, &format!("url = \"{}\"\nsend = \"text\"\ninto = \"length\"\nbatch = [9, 9]", endpoint.url()));
    let text = text.replacen("name = \"lengths\"", "kind = \"filter\"\nwhen = \"n >= 0\"\n[[stage]]\nname = \"lengths\"", 1);
    fs::write(folder.0.join("in"), fs::read_to_string(folder.0.join("in")).expect("the input").replacen("text", "txt", 1)).expect("a file");
    let report = folder.run(&text);
    assert_eq!((report.counts.ok, report.counts.dead_lettered), (8, 1), "{report}");
    assert!(report.dead_letters[0].to_string().contains("has no field `text`"), "{}", report.dead_letters[0]);
}

#[test]
fn the_rate_limit_holds_over_all_replicas() {
    let folder = Folder::new();
    let endpoint = Endpoint::start(|request| (200, "", examples(request).iter().map(length).collect()));
    let keys = "send = \"text\"\ninto = \"length\"\nbatch = 1\nreplicas = 2\nrate_limit = { per_second = 50, burst = 5 }";
    let start = Instant::now();
    let report = folder.run(&pipeline(&folder, 20, &format!("url = \"{}\"\n{keys}", endpoint.url())));
    assert_eq!(report.counts.ok, 20);
    // Five at once, and fifteen at fifty a second.
    assert!(start.elapsed() >= Duration::from_millis(290), "{:?}", start.elapsed());
}

/// What the environment lacks is said where the file names it, before anything is asked.
#[test]
fn a_secret_that_is_not_there_is_missed_before_anything_runs() {
    let folder = Folder::new();
    let text = pipeline(&folder, 1, "url = \"http://127.0.0.1:1/\"\nheaders = { X-Api-Key = { env = \"MILLSTREAM_NO_SUCH_KEY\" } }");
    let Err(RunError::File(problems)) = folder.open(&text).spawn(&no_models()) else { panic!("there is no such variable") };
    let line = text.lines().position(|line| line.starts_with("headers")).expect("headers") + 1;
    let told: Vec<_> = problems.iter().map(|problem| (problem.message.as_str(), problem.line, problem.column)).collect();
    assert_eq!(told, [("`headers`: the variable `MILLSTREAM_NO_SUCH_KEY` of the environment is not set", line, 25)]);
    // Looking at it tells the same.
    assert_eq!(folder.open(&text).describe(&no_models()).err().map(|problems| problems.to_string()), Some(problems.to_string()));
}
