//! Flows through stages whose user code is a future.

use std::{future::Future, pin::Pin, sync::Arc};

use super::{assembly::StageInfo, flow::Flow};
use crate::{
    error::StageError,
    stage::{AsyncOptions, AsyncStage, Call},
};

impl<T: Send + 'static> Flow<T> {
    /// Turns each record into another, or fails on it, by a future: for code that waits for sockets and timers. Up to
    /// `concurrency` futures run at once, and results leave in the order of their keys.
    ///
    /// Futures run on a thread of their replica's own, in a single-threaded tokio runtime with all the drivers that the program
    /// has compiled: they may use tokio's timers and sockets, whether or not the program has a runtime of its own, and need not
    /// be `Send`. What blocks belongs into [`Flow::try_map`].
    ///
    /// A record's deadline and token drop its future. A future that panics costs its record; when those beside it have ended, a
    /// fresh clone of the closure goes on, as after any crash.
    ///
    /// ```
    /// use millstream_runtime::{Pipeline, StageError, collect, from_iter};
    ///
    /// async fn price(article: u32) -> Result<(u32, u32), StageError> {
    ///     // ... a request to somebody who knows
    ///     Ok((article, article * 100))
    /// }
    ///
    /// let (sink, prices) = collect();
    /// Pipeline::from(from_iter(1..=3)).map_async("price", 16, price).sink(sink).run()?;
    /// let mut prices = prices.take();
    /// prices.sort();
    /// assert_eq!(prices, [(1, 100), (2, 200), (3, 300)]);
    /// # Ok::<(), millstream_runtime::PipelineError>(())
    /// ```
    #[must_use]
    pub fn map_async<U, E, F, Fut>(self, name: &str, concurrency: usize, f: F) -> Flow<U>
    where
        U: Send + 'static,
        E: Into<StageError> + 'static,
        F: Fn(T) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<U, E>> + 'static,
    {
        self.map_async_with(name, AsyncOptions::new(concurrency), f)
    }

    /// As [`Flow::map_async`], with options.
    #[must_use]
    pub fn map_async_with<U, E, F, Fut>(self, name: &str, options: AsyncOptions<T, U>, f: F) -> Flow<U>
    where
        U: Send + 'static,
        E: Into<StageError> + 'static,
        F: Fn(T) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<U, E>> + 'static,
    {
        let mut info = StageInfo::new(name, self.keyed).with(&options.stage);
        info.own_lanes = true;
        let factory = Arc::new(move || -> Call<T, U> {
            let f = f.clone();
            Box::new(move |record| -> Pin<Box<dyn Future<Output = Result<U, StageError>>>> {
                let future = f(record);
                Box::pin(async move { future.await.map_err(Into::into) })
            })
        });
        self.then(info, move |assembly, index, inlet, way| Box::new(AsyncStage::new(assembly.shared(index), options, factory, inlet, way)))
    }
}
