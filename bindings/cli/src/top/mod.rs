//! A pipeline's live figures: read from its page of metrics, made into rates, drawn as a table.
//!
//! The page is the one source, of this process or of another, so that whatever `top` shows a scraper can have too.

mod draw;
mod figures;
mod live;
mod page;
mod screen;

pub(crate) use draw::draw;
pub(crate) use figures::{Figures, Reading};
pub(crate) use live::Live;
pub(crate) use page::Page;
pub(crate) use screen::Screen;
