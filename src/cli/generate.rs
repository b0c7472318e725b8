//! `TOOL --generate WHAT`: completions and man pages from the definition of the flags, for `make install`.
//! Hidden from `--help`, because nobody else needs it.
//!
//! The completions are scripts that ask the tool itself, by [`COMPLETE`], so they know the parts of methods
//! and every other value.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::{Command, CommandFactory};
use clap_complete::env::Shells;
use clap_complete::{CompleteEnv, CompletionCandidate};
use clap_mangen::Man;

use crate::backend::device::DEVICES;
use crate::net::Arch;

/// The tools, and the names under which they are installed: `eval` is a builtin of the shells, and `train`
/// could be anybody's.
const TOOLS: [(&str, &str); 5] = [
    ("mk-imbalance", "remix-mk-imbalance"),
    ("train", "remix-train"),
    ("eval", "remix-eval"),
    ("embed", "remix-embed"),
    ("report", "remix-report"),
];

fn installed(tool: &str) -> Option<&'static str> {
    TOOLS.iter().find(|(name, _)| *name == tool).map(|(_, installed)| *installed)
}

/// Returns the name that a tool was called by: its own, or its installed one.
pub fn called(tool: &'static str) -> &'static str {
    let program = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&program).file_name().unwrap_or_default();
    installed(tool).filter(|installed| name == *installed).unwrap_or(tool)
}

/// Returns the flags of a tool under the name that it was called by; its examples then use the other tools'
/// installed names too.
pub fn command<A: CommandFactory>(called: &'static str) -> Command {
    let command = A::command();
    if command.get_name() == called { command } else { rename(command.name(called)) }
}

fn rename(command: Command) -> Command {
    let examples = command.get_after_help().map(|text| reworded(&text.to_string()));
    let command = command.mut_subcommands(rename);
    match examples {
        Some(examples) => command.after_help(examples),
        None => command,
    }
}

/// Replaces the commands in examples by their installed names: at the start of a line or after a bar.
fn reworded(examples: &str) -> String {
    let command = |text: &str| {
        let at = text.len() - text.trim_start().len();
        let word = text[at..].split(char::is_whitespace).next().unwrap_or_default();
        match installed(word.trim_start_matches("./")) {
            Some(name) => format!("{}{name}{}", &text[..at], &text[at + word.len()..]),
            None => text.to_owned(),
        }
    };
    let line = |line: &str| line.split("| ").map(command).collect::<Vec<_>>().join("| ");
    examples.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

/// The variable by which a shell asks for completions.
const COMPLETE: &str = "REMIX_COMPLETE";

/// Answers a shell that asks for completions, and exits; returns if none asks.
pub fn complete<A: CommandFactory>(called: &'static str) {
    CompleteEnv::with_factory(|| command::<A>(called)).var(COMPLETE).complete();
}

/// Returns the candidates for `--arch`.
pub fn architectures() -> Vec<CompletionCandidate> {
    Arch::names().map(CompletionCandidate::new).collect()
}

/// Returns the candidates for `--device`.
pub fn devices() -> Vec<CompletionCandidate> {
    DEVICES.map(CompletionCandidate::new).into()
}

/// Returns what `--generate` asks for, if the tool was called with it.
pub fn asked() -> Option<Vec<String>> {
    let args: Vec<String> = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    (args.first().map(String::as_str) == Some("--generate")).then(|| args[1..].to_vec())
}

/// Writes completions to stdout, or man pages (one for the tool, one for each of its commands) into a
/// directory.
///
/// # Errors
/// Returns an error if it is not known how to generate `what`, or if the output cannot be written.
pub fn generate(mut command: Command, what: &[String]) -> Result<()> {
    let name = command.get_name().to_owned();
    let what: Vec<&str> = what.iter().map(String::as_str).collect();
    match what[..] {
        ["man", dir] => {
            // The commit is left out, because it would change the pages with every build.
            command = command.disable_help_subcommand(true).version(env!("CARGO_PKG_VERSION"));
            command.build();
            man(&command, Path::new(dir))
        }
        [one] => completions(&name, one),
        _ => bail!(WANTED),
    }
}

const WANTED: &str =
    "--generate: expected man DIR or complete-SHELL, where SHELL is bash, zsh, fish, elvish or powershell";

/// Writes the script that a shell sources to complete a tool's command lines.
fn completions(name: &str, what: &str) -> Result<()> {
    let shells = Shells::builtins();
    let shell = what.strip_prefix("complete-").and_then(|shell| shells.completer(shell)).context(WANTED)?;
    let mut script = Vec::new();
    shell.write_registration(COMPLETE, name, name, name, &mut script)?;
    let mut out = io::stdout().lock();
    out.write_all(&script).and_then(|()| out.flush()).map_err(super::stdout_error)
}

/// The sections that end each page.
const COMMON: &str = r".SH EXIT STATUS
.TP
0
Success; the result was computed or already existed.
.TP
1
A check failed: \-\-verify found no intact result, or some images could not be read.
.TP
2
An error, which is reported on standard error.
.TP
130
Interrupted by a signal; finished work is kept.
.SH ENVIRONMENT
.TP
.B REMIX_CACHE_DIR
Directory of the caches of file hashes and compiled GPU kernels [default: ~/.cache/remix].
.TP
.B REMIX_ISA
Instruction set of the CPU to use instead of the best one: amx, avx512, avx2, neon or portable.
";

/// Writes a page for a command, and one for each of its subcommands.
fn man(command: &Command, dir: &Path) -> Result<()> {
    command.get_subcommands().try_for_each(|sub| man(sub, dir))?;
    let man = Man::new(command.clone())
        .source(concat!("remix ", env!("CARGO_PKG_VERSION")))
        .manual("Learning from imbalanced data");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    if let Some(examples) = command.get_after_help() {
        // By hand, because the lines of examples must not be filled.
        page.extend_from_slice(b".SH EXAMPLES\n.nf\n");
        for line in examples.to_string().lines().filter(|l| *l != "Examples:") {
            writeln!(page, "\\&{}", line.trim_start().replace('\\', "\\e").replace('-', "\\-"))?;
        }
        page.extend_from_slice(b".fi\n");
    }
    page.extend_from_slice(COMMON.as_bytes());
    let others = TOOLS.iter().map(|(_, installed)| *installed).filter(|i| *i != command.get_name());
    let others: Vec<_> = others.map(|i| format!(".BR {} (1)", i.replace('-', "\\-"))).collect();
    writeln!(page, ".SH SEE ALSO\n{}", others.join(",\n"))?;
    let path = dir.join(man.get_filename());
    fs::write(&path, page).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::cli::{embed, eval, mk_imbalance, report, train};

    /// clap checks this itself, but in debug builds alone.
    #[test]
    fn names_of_flags_and_groups_are_unique() {
        fn check(command: &mut Command) {
            command.build();
            let (mut ids, mut flags) = (BTreeSet::new(), BTreeSet::new());
            for arg in command.get_arguments() {
                assert!(ids.insert(arg.get_id().to_string()), "{}: {}", command.get_name(), arg.get_id());
                let short = arg.get_short().map(|c| format!("-{c}"));
                let names = arg.get_long().map(|long| format!("--{long}")).into_iter().chain(short);
                for name in names {
                    assert!(flags.insert(name.clone()), "{} {name} is there twice", command.get_name());
                }
            }
            for group in command.get_groups() {
                let id = group.get_id().to_string();
                assert!(ids.insert(id.clone()), "{}: group {id}", command.get_name());
            }
            command.get_subcommands_mut().for_each(check);
        }
        let mut all = [
            mk_imbalance::Flags::command(),
            train::Flags::command(),
            eval::Flags::command(),
            embed::Flags::command(),
            report::Flags::command(),
        ];
        all.iter_mut().for_each(check);
    }

    #[test]
    fn examples_with_installed_names() {
        let text =
            "Examples:\n  mk-imbalance --data a | train --method b | ./eval\n  train x  train a network\n";
        let expected = "Examples:\n  remix-mk-imbalance --data a | remix-train --method b | remix-eval\n  remix-train x  train a network\n";
        assert_eq!(reworded(text), expected);
    }
}
