//! What the worker tells the tracer.

use super::{Transform, Worker};

impl<T, U, S> Worker<'_, T, U, S>
where
    T: Send,
    U: Send,
    S: Transform<T, U>,
{
    /// Says how the stage's work on the record in hand has ended, if that is sampled.
    pub(super) fn close_span(&mut self) {
        if let (Some(span), Some(spans)) = (self.span.take(), &self.parts.shared.spans) {
            spans.close(span, self.replica);
        }
    }
}
