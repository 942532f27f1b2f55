//! Where results, notes and progress go.
//!
//! Results to standard output, as text or JSON; all else to standard error, and nothing but errors
//! when quiet. Progress only on a terminal.

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use serde_json::Value;

use crate::figures;

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Text,
    /// For programs: one JSON value
    Json,
}

/// Where a command says what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) format: Format,
    pub(crate) is_quiet: bool,
}

impl Output {
    /// Writes a result to standard output: `text` or `json`, whichever is wanted. No text, no line.
    pub(crate) fn result(
        self,
        text: impl FnOnce() -> String,
        json: impl FnOnce() -> Value,
    ) -> io::Result<()> {
        let text = match self.format {
            Format::Text => text(),
            Format::Json => json().to_string(),
        };
        let mut stdout = io::stdout().lock();
        if !text.is_empty() {
            writeln!(stdout, "{}", text.trim_end_matches('\n'))?;
        }
        stdout.flush()
    }

    /// Says something on standard error, unless quiet.
    pub(crate) fn note(self, text: impl fmt::Display) {
        if !self.is_quiet {
            say(text);
        }
    }

    /// A progress bar over `total_bytes`, or a spinner if that is not known. Hidden where nobody
    /// looks.
    pub(crate) fn progress(self, total_bytes: Option<u64>) -> ProgressBar {
        if self.is_quiet || !io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let (bar, template) = match total_bytes {
            Some(total) => (
                ProgressBar::new(total),
                "{bar:30} {percent:>3} %  {decimal_bytes}/{decimal_total_bytes}  \
                 {decimal_bytes_per_sec}  {msg}",
            ),
            None => (
                ProgressBar::new_spinner(),
                "{spinner} {decimal_bytes}  {decimal_bytes_per_sec}  {msg}",
            ),
        };
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style);
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }

    /// A spinner that counts, with what goes on in front. Hidden where nobody looks.
    pub(crate) fn counter(self) -> ProgressBar {
        if self.is_quiet || !io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new_spinner();
        let template = "{spinner} {msg}: {human_pos} records, {rate} a second, {elapsed}";
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let rate = |state: &ProgressState, text: &mut dyn fmt::Write| {
            // What cannot be shown is shown again soon.
            let _ = text.write_str(&figures::rate(state.per_sec()));
        };
        bar.set_style(style.with_key("rate", rate));
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }
}

/// Writes a line to standard error; if nobody reads that any more, there is nobody to tell.
pub(crate) fn say(text: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// A table without lines. `numeric` columns, counted from 0, are aligned to the right.
pub(crate) fn table(header: &[&str], numeric: &[usize], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if numeric.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}
