//! An actor for each stage on two of tokio's threads, with kameo's bounded mailboxes.

use kameo::{
    Actor,
    actor::{ActorRef, Spawn},
    mailbox::bounded,
    message::{Context, Message},
};
use tokio::sync::oneshot;

use crate::{CAPACITY, RECORDS, map, tasks::runtime};

#[derive(Actor)]
struct Map<Next: Actor> {
    next: ActorRef<Next>,
}

#[derive(Actor)]
struct Sum {
    sum: u64,
    left: u64,
    done: Option<oneshot::Sender<u64>>,
}

impl<Next: Actor + Message<u64>> Message<u64> for Map<Next> {
    type Reply = ();

    async fn handle(&mut self, x: u64, _: &mut Context<Self, ()>) {
        assert!(self.next.tell(map(x)).await.is_ok(), "the next actor takes everything");
    }
}

impl Message<u64> for Sum {
    type Reply = ();

    async fn handle(&mut self, x: u64, _: &mut Context<Self, ()>) {
        self.sum = self.sum.wrapping_add(x);
        self.left -= 1;
        if self.left == 0
            && let Some(done) = self.done.take()
        {
            assert!(done.send(self.sum).is_ok(), "somebody waits");
        }
    }
}

/// The sum of what comes out behind three maps.
pub(crate) fn run() -> u64 {
    runtime().block_on(async {
        let (done, sum) = oneshot::channel();
        let last = Sum::spawn_with_mailbox(Sum { sum: 0, left: RECORDS, done: Some(done) }, bounded(CAPACITY));
        let third = Map::spawn_with_mailbox(Map { next: last }, bounded(CAPACITY));
        let second = Map::spawn_with_mailbox(Map { next: third }, bounded(CAPACITY));
        let first = Map::spawn_with_mailbox(Map { next: second }, bounded(CAPACITY));
        tokio::spawn(async move {
            for x in 0..RECORDS {
                assert!(first.tell(x).await.is_ok(), "the next actor takes everything");
            }
        });
        sum.await.expect("it adds up")
    })
}
