//! The program as a process: told to end, it finishes what it has begun and says so.
#![cfg(target_os = "linux")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

/// More files than the demo reads in the time that the test gives it.
const FILES: usize = 60_000;

/// A folder that is removed in the end.
struct Folder(PathBuf);

impl Folder {
    /// `FILES` source files: links to few, so that making them is quick.
    fn of_sources() -> Folder {
        let root = std::env::temp_dir().join(format!("millstream-sigterm-{}", std::process::id()));
        fs::create_dir_all(&root).expect("a folder for the test");
        let source = "fn main() {\n    let total: u64 = (0..10).map(|x| x * x).sum();\n    println!(\"{total}\");\n}\n".repeat(20);
        let original = root.join("original.rs");
        fs::write(&original, source).expect("a file");
        for folder in 0..FILES / 1000 {
            let folder = root.join(format!("{folder}"));
            fs::create_dir(&folder).expect("a folder");
            for file in 0..1000 {
                fs::hard_link(&original, folder.join(format!("{file}.rs"))).expect("a link");
            }
        }
        Folder(root)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn demo(folder: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
    command.arg("demo").args(["--json", "--files"]).arg(folder).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
}

/// Waits until the process handles SIGTERM (15) itself.
fn wait_for_handler(child: &Child) {
    let until = Instant::now() + Duration::from_secs(30);
    let handles = || {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let mask = status.lines().find_map(|l| l.strip_prefix("SigCgt:")).and_then(|m| u64::from_str_radix(m.trim(), 16).ok());
        mask.is_some_and(|m| m >> 14 & 1 == 1)
    };
    while !handles() {
        assert!(Instant::now() < until, "the program never listened to SIGTERM");
        thread::sleep(Duration::from_millis(5));
    }
}

fn terminate(child: &Child) {
    let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill runs");
    assert!(sent.success(), "the program had ended before it was told to");
}

/// What a program printed that must end within this time.
fn ended(mut child: Child, within: Duration) -> Output {
    let until = Instant::now() + within;
    // The results are read while they come: a pipe holds little.
    let mut stdout = child.stdout.take().expect("it is piped");
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        std::io::Read::read_to_end(&mut stdout, &mut text).map(|_| text)
    });
    while child.try_wait().expect("it is our child").is_none() {
        if Instant::now() > until {
            let _ = child.kill();
            panic!("the program went on for more than {within:?}");
        }
        thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().expect("it has ended");
    Output { stdout: reader.join().expect("the reader ends").expect("the pipe is read"), ..output }
}

#[test]
fn told_to_end_the_demo_drains() {
    let folder = Folder::of_sources();
    let child = demo(&folder.0);
    wait_for_handler(&child);
    thread::sleep(Duration::from_millis(300));
    terminate(&child);
    let output = ended(child, Duration::from_secs(30));
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));

    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let count = |key: &str| report[key].as_u64().unwrap_or_else(|| panic!("no count of {key}"));
    let stages = report["stages"].as_array().expect("a list of stages");
    let (files, read) = (count("files"), stages[1]["records"].as_u64().expect("a count of records"));
    assert!(files > 0 && files < FILES as u64, "{files} files: it neither did nothing nor all");
    // Each file that was taken in has come out, once.
    assert_eq!(files + count("skipped") + count("dead_letters"), read, "{stages:?}");
    assert_eq!((count("skipped"), count("dead_letters")), (0, 0));
    let results = report["results"].as_array().expect("a list of files");
    let paths: BTreeSet<&str> = results.iter().filter_map(|r| r["path"].as_str()).collect();
    assert_eq!((results.len() as u64, paths.len() as u64), (files, files));
    for stage in &stages[2..] {
        assert_eq!(stage["records"].as_u64(), Some(read), "records are left in {stage}");
    }
}
