//! A model's file is watched: newer ones, reused names, files that are being written, broken ones.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use millstream_io::{Watch, WatchOptions, Watched, watch_model};
use millstream_runtime::{Canary, Deployment, FnHandler, LoadModel, ModelHandler, StageError, Start, handler};

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("millstream-watch-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn write(&self, name: &str, text: &str) {
        let part = self.0.join("part");
        fs::write(&part, text).unwrap();
        fs::rename(part, self.0.join(name)).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A model that is a number in a file.
fn load(path: &Path) -> LoadModel<impl ModelHandler<Input = u64, Output = u64> + use<>> {
    let path = path.to_owned();
    LoadModel::new(move || {
        let text = fs::read_to_string(&path)?;
        let n: u64 = text.trim().parse()?;
        Ok(named(text.trim().to_owned(), n))
    })
}

fn named(
    version: String,
    n: u64,
) -> FnHandler<u64, u64, impl Fn(&Start) -> Result<(), StageError> + Send + Sync, impl Fn(&mut (), &[&u64]) -> Result<Vec<u64>, StageError> + Send + Sync> {
    handler("number", move |batch: &[&u64]| Ok(batch.iter().map(|x| **x + n).collect())).version(version)
}

fn watched<H: ModelHandler>(deployment: &Deployment<H>, folder: &Folder, load: impl Fn(&Path) -> LoadModel<H> + Send + 'static) -> (Watch, Receiver<String>) {
    let (sender, told) = channel();
    let pattern = folder.0.join("*.model").display().to_string();
    let watch = watch_model(deployment, &pattern, Duration::from_millis(10), load, move |what| {
        let text = match what {
            Watched::Swapped(path) => format!("swapped {}", path.file_name().unwrap().display()),
            Watched::Refused(_, error) => format!("refused: {error}"),
            _ => String::new(),
        };
        let _ = sender.send(text);
    });
    (watch.unwrap(), told)
}

#[test]
fn a_newer_file_and_a_reused_name_are_taken_and_a_broken_one_is_refused_once() {
    let folder = Folder::new("newer");
    folder.write("a.model", "1");
    let deployment = Deployment::new(load(&folder.0.join("a.model"))).unwrap();
    let (watch, told) = watched(&deployment, &folder, load);
    let next = || told.recv_timeout(Duration::from_secs(10)).expect("it is noticed");
    let version = || deployment.current().unwrap().id.version;
    assert!(told.recv_timeout(Duration::from_millis(100)).is_err(), "nothing is new yet");
    folder.write("b.model", "2");
    assert_eq!((next().as_str(), version().as_str()), ("swapped b.model", "2"));
    thread::sleep(Duration::from_millis(20));
    // The same name, of the same length.
    folder.write("b.model", "3");
    assert_eq!((next().as_str(), version().as_str()), ("swapped b.model", "3"));
    thread::sleep(Duration::from_millis(20));
    folder.write("c.model", "three");
    assert!(next().starts_with("refused: the new model cannot be loaded"));
    assert!(told.recv_timeout(Duration::from_millis(200)).is_err(), "it is tried again and again");
    assert_eq!(version(), "3");
    thread::sleep(Duration::from_millis(20));
    folder.write("c.model", "4");
    assert_eq!((next().as_str(), version().as_str()), ("swapped c.model", "4"));
    drop(watch);
    thread::sleep(Duration::from_millis(20));
    folder.write("d.model", "5");
    assert!(told.recv_timeout(Duration::from_millis(100)).is_err(), "it is over");
}

#[test]
fn a_pattern_that_is_none_is_refused() {
    let deployment = Deployment::new(LoadModel::new(|| Ok(named("1".to_owned(), 1)))).unwrap();
    let refused = watch_model(&deployment, "a[", Duration::from_secs(1), |_| LoadModel::new(|| Err(StageError::permanent("never"))), |_| {});
    assert!(refused.is_err());
}

/// What is there when the watch begins goes on trial; without records nothing decides, and the end of the watch calls it off.
#[test]
fn a_candidate_goes_on_trial_from_the_start() {
    let folder = Folder::new("trial");
    folder.write("a.model", "2");
    let deployment = Deployment::new(LoadModel::new(|| Ok(named("1".to_owned(), 1)))).unwrap();
    let (pattern, (sender, told)) = (folder.0.join("*.model").display().to_string(), channel());
    let load = |_: &Path| LoadModel::new(|| Ok(named("2".to_owned(), 2)));
    let mut rules = Canary::default();
    let tell = move |what: Watched<'_>| {
        let Watched::Tried(_, verdict) = what else { panic!("{what:?}") };
        let _ = sender.send(verdict.clone());
    };
    rules.within = Duration::from_millis(50);
    let options = WatchOptions::new(Duration::from_millis(10)).trial(rules).present();
    let watch = watch_model(&deployment, &pattern, options, load, tell.clone()).unwrap();
    let verdict = told.recv_timeout(Duration::from_secs(10)).expect("the trial ends in time");
    assert!(!verdict.promoted && verdict.why.contains("0 of 100 batches in 50ms"), "{verdict:?}");
    drop(watch);
    rules.within = Duration::from_secs(600);
    let options = WatchOptions::new(Duration::from_millis(10)).trial(rules).present();
    let watch = watch_model(&deployment, &pattern, options, load, tell).unwrap();
    thread::sleep(Duration::from_millis(100));
    drop(watch);
    let verdict = told.recv_timeout(Duration::from_secs(10)).expect("the trial is over");
    assert!(!verdict.promoted && verdict.why.contains("called off"), "{verdict:?}");
    assert_eq!(deployment.current().unwrap().id.version, "1");
}
