//! Standard error when it is a terminal: bars that stay at the bottom, and messages that scroll above them.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{self, AtomicUsize};
use std::sync::{LazyLock, Mutex, OnceLock};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

static BARS: LazyLock<MultiProgress> =
    LazyLock::new(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));

/// Returns the bars of this process.
pub fn bars() -> &'static MultiProgress {
    &BARS
}

/// Returns whether bars can be drawn: on a terminal that can move its cursor and that no other tool shares.
/// `make -j` starts several tools on one.
pub fn can_draw() -> bool {
    let is_shared = std::env::var("MAKEFLAGS").is_ok_and(|flags| flags.contains("jobserver"));
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|t| t != "dumb") && !is_shared
}

/// Returns whether a person reads standard output, who wants a line and not a manifest.
pub fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Shows a line while work is in progress, if bars can be drawn and progress is not silenced.
pub fn note(text: &str) -> Note {
    let shown = can_draw() && log::log_enabled!(log::Level::Info);
    Note(shown.then(|| {
        let bar = BARS.add(ProgressBar::new_spinner());
        bar.set_message(text.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }))
}

/// The line that [`note`] shows, until it is dropped.
pub struct Note(Option<ProgressBar>);

impl Drop for Note {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// Shows the progress of work that takes more than a second: a bar with the time left or, if none can be
/// drawn, a line every half minute.
pub fn progress(total: usize, what: &str) -> Progress {
    let started = Instant::now();
    Progress {
        what: what.to_owned(),
        total,
        draws: can_draw() && log::log_enabled!(log::Level::Info),
        bar: OnceLock::new(),
        started,
        done: AtomicUsize::new(0),
        said: Mutex::new(started),
    }
}

/// The progress that [`progress`] shows, until it is dropped.
pub struct Progress {
    what: String,
    total: usize,
    draws: bool,
    bar: OnceLock<ProgressBar>,
    started: Instant,
    done: AtomicUsize,
    /// When a line was last logged.
    said: Mutex<Instant>,
}

impl Progress {
    /// Counts one more item as done. May be called from any thread.
    pub fn step(&self) {
        let done = self.done.fetch_add(1, atomic::Ordering::Relaxed) + 1;
        if self.draws {
            if self.started.elapsed() > Duration::from_secs(1) {
                self.bar.get_or_init(|| self.begin()).set_position(done as u64);
            }
            return;
        }
        // If another thread is logging a line, this one does not wait.
        let Ok(mut said) = self.said.try_lock() else { return };
        if said.elapsed() > Duration::from_secs(30) {
            *said = Instant::now();
            let (what, total, seconds) = (&self.what, self.total, self.started.elapsed().as_secs_f64());
            let left = Duration::from_secs_f64(seconds * total.saturating_sub(done) as f64 / done as f64);
            let rate = done as f64 / seconds;
            log::info!("{what}: {done} of {total}, {rate:.0} a second, ETA {}", HumanDuration(left));
        }
    }

    fn begin(&self) -> ProgressBar {
        let bar = BARS.add(ProgressBar::new(self.total as u64));
        let text = "{msg} {wide_bar} {human_pos}/{human_len} ETA {eta}";
        bar.set_style(ProgressStyle::with_template(text).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(self.what.clone());
        bar
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.get() {
            bar.finish_and_clear();
        }
    }
}

/// Returns the number of columns of the terminal.
pub fn columns() -> usize {
    console::Term::stderr().size().1.into()
}

/// Standard error for the log; the bars are suspended for each message.
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
