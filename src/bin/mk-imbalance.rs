//! `mk-imbalance`: see [`remix::cli::mk_imbalance`].

use std::process::ExitCode;

fn main() -> ExitCode {
    remix::cli::mk_imbalance::main()
}
