//! `train`: see [`remix::cli::train`].

use std::process::ExitCode;

fn main() -> ExitCode {
    remix::cli::train::main()
}
