//! A real process with checkpoints, killed at each of its fail points, again and again: in the end, each record's result is
//! in the file once. And what becomes of torn checkpoints.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use millstream_io::{CheckpointFolder, Line, jsonl, lines};
use millstream_runtime::{
    Checkpoint, CheckpointOptions, CheckpointStore, Context, Emit, Ensemble, Flow, Join, Order, Pipeline, RunInference, StageError, StageOptions, State,
    Transform, Watermarks, Windows, fold, handler, ms, stored,
};

const LINES: u64 = 2_000;
const FOLDER: &str = "MILLSTREAM_ONCE_TEST";
/// Milliseconds that every second record takes, in a child: 1 unless told.
const PACE: &str = "MILLSTREAM_ONCE_PACE";

/// Adds up what has come.
struct Total(u64);

impl Transform<u64, (u64, u64)> for Total {
    fn apply(&mut self, record: u64, _: &Context<'_>, out: &mut Emit<(u64, u64)>) -> Result<(), StageError> {
        self.0 += record;
        out.push((record, self.0));
        Ok(())
    }

    fn state(&mut self) -> Option<&mut dyn State> {
        Some(self)
    }
}

impl State for Total {
    fn snapshot(&mut self) -> Result<Vec<u8>, StageError> {
        Ok(self.0.to_le_bytes().to_vec())
    }

    fn restore(&mut self, snapshot: Option<&[u8]>) -> Result<(), StageError> {
        if let Some(snapshot) = snapshot {
            self.0 = u64::from_le_bytes(snapshot.try_into().map_err(StageError::fatal)?);
        }
        Ok(())
    }
}

/// Lines of two files through replicas and a batching model into one file, with a running total; and counted by windows into
/// another.
fn pipeline(folder: &Path) -> Pipeline {
    let numbers = |name: &str| {
        let number = |line: Line| line.text.parse::<u64>();
        let times = Watermarks::bounded(ms(0));
        Pipeline::from(lines(folder.join(name))).try_map(&format!("{name}.number"), number).event_time(&format!("{name}.time"), times, |n| *n as i64 * 1_000)
    };
    let pace = std::env::var(PACE).map_or(1, |pace| pace.parse().expect("milliseconds"));
    let work = move |number: u64| {
        // So slow, on edges so short, that there are several checkpoints.
        if number.is_multiple_of(2) {
            thread::sleep(Duration::from_millis(pace));
        }
        number
    };
    let model = handler("same", |batch: &[&u64]| Ok::<_, StageError>(batch.iter().map(|x| **x).collect()));
    let count = fold(|| 0u64, |count: &mut u64, _: &u64| *count += 1, |count, other| *count += other);
    let count = stored(count, |count| count.to_le_bytes().to_vec(), |bytes| bytes.try_into().ok().map(u64::from_le_bytes));
    let [numbers, timed] = Flow::merge([numbers("odd.txt"), numbers("even.txt")])
        .map_with("work", StageOptions::new().replicas(3), work)
        .infer("model", RunInference::new(model).batch(1..=8))
        .map("number", |p| p.inference)
        .tee("copies");
    let (windows, late) = timed.window("hundred", Windows::Tumbling(ms(100)), count);
    numbers
        .stage("total", StageOptions::new(), |_| Ok(Total(0)))
        .sink(jsonl(folder.join("totals.jsonl")).transactional())
        .and(windows.map("count", |window| (window.start, window.value)).sink(jsonl(folder.join("counts.jsonl")).transactional()))
        .and(late.sink(jsonl(folder.join("late.jsonl")).transactional()))
        .checkpoint(CheckpointOptions::new(CheckpointFolder::new(folder.join("state"))).every(ms(1)))
        .edge_records(16)
}

/// Lines of a file, asked about in three ways, joined with themselves, and written in the order of the file.
fn meeting(folder: &Path) -> Pipeline {
    let work = |number: u64| {
        if number.is_multiple_of(4) {
            thread::sleep(Duration::from_millis(1));
        }
        number
    };
    let ask = Ensemble::new(2, ms(60_000))
        .branch(move |flow: Flow<u64>| flow.map_with("slow", StageOptions::new().replicas(3), work))
        .branch(|flow| flow.map("quick", |number| number))
        .branch(|flow| flow.filter("some", |number| number % 3 == 0));
    let [left, right] = Pipeline::from(lines(folder.join("odd.txt"))).try_map("number", |line: Line| line.text.parse::<u64>()).tee("copies");
    let asked = left.ensemble("vote", ask, |asked| asked.answers.iter().map(|(_, number)| *number).max().unwrap_or(0));
    let pairs = asked.join("join", right.map("quicker", |number| number), Join::by_record(ms(60_000)));
    let [most, thirds] = pairs.split("thirds", |(number, _)| usize::from(number % 3 == 0));
    most.sink(jsonl(folder.join("most.jsonl")).transactional())
        .and(thirds.sink(jsonl(folder.join("thirds.jsonl")).transactional()))
        .order(Order::Total { window: 256 })
        .checkpoint(CheckpointOptions::new(CheckpointFolder::new(folder.join("state"))).every(ms(1)))
        .edge_records(16)
}

#[test]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    pipeline(&folder).run().expect("nothing fails");
}

#[test]
fn child_with_meetings() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    meeting(&folder).run().expect("nothing fails");
}

/// Runs the child up to a fail point, and kills it there. Whether it came to that point.
fn run_until(folder: &Path, point: &str, count: u32) -> bool {
    run_child("child", folder, point, count)
}

fn run_child(name: &str, folder: &Path, point: &str, count: u32) -> bool {
    run_paced(name, folder, point, count, 1)
}

fn run_paced(name: &str, folder: &Path, point: &str, count: u32, pace: u64) -> bool {
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(PACE, pace.to_string())
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
    assert!(failed || status.success(), "the child failed by itself at {point}");
    failed
}

fn fresh(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("millstream-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder");
    for (name, first) in [("odd.txt", 1), ("even.txt", 2)] {
        let text: String = (first..=LINES).step_by(2).map(|number| format!("{number}\n")).collect();
        fs::write(folder.join(name), text).expect("written");
    }
    folder
}

fn pairs(folder: &Path, name: &str) -> Vec<(u64, u64)> {
    let text = fs::read_to_string(folder.join(name)).expect("written");
    let pair = |line: &str| {
        let (a, b) = line.trim_matches(['[', ']']).split_once(',')?;
        Some((a.parse().ok()?, b.parse().ok()?))
    };
    text.lines().map(|line| pair(line).expect("a pair")).collect()
}

fn check(folder: &Path, point: &str) {
    let totals = pairs(folder, "totals.jsonl");
    let mut numbers: Vec<_> = totals.iter().map(|(number, _)| *number).collect();
    numbers.sort_unstable();
    let missing: Vec<_> = (1..=LINES).filter(|number| numbers.binary_search(number).is_err()).collect();
    assert_eq!((missing, numbers.len() as u64), (Vec::new(), LINES), "each once, after {point}");
    let mut sum = 0;
    for (number, total) in totals {
        sum += number;
        assert_eq!(total, sum, "after {point}");
    }
    let mut counts = pairs(folder, "counts.jsonl");
    counts.sort_unstable();
    let expected: Vec<_> =
        (0..=LINES / 100).map(|start| (start * 100_000, (start * 100..start * 100 + 100).filter(|n| (1..=LINES).contains(n)).count() as u64)).collect();
    assert_eq!(counts, expected, "after {point}");
    assert_eq!(fs::read(folder.join("late.jsonl")).expect("written"), b"", "after {point}");
}

#[test]
fn a_process_killed_at_any_point_delivers_exactly_once() {
    let points = [
        "after-restore",
        "before-barrier",
        "after-barrier",
        "before-snapshot",
        "before-prepared",
        "at-barrier",
        "before-checkpoint",
        "before-checkpoint-sync",
        "before-checkpoint-rename",
        "after-checkpoint-rename",
        "after-checkpoint",
        "before-sink-commit",
        "after-sink-commit",
        "at-end",
    ];
    let mut kills = 0;
    let mut folder = fresh("once");
    for count in [1u32, 2, 7] {
        for point in points {
            // Each from where the one before was killed, and anew when all is done.
            if run_until(&folder, point, count) {
                kills += 1;
            } else {
                check(&folder, point);
                folder = fresh("once");
            }
        }
    }
    // (Where a disk is slow, there are few checkpoints.)
    assert!(kills >= 20, "only {kills} of 42 kills");
    assert!(!run_until(&folder, "none", 1));
    check(&folder, "the end");
    // Once more: everything is done.
    assert!(!run_until(&folder, "none", 1));
    check(&folder, "another end");
    fs::remove_dir_all(&folder).expect("ours");
}

/// With a join, an ensemble and a total order: each line's results once, in the order of the lines.
#[test]
fn a_process_whose_records_meet_killed_at_any_point_delivers_exactly_once_and_in_order() {
    let points =
        ["at-meeting", "after-barrier", "before-prepared", "at-barrier", "before-checkpoint", "after-checkpoint", "before-sink-commit", "after-sink-commit"];
    let check = |folder: &Path, point: &str| {
        let odd = |third: bool| (1..=LINES).step_by(2).filter(move |n| (n % 3 == 0) == third).map(|n| (n, n)).collect::<Vec<_>>();
        assert_eq!(pairs(folder, "most.jsonl"), odd(false), "after {point}");
        assert_eq!(pairs(folder, "thirds.jsonl"), odd(true), "after {point}");
    };
    let mut kills = 0;
    let mut folder = fresh("meeting");
    for count in [1u32, 4] {
        for point in points {
            if run_child("child_with_meetings", &folder, point, count) {
                kills += 1;
            } else {
                check(&folder, point);
                folder = fresh("meeting");
            }
        }
    }
    assert!(kills >= 8, "only {kills} of 16 kills");
    assert!(!run_child("child_with_meetings", &folder, "none", 1));
    check(&folder, "the end");
    fs::remove_dir_all(&folder).expect("ours");
}

/// No file may grow beyond so many blocks: a write past them fails in the kernel, as on a full disk, be it of a sink or of a
/// checkpoint. What was stored before is gone on from.
#[test]
fn a_full_disk_fails_the_pipeline_and_the_next_goes_on() {
    let folder = fresh("full");
    let mut failures = 0;
    for blocks in [0, 1, 2, 3, 5, 6] {
        let status = Command::new("sh")
            .args(["-c", &format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"")])
            .arg(std::env::current_exe().expect("this test"))
            .args(["--exact", "child", "--test-threads=1"])
            .env(FOLDER, &folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        failures += u32::from(!status.expect("a shell").success());
    }
    assert!(failures >= 4, "only {failures} of 6 runs failed");
    assert!(!run_until(&folder, "none", 1));
    check(&folder, "there was room again");
    fs::remove_dir_all(&folder).expect("ours");
}

#[test]
fn a_torn_checkpoint_is_passed_over() {
    let folder = fresh("torn");
    // So slow that a disk on which each checkpoint takes a second has stored three before the last record has come.
    assert!(run_paced("child", &folder, "before-checkpoint", 4, 20), "three are stored, and more are to come");
    let newest = || {
        let mut files: Vec<_> = fs::read_dir(folder.join("state")).expect("checkpoints").map(|entry| entry.expect("a file").path()).collect();
        files.retain(|path| path.extension().is_some());
        files.sort();
        files
    };
    let files = newest();
    let last = files.last().expect("three were stored");
    let epoch = || CheckpointFolder::new(folder.join("state")).latest().map(|latest| latest.map(|checkpoint| checkpoint.epoch));
    let whole = fs::read(last).expect("a file");
    assert_eq!(epoch().expect("whole"), Some(3));
    for end in 0..whole.len() {
        fs::write(last, &whole[..end]).expect("torn");
        assert_eq!(epoch().expect("the one before"), Some(2), "cut at {end}");
    }
    assert!(!run_until(&folder, "none", 1));
    check(&folder, "a torn checkpoint");
    for file in newest() {
        fs::write(file, b"rubbish").expect("written");
    }
    assert!(epoch().is_err(), "never silently from the beginning");
    assert!(pipeline(&folder).run().is_err());
    fs::remove_dir_all(&folder).expect("ours");
}

#[test]
fn a_folder_belongs_to_one_store_at_a_time() {
    let folder = fresh("lock");
    let state = folder.join("new/state");
    let mut first = CheckpointFolder::new(&state);
    assert_eq!(first.latest().expect("nothing yet"), None);
    let error = CheckpointFolder::new(&state).latest().expect_err("another has it");
    assert!(error.to_string().contains("another pipeline"), "{error}");
    first.save(&Checkpoint::default()).expect("stored");
    drop(first);
    assert_eq!(CheckpointFolder::new(&state).latest().expect("free again"), Some(Checkpoint::default()));
    fs::remove_dir_all(&folder).expect("ours");
}
