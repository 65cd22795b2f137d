//! Files in, JSON lines out, through whole pipelines.

use std::{
    fs,
    io::Cursor,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use millstream_io::{files, jsonl, letters, lines, lines_of, read, read_head, walk};
use millstream_runtime::{Pipeline, PipelineError, SinkOptions, collect};

/// A folder that is removed with its owner.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("millstream-io-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        let folder = Folder(std::env::temp_dir().join(name));
        fs::create_dir_all(&folder.0).unwrap();
        folder
    }

    fn write(&self, path: &str, text: &str) -> &Self {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn pattern(&self, pattern: &str) -> String {
        self.0.join(pattern).display().to_string()
    }

    fn relative(&self, paths: Vec<PathBuf>) -> Vec<String> {
        paths.iter().map(|path| path.strip_prefix(&self.0).unwrap().display().to_string()).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn paths(source: millstream_io::FileSource) -> Vec<PathBuf> {
    let (sink, paths) = collect();
    Pipeline::from(source).sink(sink).run().unwrap();
    paths.take()
}

#[test]
fn patterns_and_folders_find_their_files() {
    let folder = Folder::new();
    folder.write("a.txt", "a").write("b.rs", "b").write("sub/c.txt", "c").write("sub/deep/d.txt", "d").write(".hidden/e.txt", "e");
    folder.write(".gitignore", "b.rs\n");
    let found = |pattern| folder.relative(paths(files(folder.pattern(pattern))));
    assert_eq!(found("*.txt"), ["a.txt"]);
    assert_eq!(found("**/*.txt"), [".hidden/e.txt", "a.txt", "sub/c.txt", "sub/deep/d.txt"]);
    assert_eq!(found("sub/*.{txt,rs}"), ["sub/c.txt"]);
    assert_eq!(found("a.txt"), ["a.txt"]);
    assert!(found("none/*.txt").is_empty());
    assert_eq!(folder.relative(paths(walk(&folder.0))), ["a.txt", "sub/c.txt", "sub/deep/d.txt"]);
}

#[test]
fn a_bad_pattern_fails_the_pipeline_with_its_text() {
    let error = Pipeline::from(files("a/[")).sink(collect().0).run().unwrap_err();
    assert!(matches!(&error, PipelineError::Failed { .. }));
    assert!(error.to_string().contains("the pattern `a/[`"), "{error}");
}

#[test]
fn a_file_that_cannot_be_read_is_a_dead_letter_with_its_path() {
    let folder = Folder::new();
    folder.write("in/a.txt", "alpha").write("in/b.txt", "beta");
    let mut all = paths(files(folder.pattern("in/*")));
    all.push(folder.0.join("in/gone.txt"));
    let out = folder.0.join("dead.jsonl");
    let (sink, results) = collect();
    let report = Pipeline::from(millstream_runtime::from_iter(all)).try_map("read", read_head(3)).sink(sink).dead_letters(letters(&out)).run().unwrap();
    assert_eq!((report.counts.ok, report.counts.dead_lettered), (2, 1));
    assert_eq!(results.take().iter().map(|file| &*file.bytes).collect::<Vec<_>>(), [b"alp", b"bet"]);
    assert!(report.dead_letters[0].fault.to_string().contains("gone.txt"));
    let letter: serde_json::Value = serde_json::from_str(fs::read_to_string(out).unwrap().trim()).unwrap();
    assert_eq!((&letter["stage"], &letter["kind"], &letter["attempts"]), (&"read".into(), &"error".into(), &1.into()));
    assert!(letter["error"].as_str().unwrap().contains("gone.txt"));
}

#[test]
fn json_lines_hold_every_record_whole() {
    let folder = Folder::new();
    for i in 0..50 {
        folder.write(&format!("in/{i:02}.txt"), &"x".repeat(i));
    }
    for replicas in [1, 3] {
        let out = folder.0.join("out.jsonl");
        let report = Pipeline::from(files(folder.pattern("in/*.txt")))
            .try_map("read", read)
            .map("length", |file| (file.path.file_name().unwrap().to_string_lossy().into_owned(), file.bytes.len()))
            .sink_with(jsonl(&out), SinkOptions::new().replicas(replicas))
            .run()
            .unwrap();
        assert_eq!(report.counts.ok, 50);
        let text = fs::read_to_string(&out).unwrap();
        let mut seen: Vec<(String, usize)> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        seen.sort();
        assert_eq!(seen, (0..50).map(|i| (format!("{i:02}.txt"), i)).collect::<Vec<_>>());
    }
}

#[test]
fn lines_come_with_their_numbers_and_bad_ones_are_dead_letters() {
    let folder = Folder::new();
    folder.write("t.txt", "one\r\ntwo\n\nfour");
    let (sink, results) = collect();
    Pipeline::from(lines(folder.0.join("t.txt"))).map("text", |line| (line.number, line.text)).sink(sink).run().unwrap();
    let seen = results.take();
    let expected = [(1, "one"), (2, "two"), (3, ""), (4, "four")].map(|(n, t)| (n, t.to_owned()));
    assert_eq!(seen, expected);

    let (sink, results) = collect();
    let report = Pipeline::from(lines_of("bytes", Cursor::new(b"ok\n\xff\nfine\n".to_vec()))).sink(sink).run().unwrap();
    assert_eq!(results.take().iter().map(|line| line.number).collect::<Vec<_>>(), [1, 3]);
    let letter = &report.dead_letters[0];
    assert_eq!((letter.locator.as_deref(), &*letter.source), (Some("bytes:2"), "lines"));
    assert_eq!(report.counts.dead_lettered, 1);

    let error = Pipeline::from(lines(Path::new("/nowhere/at/all"))).sink(collect().0).run().unwrap_err();
    assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
}
