//! The one place that sends to an actor without waiting for an answer.
//!
//! The library's fire-and-forget ignores capacity and is silent to an actor that is gone, so it is banned elsewhere by
//! the lint configuration. Here it carries control messages only: a few per start, crash or shutdown of a worker.

use actix::{Actor, Addr, Context, Handler, Message};

/// An actor's address.
pub(crate) struct Mailbox<A: Actor>(Addr<A>);

impl<A: Actor> Clone for Mailbox<A> {
    fn clone(&self) -> Self {
        Mailbox(self.0.clone())
    }
}

impl<A: Actor<Context = Context<A>>> Mailbox<A> {
    pub(crate) fn new(address: Addr<A>) -> Self {
        Mailbox(address)
    }

    /// Sends a message; the actor may be gone, and then has no more use for it.
    pub(crate) fn tell<M>(&self, message: M)
    where
        A: Handler<M>,
        M: Message<Result = ()> + Send + 'static,
    {
        if self.0.connected() {
            #[expect(clippy::disallowed_methods, reason = "the one wrapper")]
            self.0.do_send(message);
        }
    }
}
