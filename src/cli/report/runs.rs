//! `report runs`: lists the trainings in some directories.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Arg, Args, Command};

use crate::cli::{Common, print_line};
use crate::report::runs;

pub(super) const EXAMPLES: &str = "Examples:
  report runs                        what is in runs/
  report runs runs/ ../other/runs --format csv";

/// Flags of `report runs`.
#[derive(Args, Debug)]
pub struct RunsFlags {
    /// Directories of training runs, or directories that contain such [default: runs]
    #[arg(value_name = "DIR")]
    pub dirs: Vec<PathBuf>,

    /// Format of the list
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = ["text", "csv", "json"])]
    pub format: String,
}

/// The common flags that do nothing where only text is printed.
const OF_FILES: [&str; 5] = ["out", "dry-run", "explain", "verify", "force"];

/// Returns the name of a given flag that does nothing where only text is printed, if there is one.
pub(super) fn given_in_vain(common: &Common) -> Option<&'static str> {
    let given = [common.out.is_some(), common.dry_run, common.explain, common.verify, common.force];
    OF_FILES.into_iter().zip(given).find_map(|(flag, is_given)| is_given.then_some(flag))
}

/// Returns these flags hidden from the help. Because the subcommand has them, clap does not add the visible
/// ones of `report`.
pub(super) fn refused() -> Vec<Arg> {
    let common = Common::augment_args(Command::new("report"));
    let refused =
        common.get_arguments().filter(|arg| arg.get_long().is_some_and(|long| OF_FILES.contains(&long)));
    refused.map(|arg| arg.clone().hide(true)).collect()
}

pub(super) fn run(flags: &RunsFlags, common: &Common) -> Result<()> {
    if let Some(flag) = given_in_vain(common) {
        bail!("--{flag}: does nothing here, because report runs only prints a list; omit it");
    }
    let usual = [PathBuf::from("runs")];
    let dirs = if flags.dirs.is_empty() { &usual[..] } else { &flags.dirs };
    if flags.dirs.is_empty() && !usual[0].is_dir() {
        bail!(
            "runs: there is no such directory here; name directories that train has made, or that contain \
             such"
        );
    }
    let (all, wrong) = runs::find(dirs)?;
    for e in wrong {
        log::warn!("skipped: {e}");
    }
    if all.is_empty() {
        let dirs: Vec<_> = dirs.iter().map(|d| d.display().to_string()).collect();
        bail!(
            "{}: there are no training runs; name directories that train has made, or that contain such",
            dirs.join(", ")
        );
    }
    let text = match &flags.format[..] {
        "csv" => runs::csv(&all),
        "json" => runs::json(&all),
        _ => runs::text(&all),
    };
    print_line(text.trim_end())
}
