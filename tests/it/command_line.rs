//! Tests that the command line page of the documentation contains the current help of the tools.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use assert_cmd::cargo::cargo_bin;

const ALL: [(&str, &[&str]); 5] = [
    ("mk-imbalance", &[]),
    ("train", &[]),
    ("eval", &[]),
    ("embed", &[]),
    ("report", &["table", "figure", "html", "runs"]),
];

/// Returns the help text of a tool, at the width used without a terminal.
fn help(tool: &str, subcommand: Option<&str>) -> String {
    let mut command = Command::new(cargo_bin(tool));
    let said = command.args(subcommand).arg("--help").env_remove("COLUMNS").output().expect("it runs");
    assert!(said.status.success(), "{tool} --help");
    let text = String::from_utf8(said.stdout).expect("UTF-8");
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[test]
fn the_page_of_the_command_line_is_current() {
    let mut page = "# Command line\n\nWhat each tool prints for `--help`. This page is made by\n\
                    `REMIX_BLESS=1 cargo test --release --test it command_line`.\n"
        .to_owned();
    for (tool, subcommands) in ALL {
        let mut section = |name: &str, text: &str| {
            write!(page, "\n## {name}\n\n```text\n{text}```\n").expect("text");
        };
        section(tool, &help(tool, None));
        for subcommand in subcommands {
            section(&format!("{tool} {subcommand}"), &help(tool, Some(subcommand)));
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/command-line.md");
    if std::env::var_os("REMIX_BLESS").is_some() {
        fs::write(&path, &page).expect("written");
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == page,
        "{}: renew it with REMIX_BLESS=1 cargo test --release --test it command_line",
        path.display()
    );
}
