//! Standard error where it is a terminal: bars that stay below, and messages that scroll above them.

use std::io::{self, IsTerminal, Write};
use std::sync::LazyLock;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget};

static BARS: LazyLock<MultiProgress> =
    LazyLock::new(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));

/// The bars of this process.
pub fn bars() -> &'static MultiProgress {
    &BARS
}

/// Whether bars can be drawn: a terminal that can move its cursor, and that is ours alone. `make -j` starts
/// several tools on one.
pub fn can_draw() -> bool {
    let is_shared = std::env::var("MAKEFLAGS").is_ok_and(|flags| flags.contains("jobserver"));
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|t| t != "dumb") && !is_shared
}

/// Whether a person reads standard output, who wants a line and not a manifest.
pub fn for_people() -> bool {
    io::stdout().is_terminal()
}

/// Shows a line while something lasts, where bars can be drawn and progress is not silenced.
pub fn note(text: &str) -> Note {
    let shown = can_draw() && log::log_enabled!(log::Level::Info);
    Note(shown.then(|| {
        let bar = BARS.add(ProgressBar::new_spinner());
        bar.set_message(text.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }))
}

/// The line of [`note`], which goes with it.
pub struct Note(Option<ProgressBar>);

impl Drop for Note {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
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
