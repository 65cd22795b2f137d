//! Flows in event time.

use std::sync::{Arc, Mutex};

use super::flow::Flow;
use crate::{
    error::StageError,
    stage::{Out, StageOptions},
    time::{Aggregate, AssignFn, Watermarks, WindowFn, WindowState, Windowed, Windows},
};

impl<T: Send + 'static> Flow<T> {
    /// Gives each record its event time, in microseconds since 1970, and says how far event time has come.
    #[must_use]
    pub fn event_time(self, name: &str, watermarks: Watermarks, mut time: impl FnMut(&T) -> i64 + Clone + Send + Sync + 'static) -> Flow<T> {
        self.try_event_time(name, watermarks, move |record: &T| Ok::<_, StageError>(time(record)))
    }

    /// As [`Flow::event_time`], where a record may have no time: it then goes to the dead letters.
    #[must_use]
    pub fn try_event_time<E: Into<StageError> + 'static>(
        self,
        name: &str,
        watermarks: Watermarks,
        time: impl FnMut(&T) -> Result<i64, E> + Clone + Send + Sync + 'static,
    ) -> Flow<T> {
        let mut options = StageOptions::new();
        options.idle_after = watermarks.idle_after;
        self.timed(name, options, move |_| Ok(AssignFn::new(time.clone(), watermarks)))
    }

    /// Gathers the records of each key (all of them, without keys) into windows. The first flow has the windows' results;
    /// the second the records that came when their windows had been given out.
    ///
    /// A record has ended when it is in its windows, and a window's result is a record of its own: with an outcome of its
    /// own, and without a part in a total order. Replicas share the keys.
    ///
    /// ```
    /// use millstream_runtime::{Pipeline, Watermarks, Windows, collect, fold, for_each, from_iter, ms};
    ///
    /// let (sink, counts) = collect();
    /// let sum = fold(|| 0, |sum, x: &i64| *sum += x, |sum, other| *sum += other);
    /// let (windows, late) = Pipeline::from(from_iter(0..10i64))
    ///     .event_time("time", Watermarks::bounded(ms(2)), |x| x * 1_000)
    ///     .window("five", Windows::Tumbling(ms(5)), sum);
    /// windows.map("sum", |window| (window.start, window.value)).sink(sink).and(late.sink(for_each(|_| {}))).run()?;
    /// assert_eq!(counts.take(), [(0, 0 + 1 + 2 + 3 + 4), (5_000, 5 + 6 + 7 + 8 + 9)]);
    /// # Ok::<(), millstream_runtime::PipelineError>(())
    /// ```
    #[must_use]
    pub fn window<A: Aggregate<T>>(self, name: &str, windows: Windows, aggregate: A) -> (Flow<Windowed<A::Output>>, Flow<T>) {
        self.window_with(name, windows, aggregate, StageOptions::new())
    }

    /// As [`Flow::window`], with options.
    #[must_use]
    pub fn window_with<A: Aggregate<T>>(
        self,
        name: &str,
        windows: Windows,
        aggregate: A,
        mut options: StageOptions<T, Out<Windowed<A::Output>, T>>,
    ) -> (Flow<Windowed<A::Output>>, Flow<T>) {
        // Without keys there is nothing to share out.
        options.replicas = if self.keyed { options.replicas } else { 1 };
        let states: Vec<Arc<Mutex<WindowState<A::State>>>> = (0..options.replicas).map(|_| Arc::default()).collect();
        let aggregate = Arc::new(aggregate);
        let unstored = aggregate.encode(&aggregate.start()).is_none().then_some("holds windows of an aggregate that is not `stored`");
        self.fork_bearing(name, windows.problem(), unstored, options, move |start| {
            Ok(WindowFn { windows, aggregate: aggregate.clone(), state: states[start.replica].clone() })
        })
    }
}
