//! `report`: see [`remix::cli::report`].

use std::process::ExitCode;

fn main() -> ExitCode {
    remix::cli::report::main()
}
