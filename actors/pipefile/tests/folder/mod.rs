//! A folder for a test, and pipelines that run in it.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use millstream_pipefile::{Models, Opened, PipelineFile};
use millstream_runtime::Report;
use serde_json::Value as Json;

/// A folder that is removed in the end.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Folder {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("millstream-pipefile-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("a folder for the test");
        Folder(path)
    }

    pub fn lines(&self, file: &str) -> Vec<Json> {
        let text = fs::read_to_string(self.0.join(file)).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    /// This pipeline, whose paths begin here.
    pub fn open(&self, text: &str) -> PipelineFile {
        PipelineFile::parse("test.toml", text, &self.0).unwrap_or_else(|problems| panic!("{problems}"))
    }

    /// Runs this pipeline to its end.
    pub fn run(&self, text: &str) -> Report {
        self.open(text).spawn(&no_models()).unwrap_or_else(|error| panic!("{error}")).join().expect("nothing fails")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub fn no_models() -> Arc<dyn Models> {
    Arc::new(|path: &Path| -> Result<Opened, Box<dyn Error + Send + Sync>> { Err(format!("{}: no engine", path.display()).into()) })
}
