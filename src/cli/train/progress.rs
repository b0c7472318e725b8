//! What a person sees while runs train: on a terminal a line a run, done, running or waiting; elsewhere one line an
//! epoch; with `-q` nothing.
//!
//! No colours, so `NO_COLOR` has nothing to turn off; `TERM=dumb` counts as no terminal.

use std::time::Duration;

use indicatif::{FormattedDuration, ProgressBar, ProgressStyle};

use crate::cli::terminal;
use crate::manifest::Object;
use crate::train::EpochReport;

/// Waiting runs that get a line of their own; the others are counted.
const WAITING: usize = 8;

/// The progress of all runs of a call.
pub struct Board {
    /// What each run is called.
    names: Vec<String>,
    epochs: u32,
    /// None where nothing can be drawn.
    lines: Option<Lines>,
}

struct Lines {
    /// Of the runs up to `next`.
    waiting: Vec<ProgressBar>,
    /// The first run that has had no line yet.
    next: usize,
    /// Counts the runs from `next` on.
    more: ProgressBar,
}

impl Board {
    /// A board of runs; nothing is shown before one of them works.
    pub fn new(names: Vec<String>, epochs: u32, quiet: bool) -> Board {
        let lines = (terminal::can_draw() && !quiet).then(|| Lines {
            waiting: Vec::new(),
            next: 0,
            more: terminal::bars().add(line()),
        });
        Board { names, epochs, lines }
    }

    /// A run begins to work; those before it are done.
    pub fn start(&mut self, run: usize) -> Progress {
        let name = self.names[run].clone();
        let bar = self.lines.as_mut().map(|lines| lines.start(run, &self.names, self.epochs));
        Progress { name, bar, spent: (0, 0.0) }
    }
}

impl Lines {
    fn start(&mut self, run: usize, names: &[String], epochs: u32) -> ProgressBar {
        // Runs between were answered from the cache: their lines go.
        let mut own = None;
        while self.next < names.len().min(run + 1 + WAITING) {
            let bar = terminal::bars().insert_before(&self.more, line());
            bar.set_message(format!("{} waiting", shorter(&names[self.next], terminal::columns())));
            self.waiting.push(bar);
            self.next += 1;
        }
        let first = self.next - self.waiting.len();
        // Runs side by side may start out of order, or again.
        if run < first {
            own = Some(terminal::bars().add(line()));
        }
        for bar in self.waiting.drain(..(run + 1).saturating_sub(first)) {
            if let Some(passed) = own.replace(bar) {
                remove(&passed);
            }
        }
        let behind = names.len() - self.next;
        if behind > 0 {
            self.more.set_message(format!("and {behind} more waiting"));
        } else {
            remove(&self.more);
        }
        let bar = own.unwrap_or_else(line);
        bar.set_length(epochs.into());
        show(&bar, &names[run], "first epoch".into());
        bar
    }
}

impl Drop for Board {
    /// Also where a run ends in an error: its message must start on a clean line.
    fn drop(&mut self) {
        if let Some(lines) = &self.lines {
            lines.waiting.iter().for_each(remove);
            remove(&lines.more);
        }
    }
}

/// A line of text; what does not fit is cut off.
fn line() -> ProgressBar {
    ProgressBar::new(0).with_style(style("{wide_msg}"))
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

fn remove(bar: &ProgressBar) {
    bar.finish_and_clear();
    terminal::bars().remove(bar);
}

/// The progress of one run.
pub struct Progress {
    name: String,
    bar: Option<ProgressBar>,
    /// Epochs and seconds of this process; a resumed run has others behind it.
    spent: (u32, f64),
}

impl Progress {
    /// An epoch has ended.
    pub fn epoch(&mut self, e: &EpochReport) {
        self.spent = (self.spent.0 + 1, self.spent.1 + e.seconds);
        let left = f64::from(e.epochs.saturating_sub(e.epoch)) * self.spent.1 / f64::from(self.spent.0);
        match &self.bar {
            Some(bar) => {
                bar.set_position(e.epoch.into());
                show(bar, &self.name, on_a_bar(e, left));
            }
            // Lines go through the log, which `-q` silences.
            None => log::info!("{}: epoch {}/{} {}", self.name, e.epoch, e.epochs, in_a_line(e, left)),
        }
    }

    /// The run has ended with these metrics. On a terminal its line stays, above those of the others.
    pub fn done(self, metrics: &Object) {
        if self.bar.is_some() {
            let number =
                |name: &str| metrics.get(name).and_then(serde_json::Value::as_f64).unwrap_or(f64::NAN);
            let (last, best, epoch) = (number("last_top1"), number("best_top1"), number("best_epoch"));
            let text = format!("{} done: test {last:.2} %, best {best:.2} % in epoch {epoch}", self.name);
            // Nobody may be listening.
            let _ = terminal::bars().println(text);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.iter().for_each(remove);
    }
}

/// Shows a running run, for the columns there are now.
fn show(bar: &ProgressBar, name: &str, message: String) {
    let columns = terminal::columns();
    bar.set_message(message);
    bar.set_style(style(template(columns)));
    // Last, for a style alone draws nothing.
    bar.set_prefix(shorter(name, columns).to_owned());
}

/// The line of a running run.
fn template(columns: usize) -> &'static str {
    if columns < 120 {
        "{prefix} {pos}/{len} {wide_msg}"
    } else {
        "{prefix} [{bar:20}] {pos}/{len} {wide_msg}"
    }
}

/// A run's name without the method and network where there is no room for them.
fn shorter(name: &str, columns: usize) -> &str {
    match name.find("seed ") {
        Some(at) if columns < 95 => &name[at..],
        _ => name,
    }
}

/// What matters first comes first: a narrow terminal cuts off the end.
fn on_a_bar(e: &EpochReport, left: f64) -> String {
    format!(
        "ETA {} test {:.2} % loss {:.4} {:.0} images/s",
        time(left),
        e.test_top1,
        e.loss,
        e.images_per_second
    )
}

fn in_a_line(e: &EpochReport, left: f64) -> String {
    format!(
        "lr {} loss {:.4} train {:.2} % test {:.2} %{} {:.0} images/s ETA {}",
        e.lr,
        e.loss,
        e.train_top1,
        e.test_top1,
        e.val_top1.map_or(String::new(), |v| format!(" val {v:.2} %")),
        e.images_per_second,
        time(left)
    )
}

fn time(seconds: f64) -> FormattedDuration {
    FormattedDuration(Duration::try_from_secs_f64(seconds.round()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: EpochReport = EpochReport {
        seed: 0,
        epoch: 290,
        epochs: 300,
        lr: 0.001,
        loss: 0.123_456,
        train_top1: 98.76,
        test_top1: 70.0,
        val_top1: None,
        images_per_second: 612.4,
        seconds: 20.0,
        computed_by: String::new(),
    };

    #[test]
    fn an_epoch_in_words() {
        let text = in_a_line(&REPORT, 4000.0);
        assert_eq!(text, "lr 0.001 loss 0.1235 train 98.76 % test 70.00 % 612 images/s ETA 01:06:40");
        assert!(in_a_line(&REPORT, f64::NAN).ends_with("ETA 00:00:00"), "a broken clock is no panic");
    }

    #[test]
    fn the_widest_line_fits_its_columns() {
        let name = "remix-drw resnet110 seed 100";
        for columns in [95, 120] {
            let bar = if columns < 120 { "" } else { "[====================] " };
            let line = format!("{} {bar}290/300 {}", shorter(name, columns), on_a_bar(&REPORT, 4000.0));
            assert!(line.len() < columns, "{} of {columns}: {line}", line.len());
        }
        assert_eq!(shorter(name, 94), "seed 100");
    }
}
