//! Standard error where it is a terminal: bars that stay below, and messages that scroll above them.

use std::io::{self, IsTerminal, Write};
use std::sync::LazyLock;

use indicatif::{MultiProgress, ProgressDrawTarget};

static BARS: LazyLock<MultiProgress> =
    LazyLock::new(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));

/// The bars of this process.
pub fn bars() -> &'static MultiProgress {
    &BARS
}

/// Whether bars can be drawn: a terminal, and one that can move its cursor.
pub fn can_draw() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
}

/// Columns of the terminal.
pub fn columns() -> usize {
    console::Term::stderr().size().1.into()
}

/// Standard error for the log; the bars step aside for each message.
pub struct Messages;

impl Write for Messages {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.write_all(text).map(|()| text.len())
    }

    fn write_all(&mut self, text: &[u8]) -> io::Result<()> {
        BARS.suspend(|| io::stderr().write_all(text))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
