//! What a person sees while runs train: on a terminal one line per run, which is done, running or waiting;
//! otherwise one line per epoch; with `-q` nothing.
//!
//! There are no colours, so `NO_COLOR` has nothing to turn off; `TERM=dumb` counts as no terminal.

use std::time::{Duration, Instant};

use indicatif::{FormattedDuration, ProgressBar, ProgressStyle};

use crate::cli::terminal;
use crate::manifest::Object;
use crate::train::{EpochReport, Event};

/// Maximum number of waiting runs with a line of their own; the others are counted.
const WAITING: usize = 8;

/// The progress of all runs of a call.
pub struct Board {
    /// The name of each run.
    names: Vec<String>,
    /// The number of epochs; `None` for classifiers that are computed directly.
    epochs: Option<u32>,
    /// `None` if nothing can be drawn.
    lines: Option<Lines>,
}

struct Lines {
    /// Lines of the waiting runs before `next`.
    waiting: Vec<ProgressBar>,
    /// The first run that has not had a line yet.
    next: usize,
    /// Counts the runs from `next` on.
    more: ProgressBar,
}

impl Board {
    /// Creates a board of runs. Nothing is shown before one of them works.
    pub fn new(names: Vec<String>, epochs: Option<u32>, quiet: bool) -> Board {
        let lines = (terminal::can_draw() && !quiet).then(|| Lines {
            waiting: Vec::new(),
            next: 0,
            more: terminal::bars().add(line()),
        });
        Board { names, epochs, lines }
    }

    /// Starts the display of a run; the runs before it no longer wait.
    pub fn start(&mut self, run: usize) -> Progress {
        let name = self.names[run].clone();
        let bar = self.lines.as_mut().map(|lines| lines.start(run, &self.names));
        Progress::new(name, self.epochs, bar)
    }
}

impl Lines {
    fn start(&mut self, run: usize, names: &[String]) -> ProgressBar {
        // Runs in between were answered from the cache, so their lines are removed.
        let mut own = None;
        while self.next < names.len().min(run + 1 + WAITING) {
            let bar = terminal::bars().insert_before(&self.more, line());
            bar.set_message(format!("{} waiting", shorter(&names[self.next], terminal::columns())));
            self.waiting.push(bar);
            self.next += 1;
        }
        let first = self.next - self.waiting.len();
        // Runs side by side may start out of order, or more than once.
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
        own.unwrap_or_else(line)
    }
}

impl Drop for Board {
    /// Clears the lines. If a run ends in an error, its message must start on a clean line.
    fn drop(&mut self) {
        if let Some(lines) = &self.lines {
            lines.waiting.iter().for_each(remove);
            remove(&lines.more);
        }
    }
}

/// Creates a line of text; text that does not fit is cut off.
fn line() -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style)
}

fn remove(bar: &ProgressBar) {
    bar.finish_and_clear();
    terminal::bars().remove(bar);
}

/// The progress of one run.
pub struct Progress {
    name: String,
    epochs: Option<u32>,
    bar: Option<ProgressBar>,
    clock: Clock,
    /// The results of the last epoch, for the bar.
    last: [String; 3],
    /// Whether a line has been logged since the run began, if there is no bar.
    said: bool,
}

/// Estimates the time left from what this process has done; the earlier epochs of a resumed run do not count.
struct Clock {
    started: Instant,
    /// Number of epochs of earlier calls.
    before: u32,
    /// Number of epochs done in all, and of steps done in the current one.
    done: (u32, usize),
    /// Number of steps per epoch.
    steps: usize,
}

impl Clock {
    fn new() -> Clock {
        Clock { started: Instant::now(), before: 0, done: (0, 0), steps: 1 }
    }

    /// Returns the number of seconds left after `spent` seconds, or `None` before the first step.
    fn left(&self, epochs: u32, spent: f64) -> Option<f64> {
        let (done, step) = self.done;
        let here = f64::from(done - self.before) + step as f64 / self.steps as f64;
        let left = f64::from(epochs - done) - step as f64 / self.steps as f64;
        (here > 0.0).then(|| spent * left.max(0.0) / here)
    }

    fn eta(&self, epochs: u32) -> String {
        match self.left(epochs, self.started.elapsed().as_secs_f64()) {
            Some(left) => format!("ETA {}", time(left)),
            None => "ETA —".into(),
        }
    }
}

/// How long there may be no line before one with an estimate of the time left is logged.
const PATIENCE: Duration = Duration::from_secs(10);

impl Progress {
    fn new(name: String, epochs: Option<u32>, bar: Option<ProgressBar>) -> Progress {
        Progress { name, epochs, bar, clock: Clock::new(), last: Default::default(), said: false }
    }

    /// Shows an event.
    pub fn on(&mut self, event: Event) {
        match event {
            Event::Begin { done, steps } => {
                self.clock = Clock { before: done, done: (done, 0), steps, ..Clock::new() };
                if let (1.., Some(epochs), None) = (done, self.epochs, &self.bar) {
                    log::info!("{}: continuing after epoch {done} of {epochs}", self.name);
                }
                self.draw();
            }
            Event::Step { step } => {
                self.clock.done.1 = step;
                self.draw();
                if self.bar.is_none() && !self.said && self.clock.started.elapsed() > PATIENCE {
                    self.said = true;
                    log::info!("{}: {} {}", self.name, self.position().join(" "), self.eta());
                }
            }
            Event::Epoch(e) => {
                self.clock.done = (e.epoch, 0);
                self.said = true;
                self.last = on_a_bar(e, self.epochs.is_some());
                self.draw();
                // Lines go through the log, which `-q` silences.
                if self.bar.is_none() {
                    match self.epochs {
                        Some(_) => log::info!("{}: {} {}", self.name, in_a_line(e), self.eta()),
                        None => log::info!("{}: {}", self.name, accuracy(e)),
                    }
                }
            }
        }
    }

    fn eta(&self) -> String {
        self.clock.eta(self.epochs.unwrap_or(1))
    }

    /// Returns `epoch 3/300`, and `step 12/97` while that epoch is computed; nothing without epochs.
    fn position(&self) -> [String; 2] {
        let Some(epochs) = self.epochs else { return Default::default() };
        let Clock { done: (done, step), steps, .. } = self.clock;
        let step = if done < epochs { format!("step {step}/{steps}") } else { String::new() };
        [format!("epoch {}/{epochs}", (done + 1).min(epochs)), step]
    }

    fn draw(&self) {
        let Some(bar) = &self.bar else { return };
        let [epoch, step] = self.position();
        let [test, loss, speed] = self.last.clone();
        let fields = [(0, epoch), (3, step), (1, self.eta()), (2, test), (4, loss), (5, speed)];
        let columns = terminal::columns();
        bar.set_message(fitting(&shorter(&self.name, columns), fields, columns));
    }

    /// Ends the display of the run, with its metrics. On a terminal its line stays, above those of the
    /// others.
    pub fn done(self, metrics: &Object) {
        // If a person reads standard output, the line there says the same.
        if self.bar.is_some() && !terminal::stdout_is_terminal() {
            let number =
                |name: &str| metrics.get(name).and_then(serde_json::Value::as_f64).unwrap_or(f64::NAN);
            let mut text = format!("{} done: test {:.2} %", self.name, number("last_top1"));
            if self.epochs.is_some() {
                text += &format!(", best {:.2} % in epoch {}", number("best_top1"), number("best_epoch"));
            }
            // A closed stderr is not an error.
            let _ = terminal::bars().println(text);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.iter().for_each(remove);
    }
}

/// Columns that are kept for what follows the name: `epoch 290/300 ETA 01:06:40 test 70.00 %`.
const BESIDE: usize = 42;

/// Shortens a run's name in the middle if there is no room for it: the method comes first and the seed last.
fn shorter(name: &str, columns: usize) -> String {
    let room = columns.saturating_sub(BESIDE).max(16);
    let all: Vec<char> = name.chars().collect();
    if all.len() <= room {
        return name.to_owned();
    }
    let end = all.len() - (room - 1) / 2;
    let start = room - 1 - (room - 1) / 2;
    all[..start].iter().chain(['…'].iter()).chain(&all[end..]).collect()
}

/// Joins a name and as many fields as there is room for, chosen by their ranks.
fn fitting<const N: usize>(name: &str, fields: [(usize, String); N], columns: usize) -> String {
    let width = |text: &str| text.chars().count();
    let mut order: Vec<usize> = (0..N).filter(|&n| !fields[n].1.is_empty()).collect();
    order.sort_by_key(|&n| fields[n].0);
    let (mut shown, mut used) = (Vec::new(), width(name));
    for n in order {
        used += 1 + width(&fields[n].1);
        if used >= columns {
            break;
        }
        shown.push(n);
    }
    shown.sort_unstable();
    shown.iter().fold(name.to_owned(), |line, &n| line + " " + &fields[n].1)
}

/// Returns the fields of a bar; only trainings have a loss and a speed.
fn on_a_bar(e: &EpochReport, is_trained: bool) -> [String; 3] {
    let test = format!("test {:.2} %", e.test_top1);
    if !is_trained {
        return [test, String::new(), String::new()];
    }
    [test, format!("loss {:.4}", e.loss), format!("{:.0} images/s", e.images_per_second)]
}

fn in_a_line(e: &EpochReport) -> String {
    format!(
        "epoch {}/{} lr {} loss {:.4} {} {:.0} images/s",
        e.epoch,
        e.epochs,
        e.lr,
        e.loss,
        accuracy(e),
        e.images_per_second,
    )
}

fn accuracy(e: &EpochReport) -> String {
    let val = e.val_top1.map_or(String::new(), |val| format!(" val {val:.2} %"));
    format!("train {:.2} % test {:.2} %{val}", e.train_top1, e.test_top1)
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
    fn lines_of_the_log() {
        assert_eq!(
            in_a_line(&EpochReport { val_top1: Some(65.5), ..REPORT }),
            "epoch 290/300 lr 0.001 loss 0.1235 train 98.76 % test 70.00 % val 65.50 % 612 images/s"
        );
        assert_eq!(accuracy(&REPORT), "train 98.76 % test 70.00 %");
        assert_eq!(on_a_bar(&REPORT, false), ["test 70.00 %", "", ""], "a computed classifier");
        assert_eq!(time(4000.0).to_string(), "01:06:40");
        assert_eq!(time(f64::NAN).to_string(), "00:00:00", "a broken clock is no panic");
    }

    #[test]
    fn what_is_left_follows_from_what_this_process_did() {
        let clock = |before, done, step| Clock { before, done: (done, step), steps: 100, ..Clock::new() };
        assert_eq!(clock(0, 0, 0).left(300, 1.0), None, "before the first step");
        assert_eq!(clock(0, 0, 50).left(2, 10.0), Some(30.0));
        assert_eq!(clock(0, 1, 0).left(2, 10.0), Some(10.0));
        assert_eq!(
            clock(3, 3, 50).left(4, 10.0),
            Some(10.0),
            "epochs of an earlier call took none of this time"
        );
        assert_eq!(clock(0, 2, 0).left(2, 10.0), Some(0.0));
    }

    #[test]
    fn names_fit_and_keep_both_ends() {
        let name = "remix-drw resnet110 seed 100";
        assert_eq!(shorter(name, 80), name);
        assert_eq!(shorter(name, 60), "remix-drw…seed 100");
        assert_eq!(shorter(name, 20), "remix-dr…eed 100");
        let fields = |columns| {
            let texts = [
                "epoch 290/300",
                "step 390/391",
                "ETA 01:06:40",
                "test 70.00 %",
                "loss 0.1235",
                "612 images/s",
            ];
            let ranks = [0, 3, 1, 2, 4, 5];
            fitting::<6>(name, std::array::from_fn(|n| (ranks[n], texts[n].to_owned())), columns)
        };
        assert_eq!(fields(80), format!("{name} epoch 290/300 ETA 01:06:40 test 70.00 %"));
        assert_eq!(
            fields(95),
            format!("{name} epoch 290/300 step 390/391 ETA 01:06:40 test 70.00 % loss 0.1235")
        );
        assert!(fields(200).ends_with("test 70.00 % loss 0.1235 612 images/s"));
    }
}
