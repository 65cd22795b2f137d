//! Bounded edges between pipeline stages: queues with credits in records and bytes.
//!
//! An [`Edge`] joins the replicas of one stage to the replicas of the next. It carries [`Chunk`]s of 1 to
//! [`MAX_CHUNK`] items and, in the same order, [`Control`] items. It is bounded by a [`Ledger`] of credits: a
//! sender needs both a credit in records and a credit in bytes for everything that a chunk holds, and waits for them
//! in the order of asking.
//!
//! Invariants, each held by a test (`tests/loom.rs` checks the first three in every interleaving):
//!
//! 1. Credits in use never exceed the limits, and what was taken is given back exactly, however the items end.
//! 2. A sender that waits is woken by the release that makes room for it: nothing polls, nothing is lost.
//! 3. A closed edge wakes everyone who waits on it.
//! 4. An item larger than the edge's whole byte limit passes, alone.
//! 5. A consumer is told the least of its producers' watermarks, behind everything that came before them.
//! 6. Who waits for records to be done misses none ([`AckRing`]).
//! 7. The queue belongs to the edge: a consumer that dies leaves everything that it had not taken.
//! 8. A barrier comes when every open producer has sent it, behind all that they sent before and before all that they send
//!    behind it.
//! 9. Consumers that share shards come and go: a shard has one owner, changes hands only when that owner has nothing in hand,
//!    and takes what waits in it along.
//!
//! Beside them stand [`Lockers`], the runtime's other piece of shared state that loom checks: copies that are exchanged
//! between two uses.
//!
//! ```
//! use millstream_edge::{Cost, Edge, EdgeOptions, Limits, Received};
//!
//! let edge = Edge::new(EdgeOptions::new(Limits { records: 64, bytes: 1 << 20 }));
//! let sender = edge.sender();
//! sender.send(0, vec!["a", "b"], Cost { records: 2, bytes: 2 }).unwrap();
//! sender.finish();
//!
//! let receiver = edge.receiver(0);
//! let Received::Chunk(chunk) = receiver.recv(None) else { panic!("a chunk was sent") };
//! assert_eq!(edge.outstanding().records, 2);
//! let (items, credit) = chunk.into_parts();
//! drop(credit); // the items go into execution: the sender may send again
//! assert_eq!((items, edge.outstanding().records), (vec!["a", "b"], 0));
//! ```
#![forbid(unsafe_code)]

mod acks;
mod alignment;
mod channel;
mod edge;
mod frontier;
mod ledger;
mod lockers;
mod options;
mod shards;
mod sync;

pub use acks::AckRing;
pub use channel::Queue;
pub use edge::{Chunk, Control, Edge, MAX_CHUNK, Received, Receiver, SendError, Sender};
pub use ledger::{Closed, Cost, Credit, Ledger, Limits};
pub use lockers::{Locker, Lockers};
pub use options::EdgeOptions;
pub use shards::Standing;
