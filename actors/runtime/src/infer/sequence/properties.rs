//! Random uses of a table, beside a list that does the same the long way.

use std::time::{Duration, Instant};

use proptest::{collection::vec, prelude::*};

use super::{
    WhenFull,
    table::{Change, Full, Limits, Table},
};
use crate::envelope::Key;

/// A sequence in the list: key, state, what it weighs, when it was used. The list is in the order of use.
type Row = (u64, u32, u64, Instant);

#[derive(Clone, Debug)]
enum Use {
    /// Of each key once: the weight of its new state, or its end.
    Commit(Vec<(u64, Option<u64>)>),
    Touch(u64),
    Remove(u64),
    /// But for this key.
    Expire(u64),
    Pass(u64),
}

fn a_use() -> impl Strategy<Value = Use> {
    let change = (0..8u64, prop_oneof![4 => (0..12u64).prop_map(Some), 1 => Just(None), 1 => Just(Some(u64::MAX))]);
    let distinct = |mut changes: Vec<(u64, Option<u64>)>| {
        changes.sort_by_key(|change| change.0);
        changes.dedup_by_key(|change| change.0);
        Use::Commit(changes)
    };
    prop_oneof![
        6 => vec(change, 1..5).prop_map(distinct),
        1 => (0..8u64).prop_map(Use::Touch),
        1 => (0..8u64).prop_map(Use::Remove),
        2 => (0..8u64).prop_map(Use::Expire),
        4 => (0..6u64).prop_map(Use::Pass),
    ]
}

/// The list after these changes, and how many it had to let go.
fn commit(rows: &[Row], changes: &[(u64, Option<u64>)], states: &[u32], now: Instant, limits: &Limits) -> Result<(Vec<Row>, u64), Full> {
    let mut after: Vec<Row> = rows.iter().filter(|row| changes.iter().all(|change| change.0 != row.0)).copied().collect();
    let others = after.len();
    after.extend(changes.iter().zip(states).filter_map(|((key, weight), state)| Some((*key, *state, (*weight)?, now))));
    for evicted in 0..=others {
        let left = &after[evicted..];
        let too_many = left.len() > limits.most;
        if !too_many && left.iter().map(|row| u128::from(row.2)).sum::<u128>() <= u128::from(limits.bytes) {
            return Ok((left.to_vec(), evicted as u64));
        }
        if limits.when_full == WhenFull::Refuse || evicted == others {
            return Err(if too_many { Full::Sequences(limits.most) } else { Full::Bytes(limits.bytes) });
        }
    }
    unreachable!("the loop ends at the last of the others")
}

fn check(table: &Table<u32>, rows: &[Row]) -> Result<(), TestCaseError> {
    let held: Vec<_> = table.iter().map(|(key, state, used)| (key.0, *state, used)).collect();
    prop_assert_eq!(held, rows.iter().map(|row| (row.0, row.1, row.3)).collect::<Vec<_>>());
    prop_assert_eq!(table.len(), rows.len());
    prop_assert_eq!(u128::from(table.bytes()), rows.iter().map(|row| u128::from(row.2)).sum::<u128>().min(u64::MAX.into()));
    for key in 0..8 {
        prop_assert_eq!(table.state(Key(key)).copied(), rows.iter().find(|row| row.0 == key).map(|row| row.1));
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_table_does_what_a_list_would(
        uses in vec(a_use(), 1..60),
        most in 1..8usize,
        bytes in prop_oneof![Just(u64::MAX), 5..60u64],
        timeout in proptest::option::of(1..20u64),
        refuse: bool,
    ) {
        let when_full = if refuse { WhenFull::Refuse } else { WhenFull::Evict };
        let limits = Limits { most, bytes, timeout: timeout.map(Duration::from_secs), when_full };
        let (mut table, mut rows, mut now, mut states) = (Table::new(limits), Vec::<Row>::new(), Instant::now(), 0..);
        for step in uses {
            let stale = |row: &Row| limits.timeout.is_some_and(|timeout| row.3 + timeout <= now);
            match step {
                Use::Commit(changes) => {
                    let new: Vec<u32> = states.by_ref().take(changes.len()).collect();
                    let expected = commit(&rows, &changes, &new, now, &limits);
                    let change = |((key, weight), state): (&(u64, Option<u64>), &u32)| Change { key: Key(*key), state: weight.map(|weight| (*state, weight)) };
                    match (table.commit(changes.iter().zip(&new).map(change).collect(), now), expected) {
                        (Ok(gone), Ok((after, evicted))) => {
                            prop_assert_eq!(gone.evicted, evicted);
                            prop_assert_eq!(gone.states.len(), rows.iter().filter(|row| after.iter().all(|left| left.1 != row.1)).count());
                            rows = after;
                        }
                        (Err(full), Err(expected)) => {
                            prop_assert_eq!(full, expected);
                            // Nothing but its use is remembered.
                            let (mut used, others): (Vec<Row>, Vec<Row>) = rows.iter().partition(|row| changes.iter().any(|change| change.0 == row.0));
                            used.sort_by_key(|row| row.0);
                            used.iter_mut().for_each(|row| row.3 = now);
                            rows = [others, used].concat();
                        }
                        (found, expected) => prop_assert!(false, "{:?} where {expected:?}", found.map(|gone| gone.evicted)),
                    }
                }
                Use::Touch(key) => {
                    table.touch(Key(key), now);
                    if let Some(at) = rows.iter().position(|row| row.0 == key) {
                        let row = rows.remove(at);
                        rows.push((row.0, row.1, row.2, now));
                    }
                }
                Use::Remove(key) => {
                    prop_assert_eq!(table.remove(Key(key)).is_some(), rows.iter().any(|row| row.0 == key));
                    rows.retain(|row| row.0 != key);
                }
                Use::Expire(but) => {
                    rows.iter().try_for_each(|row| { prop_assert_eq!(table.is_stale(Key(row.0), now), stale(row)); Ok(()) })?;
                    let (gone, next) = table.expire(now, |key| key.0 == but);
                    prop_assert_eq!(gone, rows.iter().filter(|row| row.0 != but && stale(row)).map(|row| row.1).collect::<Vec<_>>());
                    rows.retain(|row| row.0 == but || !stale(row));
                    prop_assert_eq!(next, limits.timeout.and_then(|timeout| rows.iter().find(|row| !stale(row)).map(|row| row.3 + timeout)));
                }
                Use::Pass(seconds) => now += Duration::from_secs(seconds),
            }
            check(&table, &rows)?;
        }
    }
}
