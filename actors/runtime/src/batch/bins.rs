//! Sorts what waits into batches that could be run.
//!
//! ```text
//! for each item in the order of service
//!   offer it to the bins of its bucket, the oldest first; the first that takes it has it
//!   none takes it: it opens a bin
//!   an earlier item of its key lies in a bin: only that bin is offered it; if it does not go in there, the key waits
//!   (where a batch holds one item of a key at most, the key waits as soon as one lies in a bin)
//! ```
//!
//! First fit by length keeps padding within its limit in every bin by construction. A bin holds, of each key, the first
//! items that wait, so any bin can be released without breaking the order of a key.

use std::collections::HashMap;

use super::{BatchOptions, Pending, ReleaseReason, queue::Queue};
use crate::envelope::Key;

/// A batch that could be run.
#[derive(Default)]
pub(super) struct Bin {
    bucket: u64,
    /// Where its items wait.
    pub(super) places: Vec<usize>,
    bytes: u64,
    /// The sum of the lengths.
    length: u64,
    longest: u64,
    /// Nothing more goes in.
    pub(super) full: Option<ReleaseReason>,
}

/// What limits a bin at the moment.
pub(super) struct Room<'o> {
    pub(super) options: &'o BatchOptions,
    pub(super) most: usize,
}

impl Bin {
    fn new(bucket: u64) -> Self {
        Bin { bucket, ..Bin::default() }
    }

    /// Takes the item if it fits. An empty bin takes any.
    fn offer<P>(&mut self, place: usize, pending: &Pending<P>, room: &Room<'_>) -> bool {
        if self.full.is_some() {
            return false;
        }
        let options = room.options;
        let bytes = self.bytes.saturating_add(pending.bytes);
        let length = self.length.saturating_add(pending.length);
        let longest = self.longest.max(pending.length);
        let items = self.places.len() as u64 + 1;
        if items > 1 {
            if bytes > options.max_bytes {
                self.full = Some(ReleaseReason::Bytes);
                return false;
            }
            let room_for_tokens = items.saturating_mul(options.padded(longest)) <= options.max_tokens;
            let little_padding = items.saturating_mul(longest) as f64 <= length as f64 * (1.0 + options.max_padding);
            if !room_for_tokens || !little_padding {
                return false;
            }
        }
        (self.bytes, self.length, self.longest) = (bytes, length, longest);
        self.places.push(place);
        self.full = if self.places.len() >= room.most {
            Some(ReleaseReason::Full)
        } else if (items + 1).saturating_mul(options.padded(longest)) > options.max_tokens {
            Some(ReleaseReason::Tokens)
        } else {
            None
        };
        true
    }
}

/// The bins of all that waits; the first holds the first item. Ends with the first bin that is full, unless the first one
/// has to be complete.
pub(super) fn fill<P>(queue: &Queue<P>, room: &Room<'_>, complete_first: bool) -> Vec<Bin> {
    let mut bins: Vec<Bin> = Vec::new();
    let one_per_key = room.options.one_per_key;
    let even = queue.is_even() && !one_per_key;
    // The bin of each key's earlier items; `None` once one of them went nowhere.
    let mut keys: HashMap<Key, Option<usize>> = HashMap::new();
    for (place, pending) in queue.iter().enumerate() {
        let key = pending.key.filter(|_| !even);
        let bound = key.and_then(|key| keys.get(&key).copied());
        let taken = match bound {
            Some(bin) => bin.filter(|bin| bins[*bin].bucket == pending.bucket && bins[*bin].offer(place, pending, room)),
            None => {
                let open = (0..bins.len()).find(|bin| bins[*bin].bucket == pending.bucket && bins[*bin].offer(place, pending, room));
                Some(open.unwrap_or_else(|| {
                    let mut bin = Bin::new(pending.bucket);
                    bin.offer(place, pending, room);
                    bins.push(bin);
                    bins.len() - 1
                }))
            }
        };
        if let Some(key) = key {
            keys.insert(key, taken.filter(|_| !one_per_key));
        }
        let watched = if complete_first { bins.get(..1) } else { Some(bins.as_slice()) };
        if watched.is_some_and(|bins| bins.iter().any(|bin| bin.full.is_some())) {
            break;
        }
    }
    bins
}
