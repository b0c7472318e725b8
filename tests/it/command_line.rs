//! Tests that the command line page of the documentation contains the current help of the tools.

use std::fmt::Write as _;
use std::process::Command;

use assert_cmd::cargo::cargo_bin;

use crate::common::committed;

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
    // Subcommands repeat the common options in the words of `mk-imbalance`. The page states them once, for
    // the tool.
    let full = help("mk-imbalance", None);
    let [start, end] =
        ["\nCommon options:\n", "\nExamples:\n"].map(|head| full.find(head).expect("a heading"));
    for (tool, subcommands) in ALL {
        let mut section = |name: &str, text: &str| {
            write!(page, "\n## {name}\n\n```text\n{text}```\n").expect("text");
        };
        section(tool, &help(tool, None));
        for subcommand in subcommands {
            let text = help(tool, Some(subcommand));
            let text = text.replace(&full[start..end], &format!("\nCommon options: as for `{tool}`.\n"));
            section(&format!("{tool} {subcommand}"), &text);
        }
    }
    committed("docs/reference/command-line.md", &page, "command_line");
}
