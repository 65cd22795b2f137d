//! A real process, killed at each of its fail points, again and again: nothing is lost, and nothing counts as done that is
//! not on the disk.

use std::{
    collections::HashSet,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use millstream_io::{Line, OffsetFile, jsonl, letters, lines};
use millstream_runtime::{Pipeline, RunInference, StageError, StageOptions, handler, ms};

const LINES: u64 = 2_000;
const FOLDER: &str = "MILLSTREAM_KILL_TEST";

/// Every hundredth line fails.
fn fails(number: u64) -> bool {
    number % 100 == 50
}

/// What the child does: lines, through replicas and a batching model, into a file.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let work = |line: Line| {
        if line.number.is_multiple_of(20) {
            thread::sleep(Duration::from_micros(300));
        }
        if fails(line.number) { Err(StageError::permanent("bad line")) } else { Ok(line.number) }
    };
    let model = handler("same", |batch: &[&u64]| Ok(batch.iter().map(|x| **x).collect()));
    let report = Pipeline::from(lines(folder.join("in.txt")).resume(folder.join("offsets")))
        .try_map_with("work", StageOptions::new().replicas(2), work)
        .infer("model", RunInference::new(model).batch(1..=8))
        .map("number", |p| p.inference)
        .sink(jsonl(folder.join("out.jsonl")).append())
        .dead_letters(letters(folder.join("letters.jsonl")))
        .commit_every(ms(1))
        .run()
        .expect("nothing fails for good");
    assert_eq!(report.counts.in_flight(), 0);
}

/// The numbers that are on the disk, in whole lines.
fn stored(folder: &Path) -> HashSet<u64> {
    let whole = |name: &str| {
        let text = fs::read_to_string(folder.join(name)).unwrap_or_default();
        let end = text.rfind('\n').map_or(0, |at| at + 1);
        text[..end].lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let mut numbers: HashSet<u64> = whole("out.jsonl").iter().map(|line| line.parse().unwrap_or_else(|_| panic!("no number: {line:?}"))).collect();
    for letter in whole("letters.jsonl") {
        let offset = letter.split("\"offset\":").nth(1).and_then(|rest| rest.split(',').next()).expect("a letter tells the offset");
        numbers.insert(offset.parse().expect("a number"));
    }
    numbers
}

/// Runs the child up to a fail point, and kills it there. Whether it came to that point.
fn run_until(folder: &Path, point: &str, count: u32) -> bool {
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder)
        .env("MILLSTREAM_FAIL_AT", format!("{point}:{count}"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let mut failed = false;
    for line in BufReader::new(child.stdout.take().expect("piped")).lines() {
        if line.expect("text").contains("FAILED AT") {
            failed = true;
            // SIGKILL: no destructor runs, nothing is flushed.
            child.kill().expect("it runs");
        }
    }
    let status = child.wait().expect("it was started");
    assert!(failed || status.success(), "the child failed by itself");
    failed
}

fn check_promise(folder: &Path, point: &str) {
    let done = OffsetFile::open(folder.join("offsets")).expect("whole at any time").done(0).unwrap_or(0);
    let stored = stored(folder);
    for number in 1..=done {
        assert!(stored.contains(&number), "line {number} of {done} that count as done is not on the disk after {point}");
    }
}

#[test]
fn a_process_killed_at_any_point_loses_nothing() {
    let folder = std::env::temp_dir().join(format!("millstream-kill-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let points = [
        "after-write",
        "before-flush",
        "after-flush",
        "before-letter",
        "after-letter",
        "before-commit",
        "before-offsets-sync",
        "before-offsets-rename",
        "after-offsets-rename",
        "after-commit",
    ];
    let text: String = (1..=LINES).map(|number| format!("line {number}\n")).collect();
    let mut kills = 0;
    for (round, count) in [1u32, 3].into_iter().enumerate() {
        for point in points {
            // Each from where the one before was killed, and anew when all is done.
            if round == 0 && kills == 0 || OffsetFile::open(folder.join("offsets")).is_ok_and(|offsets| offsets.done(0) == Some(LINES)) {
                for name in ["out.jsonl", "letters.jsonl", "offsets"] {
                    let _ = fs::remove_file(folder.join(name));
                }
                fs::write(folder.join("in.txt"), &text).expect("written");
            }
            kills += u32::from(run_until(&folder, point, count));
            check_promise(&folder, point);
        }
    }
    assert!(kills >= 18, "only {kills} of 20 kills");
    // Undisturbed at last.
    assert!(!run_until(&folder, "none", 1));
    check_promise(&folder, "the end");
    assert_eq!(OffsetFile::open(folder.join("offsets")).expect("whole").done(0), Some(LINES));
    assert_eq!(stored(&folder), (1..=LINES).collect());
    fs::remove_dir_all(&folder).expect("ours");
}

/// Runs the child where no file may grow beyond so many blocks: a write past them fails in the kernel, as on a full disk, in the
/// middle of a line where that is where the blocks end. Whether it came to the end all the same.
fn run_within(folder: &Path, blocks: u32) -> bool {
    let status = Command::new("sh")
        .args(["-c", &format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"")])
        .arg(std::env::current_exe().expect("this test"))
        .args(["--exact", "child", "--test-threads=1"])
        .env(FOLDER, folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.expect("a shell").success()
}

#[test]
fn a_full_disk_fails_the_pipeline_and_loses_nothing() {
    let folder = std::env::temp_dir().join(format!("millstream-full-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let text: String = (1..=LINES).map(|number| format!("line {number}\n")).collect();
    fs::write(folder.join("in.txt"), text).expect("written");
    let mut failures = 0;
    for blocks in [0, 1, 1, 2, 3, 5, 5, 7] {
        failures += u32::from(!run_within(&folder, blocks));
        check_promise(&folder, &format!("{blocks} blocks"));
    }
    assert!(failures >= 6, "only {failures} of 8 runs failed");
    // There is room again.
    assert!(!run_until(&folder, "none", 1));
    check_promise(&folder, "the end");
    assert_eq!(stored(&folder), (1..=LINES).collect());
    fs::remove_dir_all(&folder).expect("ours");
}

#[test]
fn an_offset_file_is_whole_or_refused() {
    let path = std::env::temp_dir().join(format!("millstream-offsets-{}", std::process::id()));
    fs::write(&path, "0 12\nrubbish").expect("written");
    assert!(OffsetFile::open(&path).is_err());
    fs::remove_file(&path).expect("ours");
    assert_eq!(OffsetFile::open(&path).expect("nothing is done").done(0), None);
}
