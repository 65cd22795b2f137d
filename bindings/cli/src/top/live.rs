//! The figures of a pipeline of this process, while it runs.

use super::{Figures, Page, Reading, draw, screen::Screen};
use crate::failure::Failure;
use millstream::runtime::Monitor;
use std::time::{Duration, Instant};

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// The first figures come soon.
const FIRST: Duration = Duration::from_millis(200);

/// A view of a running pipeline.
pub(crate) struct Live {
    screen: Screen,
    monitor: Monitor,
    /// What metrics call the pipeline.
    name: String,
    before: Reading,
    due: Instant,
}

impl Live {
    /// Begins to show a pipeline.
    pub(crate) fn new(monitor: Monitor, name: &str) -> Result<Self, Failure> {
        let before = read(&monitor, name)?;
        let screen = Screen::enter()?.ok_or_else(|| Failure::Usage("standard output is no terminal".into()))?;
        Ok(Live { screen, monitor, name: name.to_owned(), due: before.at + FIRST, before })
    }

    /// Shows new figures, if it is time for them.
    pub(crate) fn refresh(&mut self) -> Result<(), Failure> {
        if Instant::now() < self.due {
            return Ok(());
        }
        let now = read(&self.monitor, &self.name)?;
        self.screen.show(&draw(&Figures::between(&self.before, &now)))?;
        self.due = now.at + INTERVAL;
        self.before = now;
        Ok(())
    }
}

fn read(monitor: &Monitor, name: &str) -> Result<Reading, Failure> {
    let page = Page::read(&monitor.snapshot().prometheus(name)).map_err(|error| Failure::Usage(error.to_string()))?;
    Ok(Reading { page, at: Instant::now() })
}
