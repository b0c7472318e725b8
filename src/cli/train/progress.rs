//! What a person sees while a run trains: a bar on a terminal, one line an epoch elsewhere, nothing with
//! `-q`.
//!
//! No colours, so `NO_COLOR` has nothing to turn off; `TERM=dumb` counts as no terminal.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{FormattedDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::methods::presets::preset_name;
use crate::train::EpochReport;
use crate::train::config::Config;

/// The progress of one run.
pub struct Progress {
    name: String,
    bar: Option<ProgressBar>,
    /// Epochs and seconds of this process; a resumed run has others behind it.
    spent: (u32, f64),
}

impl Progress {
    /// Starts the bar, if there is one. Lines go through the log, which `-q` silences.
    pub fn new(config: &Config, quiet: bool) -> Progress {
        let name = format!("{} {} seed {}", preset_name(&config.params()), config.arch, config.seed);
        let terminal =
            std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|t| t != "dumb");
        let bar = (terminal && !quiet).then(|| {
            let style = ProgressStyle::with_template("{prefix} [{bar:20}] {pos}/{len} {wide_msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("=> ");
            let bar = ProgressBar::with_draw_target(Some(config.epochs.into()), ProgressDrawTarget::stderr());
            bar.set_style(style);
            bar.set_prefix(name.clone());
            bar.set_message("first epoch");
            bar.tick();
            bar
        });
        Progress { name, bar, spent: (0, 0.0) }
    }

    /// An epoch has ended.
    pub fn epoch(&mut self, e: &EpochReport) {
        self.spent = (self.spent.0 + 1, self.spent.1 + e.seconds);
        let text = describe(e, self.spent.1 / f64::from(self.spent.0));
        match &self.bar {
            Some(bar) => {
                bar.set_position(e.epoch.into());
                bar.set_message(text);
            }
            None => log::info!("{}: epoch {}/{} {text}", self.name, e.epoch, e.epochs),
        }
    }
}

impl Drop for Progress {
    /// Also where the run ends in an error: its message must start on a clean line.
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn describe(e: &EpochReport, seconds_per_epoch: f64) -> String {
    let left = f64::from(e.epochs.saturating_sub(e.epoch)) * seconds_per_epoch;
    format!(
        "lr {} loss {:.4} train {:.2} % test {:.2} % {:.0} images/s ETA {}",
        e.lr,
        e.loss,
        e.train_top1,
        e.test_top1,
        e.images_per_second,
        FormattedDuration(Duration::try_from_secs_f64(left.round()).unwrap_or_default()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_in_words() {
        let report = EpochReport {
            seed: 0,
            epoch: 290,
            epochs: 300,
            lr: 0.001,
            loss: 0.123_456,
            train_top1: 98.76,
            test_top1: 70.0,
            images_per_second: 612.4,
            seconds: 20.0,
        };
        let text = describe(&report, 400.0);
        assert_eq!(text, "lr 0.001 loss 0.1235 train 98.76 % test 70.00 % 612 images/s ETA 01:06:40");
        assert!(describe(&report, f64::NAN).ends_with("ETA 00:00:00"), "a broken clock is no panic");
    }
}
