//! How results look on a terminal.

use comfy_table::{Cell, CellAlignment, Table, presets::NOTHING};
use indicatif::{ProgressBar, ProgressStyle};

/// A table of columns; all but the first are aligned to the right where `numbers` says so.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>, numbers: bool) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(header.iter().copied());
    for row in rows {
        let cells = row.into_iter().enumerate().map(|(i, text)| {
            let alignment = if numbers && i > 0 { CellAlignment::Right } else { CellAlignment::Left };
            Cell::new(text).set_alignment(alignment)
        });
        table.add_row(cells);
    }
    table
}

/// A progress bar on standard error, which hides itself where that is no terminal.
pub(crate) fn progress(len: u64, what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} [{bar:40}] {pos}/{len} {per_sec} {eta}").unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(len).with_style(style).with_message(String::from(what))
}

/// Bytes as people write them.
pub(crate) fn bytes(n: usize) -> String {
    indicatif::HumanBytes(n as u64).to_string()
}
