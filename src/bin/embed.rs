//! `embed`: see [`remix::cli::embed`].

use std::process::ExitCode;

fn main() -> ExitCode {
    remix::cli::embed::main()
}
