//! `mk-imbalance`: builds an imbalanced data set from the official files.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use super::Common;

/// Build an imbalanced data set
#[derive(Parser, Debug)]
#[command(name = "mk-imbalance", version = super::VERSION)]
pub struct Flags {
    /// Common flags.
    #[command(flatten)]
    pub common: Common,
}

/// The tool.
pub fn main() -> ExitCode {
    super::main("mk-imbalance", |a: &Flags| &a.common, run)
}

fn run(_: Flags) -> Result<()> {
    Ok(())
}
