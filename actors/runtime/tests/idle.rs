//! A pipeline that waits uses no CPU, and one that has ended leaves no thread. Alone in its process, to be measurable.
#![cfg(target_os = "linux")]

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use millstream_runtime::{Pipeline, Record, RunInference, StageError, StageOptions, channel, for_each, handler, ms};

/// Ticks of CPU that the process has used, in user and system mode.
fn ticks() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
fn waiting_is_free_and_the_end_is_clean() {
    let before = threads();
    let (push, source) = channel(16);
    let model = handler("m", |batch: &[&u32]| Ok(vec![0u8; batch.len()]));
    let handle = Pipeline::from(source)
        .map_with("a", StageOptions::new().replicas(1..=4), |x| x)
        .map_async("io", 4, |x| async move { Ok::<_, StageError>(x) })
        .infer("model", RunInference::new(model).replicas(2..=3))
        .sink(for_each(|_| {}))
        .spawn()
        .unwrap();
    push.send(Record::new(1).deadline(Instant::now() + Duration::from_secs(60))).unwrap();
    thread::sleep(ms(200));
    assert_eq!(handle.snapshot().counts.ok, 1);
    let used = ticks();
    thread::sleep(Duration::from_secs(3));
    // A tick is 10 ms: less than half a percent of three seconds.
    let used = ticks() - used;
    assert!(used <= 1, "{used} ticks while waiting");
    handle.drain().unwrap();
    let end = Instant::now();
    while threads() > before && end.elapsed() < Duration::from_secs(1) {
        thread::sleep(ms(1));
    }
    assert_eq!(threads(), before);
}
