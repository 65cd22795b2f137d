//! Checkpoints where records meet or wait for their turn: copies that are joined, ensembles, total order.

mod oracle;
mod pieces;

use std::{thread, time::Duration};

use millstream_runtime::{Ensemble, Flow, Join, Lone, Order, Pipeline, StageOptions, ms};
use pieces::{Book, numbers, run_in_pieces};

/// The third part of the numbers has no partner: it is let go of at a checkpoint at the latest, and no sooner than it would be
/// clear that nobody comes.
#[test]
fn copies_that_meet_again_go_on() {
    const COUNT: u64 = 3_000;
    let mut cuts = 0;
    for seed in 0..8 {
        let (pairs, lone, votes) = (Book::new(), Book::new(), Book::new());
        let build = || {
            let [left, right, asked] = Pipeline::from(numbers(0, COUNT, ms(1))).map("number", |(_, number)| number).tee("tee");
            let right = right.map_with("slow", StageOptions::new().replicas(2), |x: u64| x).filter("some", |x| x % 3 != 0);
            let (both, alone) = left.join_or("join", right, Join::by_record(ms(60_000)));
            let ask = Ensemble::new(2, ms(60_000))
                .branch(|flow: Flow<u64>| flow.map("same", |x| x))
                .branch(|flow| flow.filter("odd", |x| x % 2 == 1))
                .branch(|flow| flow.map("next", |x| x + 1));
            let vote = asked.ensemble("vote", ask, |asked| (asked.example, asked.answers.iter().map(|(_, x)| *x).max().unwrap_or(0)));
            let out = |out| match out {
                Lone::Left(x) | Lone::Right(x) => x,
            };
            both.sink(pairs.clone()).and(alone.map("out", out).sink(lone.clone())).and(vote.sink(votes.clone())).edge_records(64)
        };
        cuts += run_in_pieces(seed, 5, build);
        let mut both = pairs.close();
        both.sort_unstable();
        assert_eq!(both, (0..COUNT).filter(|x| x % 3 != 0).map(|x| (x, x)).collect::<Vec<_>>(), "seed {seed}");
        let mut alone = lone.close();
        alone.sort_unstable();
        assert_eq!(alone, (0..COUNT).step_by(3).collect::<Vec<_>>(), "seed {seed}");
        let mut votes = votes.close();
        votes.sort_unstable();
        assert_eq!(votes.iter().map(|(x, _)| *x).collect::<Vec<_>>(), (0..COUNT).collect::<Vec<_>>(), "seed {seed}");
        assert!(votes.iter().all(|(x, most)| most == x || *most == x + 1), "seed {seed}");
    }
    assert!(cuts >= 20, "only {cuts} cuts");
}

/// Whatever its replicas and branches do, each sink has its records in the order of their coming, over all pieces.
#[test]
fn a_total_order_goes_on() {
    const COUNT: u64 = 3_000;
    let mut cuts = 0;
    for seed in 0..8 {
        let (even, odd) = (Book::new(), Book::new());
        let build = || {
            let slow = |x: u64| {
                if x.is_multiple_of(50) {
                    thread::sleep(Duration::from_micros(500));
                }
                x
            };
            let work = StageOptions::new().replicas(3);
            let [left, right] =
                Pipeline::from(numbers(0, COUNT, ms(1))).map("number", |(_, number)| number).map_with("work", work, slow).split("parity", |x| (x % 2) as usize);
            let right = right.filter("some", |x| x % 5 != 0).flat_map("twice", |x| [x, x]);
            left.sink(even.clone()).and(right.sink(odd.clone())).order(Order::Total { window: 512 }).edge_records(64)
        };
        cuts += run_in_pieces(seed, 5, build);
        assert_eq!(even.close(), (0..COUNT).step_by(2).collect::<Vec<_>>(), "seed {seed}");
        assert_eq!(odd.close(), (1..COUNT).step_by(2).filter(|x| x % 5 != 0).flat_map(|x| [x, x]).collect::<Vec<_>>(), "seed {seed}");
    }
    assert!(cuts >= 20, "only {cuts} cuts");
}
