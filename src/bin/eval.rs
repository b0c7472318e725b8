//! `eval`: see [`remix::cli::eval`].

use std::process::ExitCode;

fn main() -> ExitCode {
    remix::cli::eval::main()
}
