//! Pipeline files whose records part, meet and gather.

mod folder;

use std::fs;

use folder::Folder;
use millstream_pipefile::{PipelineFile, Plot};
use serde_json::{Value as Json, json};

/// Purchases of two users, one every 100 ms but for the last, which comes three seconds too late, and one without a time.
fn purchases(folder: &Folder) {
    let mut lines: Vec<Json> = (0..40).map(|n| json!({ "at": 10_000 + n * 100, "user": (["ann", "bob"][n % 2]), "amount": n })).collect();
    lines[7] = json!({ "at": 10_700, "user": "bob" });
    lines.push(json!({ "at": 10_900, "user": "ann", "amount": 1_000 }));
    lines.push(json!({ "user": "ann", "amount": 1_000 }));
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(folder.0.join("in.jsonl"), text).expect("a file");
}

const WINDOWS: &str = r#"
    [[source]]
    kind = "lines"
    path = "in.jsonl"
    [[stage]]
    kind = "json"
    [[stage]]
    kind = "key"
    field = "user"
    [[stage]]
    kind = "event_time"
    field = "at"
    disorder = "500 ms"
    [[stage]]
    kind = "window"
    size = "2 s"
    values = { user = "first user", latest = "last amount", total = "sum amount", mean = "mean amount", least = "min amount", most = "max amount", paid = "count amount" }
    replicas = 2
    [[sink]]
    name = "windows"
    kind = "jsonl"
    from = "window.windows"
    path = "windows.jsonl"
    [[sink]]
    name = "late"
    kind = "jsonl"
    from = "window.late"
    path = "late.jsonl"
"#;

#[test]
fn records_gather_in_windows() {
    let folder = Folder::new();
    purchases(&folder);
    let report = folder.run(WINDOWS);
    let mut windows = folder.lines("windows.jsonl");
    windows.sort_by_key(|window| window.to_string());
    let figures = |user: usize, range: std::ops::Range<usize>| {
        let of_user: Vec<usize> = range.clone().filter(|n| n % 2 == user).collect();
        let amounts: Vec<usize> = of_user.iter().copied().filter(|n| *n != 7).collect();
        let sum = amounts.iter().sum::<usize>() as f64;
        json!({
            "start": 10_000 + range.start * 100, "end": 10_000 + range.end * 100, "count": of_user.len(), "user": (["ann", "bob"][user]),
            "latest": amounts[amounts.len() - 1], "total": sum, "mean": sum / amounts.len() as f64,
            "least": amounts[0] as f64, "most": amounts[amounts.len() - 1] as f64, "paid": amounts.len(),
        })
    };
    let mut expected = vec![figures(0, 0..20), figures(1, 0..20), figures(0, 20..40), figures(1, 20..40)];
    expected.sort_by_key(|window| window.to_string());
    for (window, expected) in windows.iter().zip(&expected) {
        for (name, value) in expected.as_object().expect("an object") {
            assert_eq!(window[name].as_f64(), value.as_f64(), "{name} of {window}");
            assert_eq!(window[name].as_str(), value.as_str(), "{name} of {window}");
        }
    }
    assert_eq!(windows.len(), expected.len());
    let late = folder.lines("late.jsonl");
    assert_eq!((late.len(), late[0]["amount"].as_u64()), (1, Some(1_000)));
    assert_eq!(report.counts.dead_lettered, 1, "a record without a time");
}

/// Sessions, sliding windows and windows by count; the figures of windows are part of checkpoints.
#[test]
fn windows_are_of_every_kind_and_in_checkpoints() {
    for (windows, expected) in [("size = \"4 s\"\nevery = \"2 s\"", 6), ("session = \"150 ms\"", 40), ("session = \"1 s\"", 2), ("count = 7", 6)] {
        let folder = Folder::new();
        purchases(&folder);
        let text = "checkpoints = { folder = \"state\", every = \"5 ms\" }\n".to_owned() + &WINDOWS.replace("size = \"2 s\"", windows);
        let report = folder.run(&text);
        assert_eq!(folder.lines("windows.jsonl").len(), expected, "{windows}: {report}");
    }
}

#[test]
fn branches_meet_again() {
    let folder = Folder::new();
    fs::write(folder.0.join("in"), (0..50).map(|n| format!("{n}\n")).collect::<String>()).expect("a file");
    let text = r#"
        [[source]]
        kind = "lines"
        path = "in"
        [[stage]]
        name = "left"
        kind = "fields"
        rename = { text = "a" }
        from = "lines"
        [[stage]]
        name = "right"
        kind = "filter"
        when = "text != '13'"
        from = "lines"
        [[stage]]
        name = "whole"
        kind = "join"
        from = "left"
        with = "right"
        within = "200 ms"
        alone = true
        [[sink]]
        name = "pairs"
        kind = "jsonl"
        from = "whole.pairs"
        path = "pairs"
        [[sink]]
        name = "alone"
        kind = "jsonl"
        from = "whole.alone"
        path = "alone"
    "#;
    let report = folder.run(text);
    let pairs = folder.lines("pairs");
    assert_eq!((pairs.len(), report.counts.ok), (49, 50));
    for pair in &pairs {
        assert!(pair["a"] == pair["text"] && pair["line"].is_u64(), "{pair}");
    }
    let alone = folder.lines("alone");
    assert_eq!((alone.len(), &alone[0]["a"]), (1, &json!("13")));
    let file = PipelineFile::parse("join.toml", text, "").expect("it is in order");
    let drawn = file.plot(Plot::Mermaid);
    assert!(drawn.contains("left --> whole") && drawn.contains("right --> whole") && drawn.contains("whole -->|alone| alone"), "{drawn}");
    // Without a way of its own, a record that stays alone is a dead letter.
    let strict = text.replace("alone = true", "").replace("whole.pairs", "whole");
    let strict = strict.split("[[sink]]\n        name = \"alone\"").next().expect("the part before");
    assert_eq!(folder.run(strict).counts.dead_lettered, 1);
}

#[test]
fn keys_part_by_weight_and_shadows_do_not_count() {
    let folder = Folder::new();
    fs::write(folder.0.join("in"), (0..400).map(|n| format!("{}\n", n % 100)).collect::<String>()).expect("a file");
    let report = folder.run(
        r#"
        [[source]]
        kind = "lines"
        path = "in"
        [[stage]]
        kind = "shadow"
        [[stage]]
        kind = "key"
        field = "text"
        from = "shadow.main"
        [[stage]]
        kind = "ab"
        salt = 3
        way = [{ name = "much", weight = 3 }, { name = "little" }, { name = "none", weight = 0 }]
        [[sink]]
        name = "much"
        kind = "jsonl"
        from = "ab.much"
        path = "much"
        [[sink]]
        name = "little"
        kind = "jsonl"
        from = "ab.little"
        path = "little"
        [[sink]]
        name = "rest"
        kind = "discard"
        from = ["ab.none", "shadow.copy"]
        "#,
    );
    let (much, little) = (folder.lines("much"), folder.lines("little"));
    assert_eq!((much.len() + little.len(), report.counts.ok), (400, 400));
    assert!((200..400).contains(&much.len()), "{} of 400", much.len());
    // A key goes one way.
    assert!(much.iter().all(|row| little.iter().all(|other| other["text"] != row["text"])));
}

const JURY: &str = r#"
    dead_letters = { path = "dead" }
    [[source]]
    kind = "lines"
    path = "in"
    [[stage]]
    kind = "json"
    [[stage]]
    name = "about"
    kind = "ask"
    way = ["a", "b", "c"]
    [[stage]]
    name = "a"
    kind = "tensor"
    field = "x"
    into = "t"
    from = "about.a"
    [[stage]]
    name = "b"
    kind = "fields"
    rename = { x = "t", other = "word" }
    from = "about.b"
    [[stage]]
    name = "b-tensor"
    kind = "tensor"
    field = "t"
    [[stage]]
    name = "c"
    kind = "filter"
    when = "n != 7"
    from = "about.c"
    [[stage]]
    name = "sure"
    kind = "json"
    field = "text"
    [[stage]]
    name = "verdict"
    kind = "ensemble"
    from = "about.record"
    with = ["a", "b-tensor", "sure"]
    within = "300 ms"
    values = { mean = "mean t", most = "max m", least = "min m", middle = "mean m", word = "majority word", first = "first word", words = "list word", with = "count t", of = "count" }
    [[stage]]
    kind = "fields"
    drop = ["line", "text"]
    [[sink]]
    kind = "jsonl"
    path = "out"
"#;

/// Three are asked; one answers nothing about the seventh record, and fails on the ninth.
#[test]
fn what_is_answered_about_a_record_becomes_one() {
    let folder = Folder::new();
    let line = |n: usize| match n {
        9 => json!({ "n": 9, "x": [9.0], "word": "w", "other": "o", "m": 1, "text": "no JSON" }),
        n => json!({ "n": n, "x": [n, 0.5], "word": "w", "other": "o", "m": n, "text": json!({ "m": n * 3 }).to_string() }),
    };
    fs::write(folder.0.join("in"), (0..40).map(|n| format!("{}\n", line(n))).collect::<String>()).expect("a file");
    let report = folder.run(JURY);
    let rows = folder.lines("out");
    assert_eq!((rows.len(), report.counts.ok, report.counts.dead_lettered), (38, 38, 2), "{report}");
    let dead = folder.lines("dead");
    assert!(dead.iter().any(|letter| letter["stage"] == "verdict" && letter["error"].to_string().contains("too few answers")), "{dead:?}");
    for row in &rows {
        let n = row["n"].as_u64().expect("a number") as usize;
        let expected = json!({
            "n": n, "x": [n, 0.5], "other": "o", "m": n, "word": "w", "mean": [n as f64, 0.5], "most": (3 * n) as f64, "least": n as f64,
            "middle": (5 * n) as f64 / 3.0, "first": "w", "words": ["w", "o", "w"], "with": 2, "of": 3,
        });
        let number = |json: &Json| json.as_f64().map_or_else(|| json.clone(), |number| json!(number));
        for (name, value) in expected.as_object().expect("an object") {
            assert_eq!(number(&row[name]), number(value), "{name} of {row}");
        }
        assert_eq!(row.as_object().map(|fields| fields.len()), Some(13), "{row}");
    }

    // Two answers are enough: the record that one of three fails on is no dead letter.
    let two = JURY.replace("within = \"300 ms\"", "within = \"10 s\"\n    enough = 2");
    let report = folder.run(&two);
    assert_eq!((report.counts.ok, folder.lines("out").len()), (40, 40), "{report}");
    let file = PipelineFile::parse("jury.toml", &two, "").expect("it is in order");
    let drawn = file.plot(Plot::Mermaid);
    assert!(drawn.contains("about -->|record| verdict") && drawn.contains("verdict{{\"verdict: ensemble<br/>2 of 3 within 10s; "), "{drawn}");
}
