//! What all tools share: flags, streams, exit codes, and the path from a plan to a printed manifest.
//!
//! A tool is `flags → validated config → Plan → work`; [`run_plan`] does everything around the work.

pub mod checkpoints;
pub mod embed;
pub mod eval;
mod files;
mod generate;
pub mod mk_imbalance;
mod models;
pub mod report;
mod summary;
pub mod sweep;
mod terminal;
pub mod train;
mod trained;
mod usage;

use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Write};
use std::num::IntErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Error, Result, anyhow, ensure};
use clap::{Arg, Args, Parser};
use clap_complete::ArgValueCandidates;
use serde_json::json;

use self::usage::flags_fault;
use crate::backend::device::{Device, is_known};
use crate::interrupt::{self, Interrupted};
use crate::manifest::compare::{self, Difference, Part};
use crate::manifest::store::{Claim, Done, Plan, Writer};
use crate::manifest::{Manifest, Object, hash, object, source, store};
use crate::simd::Isa;

/// Flags that every tool takes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Common options")]
pub struct Common {
    /// Directory for the result [default: a name made of the parameters and the key, which is a hash of
    /// parameters and inputs]
    #[arg(long, value_name = "DIR", global = true)]
    pub out: Option<PathBuf>,

    /// Number of worker threads; results do not depend on it [default: all cores]
    #[arg(long, value_name = "N", global = true, value_parser = whole_number::<u16>(1, 1024))]
    pub threads: Option<u16>,

    /// Where to compute: auto, cpu, cuda or cuda:N; $REMIX_ISA selects the CPU's instruction set (amx,
    /// avx512, avx2, neon or portable)
    #[arg(long, value_name = "DEVICE", default_value = "auto", global = true, value_parser = device)]
    #[arg(add = ArgValueCandidates::new(generate::devices))]
    pub device: String,

    /// Redo the work even if the result already exists; also replace another training or data set in --out
    #[arg(long, global = true)]
    pub force: bool,

    /// Print the manifest as planned (key, parameters, inputs) without doing the work
    #[arg(long, global = true, conflicts_with_all = ["explain", "verify"])]
    pub dry_run: bool,

    /// Print which parameters and inputs differ from those of the result in the output directory, without doing
    /// the work
    #[arg(long, global = true, conflicts_with = "verify")]
    pub explain: bool,

    /// Check the result and the hashes of its files; exit with 1 if it is missing or damaged
    #[arg(long, global = true, conflicts_with = "force")]
    pub verify: bool,

    /// Print no progress, only warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Print more details
    #[arg(short, long, global = true, overrides_with = "verbose")]
    pub verbose: bool,
}

/// Version and git commit, for `--version`.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (git ", env!("REMIX_GIT_COMMIT"), ")");

/// Whether `--verify` found a result that is missing or damaged: exit code 1, once all have been checked.
static IS_UNVERIFIED: AtomicBool = AtomicBool::new(false);

/// The error of clap for a tool that was called without a command: its text is the help.
const MISSING_COMMAND: clap::error::ErrorKind =
    clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;

/// The error of a requested check that fails: exit code 1.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CheckFailed(pub String);

/// Parses the flags, runs the tool and turns its result into an exit code: 0, 1 for a failed check, 2 for an
/// error, 130 after a signal. Errors are one line on stderr.
pub fn main<A: Parser>(tool: &'static str, common: fn(&A) -> &Common, run: fn(A) -> Result<()>) -> ExitCode {
    let called = generate::called(tool);
    generate::complete::<A>(called);
    let command = generate::command::<A>(called);
    if let Some(what) = generate::asked() {
        return match generate::generate(command, &what) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => failure(called, &e),
        };
    }
    let parsed = command.try_get_matches().and_then(|mut m| A::from_arg_matches_mut(&mut m));
    let args = match parsed {
        Ok(args) => args,
        Err(e) if e.kind() == MISSING_COMMAND => {
            let _ = e.print();
            return ExitCode::from(2);
        }
        Err(e) if e.use_stderr() => {
            let _ = writeln!(io::stderr(), "{called}: {}; see {called} --help", flags_fault(e));
            return ExitCode::from(2);
        }
        // The help or the version was asked for.
        Err(e) => {
            return match e.print().and_then(|()| io::stdout().flush()).map_err(stdout_error) {
                Ok(()) => ExitCode::SUCCESS,
                Err(e) => failure(called, &e),
            };
        }
    };
    let c = common(&args);
    let level = match (c.quiet, c.verbose) {
        (true, _) => log::LevelFilter::Warn,
        (_, false) => log::LevelFilter::Info,
        _ => log::LevelFilter::Debug,
    };
    env_logger::Builder::new()
        .filter_module("remix", level)
        .format(move |f, r| match r.level() {
            log::Level::Warn => writeln!(f, "{called}: warning: {}", r.args()),
            _ => writeln!(f, "{called}: {}", r.args()),
        })
        .target(env_logger::Target::Pipe(Box::new(terminal::Messages)))
        .init();
    let threads = c.threads.map_or(0, usize::from);
    if let Err(e) = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global() {
        log::warn!("cannot start {threads} threads: {e}");
    }
    interrupt::install();
    match check_device(&c.device).and_then(|()| run(args)) {
        Ok(()) if interrupt::requested() => ExitCode::from(130),
        Ok(()) if IS_UNVERIFIED.load(Ordering::Relaxed) => ExitCode::from(1),
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => failure(called, &e),
    }
}

/// Makes a parser of whole numbers from `least` to `most`.
pub(crate) fn whole_number<T: TryFrom<u64>>(
    least: u64,
    most: u64,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| {
        let parsed = text.parse::<u64>();
        let overflows = parsed.as_ref().is_err_and(|e| *e.kind() == IntErrorKind::PosOverflow);
        let number = parsed.ok().filter(|number| (least..=most).contains(number));
        number.and_then(|number| number.try_into().ok()).ok_or_else(|| match most {
            _ if number.is_some() || overflows => "the number is too large".into(),
            u64::MAX => format!("expected a whole number of at least {least}"),
            _ => format!("expected a whole number from {least} to {most}"),
        })
    }
}

/// Prints what went wrong, and returns the exit code for it. A closed stdout is not an error.
fn failure(called: &str, e: &anyhow::Error) -> ExitCode {
    if e.chain().any(is_broken_pipe) {
        return ExitCode::SUCCESS;
    }
    let _ = writeln!(io::stderr(), "{called}: {}", one_line(e));
    ExitCode::from(match () {
        () if e.is::<Interrupted>() => 130,
        () if e.is::<CheckFailed>() => 1,
        () => 2,
    })
}

/// Takes a negative number after a flag as its value, so that its parser can say what is wrong, and not as
/// another flag.
fn negative_values(arg: Arg) -> Arg {
    let takes_value = arg.get_action().takes_values() && !arg.is_positional();
    if takes_value { arg.allow_negative_numbers(true) } else { arg }
}

/// Hides `--device` and accepts no GPU, for tools that never compute on one.
fn only_cpu(device: Arg) -> Arg {
    device.hide(true).value_parser(["auto", "cpu"])
}

fn device(name: &str) -> Result<String, &'static str> {
    if is_known(name) { Ok(name.to_owned()) } else { Err("expected auto, cpu, cuda or cuda:N") }
}

/// Refuses a GPU for what is computed on the CPU alone.
fn only_on_cpu(device: &str, what: &str) -> Result<()> {
    let on_cpu = ["auto", "cpu"].contains(&device);
    ensure!(on_cpu, "--device {device}: {what} is computed on the CPU; omit --device");
    Ok(())
}

/// Refuses, before any work, a GPU or an instruction set that was asked for and cannot be used.
fn check_device(device: &str) -> Result<()> {
    Isa::from_env().map_err(Error::msg)?;
    if device.starts_with("cuda") { Device::find(device).map(|_| ()) } else { Ok(()) }
}

pub(crate) fn is_broken_pipe(e: &(dyn std::error::Error + 'static)) -> bool {
    e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
}

/// Formats an error and its causes in one line without control characters, which paths may contain. With
/// RUST_BACKTRACE, candle's errors include a backtrace of numbered lines, which no user needs; it is cut off.
fn one_line(e: &anyhow::Error) -> String {
    let text = format!("{e:#}");
    // The first line may itself begin like a frame, with the path `0`.
    let is_frame = |(n, line): &(usize, &str)| *n > 0 && line.trim_start().starts_with("0: ");
    let lines = text.lines().enumerate().take_while(|line| !is_frame(line));
    let words = lines.flat_map(|(_, line)| line.split(|c: char| c.is_whitespace() || c.is_control()));
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Prints a result on stdout: its manifest as one line or, on a terminal, one human-readable line.
///
/// # Errors
/// Returns an error if stdout cannot be written; [`main`] treats a closed stdout as success.
pub fn print(m: &Manifest) -> Result<()> {
    if terminal::stdout_is_terminal() {
        return print_line(&summary::of(m));
    }
    print_line(&serde_json::to_string(m).map_err(io::Error::from)?)
}

/// Prints a line on stdout.
///
/// # Errors
/// Returns an error if stdout cannot be written; [`main`] treats a closed stdout as success.
pub(crate) fn print_line(line: &str) -> Result<()> {
    // Both streams may be the same terminal.
    terminal::bars().suspend(|| {
        let mut out = io::stdout().lock();
        writeln!(out, "{line}").and_then(|()| out.flush()).map_err(stdout_error)
    })
}

/// Converts an error of stdout. [`failure`] distinguishes a reader that has gone from a full disk.
fn stdout_error(e: io::Error) -> Error {
    if e.kind() == ErrorKind::BrokenPipe {
        e.into()
    } else {
        anyhow!("stdout: {e}; free some space, or redirect the output elsewhere")
    }
}

/// Reuses the cached result, or locks the directory, does the work and publishes it. Then prints the
/// manifest.
///
/// `work` writes the outputs into the directory (each by [`store::write_atomic`]) and returns a list of them,
/// the metrics, and the additions to `run`.
///
/// # Errors
/// Returns an error if the work or the file system fails.
pub fn run_plan(
    plan: &Plan,
    common: &Common,
    work: impl FnOnce(&Writer) -> Result<Done>,
) -> Result<Manifest> {
    plan.check_paths()?;
    let planned = plan.manifest();
    if common.explain {
        // A closed stderr is not an error.
        let _ = writeln!(io::stderr(), "{}: {}", plan.kind.tool(), plan.explain());
        return Ok(planned);
    }
    if common.dry_run {
        // The plan is what was asked for, so people get all of it too.
        let whole =
            if terminal::stdout_is_terminal() { serde_json::to_string_pretty } else { serde_json::to_string };
        print_line(&whole(&planned).map_err(io::Error::from)?)?;
        return Ok(planned);
    }
    if common.verify {
        return verify(plan);
    }
    let m = make_or_reuse(plan, common, work)?;
    print(&m)?;
    Ok(m)
}

/// Reuses the cached result, or locks the directory, does the work and publishes it: [`run_plan`] without any
/// output on stdout, for an intermediate result.
///
/// # Errors
/// Returns an error if the work or the file system fails, and [`Interrupted`] after a signal.
pub fn make_or_reuse(
    plan: &Plan,
    common: &Common,
    work: impl FnOnce(&Writer) -> Result<Done>,
) -> Result<Manifest> {
    // The result before this one may have been finished after a signal.
    interrupt::check()?;
    let started = (SystemTime::now(), Instant::now());
    let path = plan.path();
    let waiting =
        || log::info!("{}: another process is computing this result; waiting for it", path.display());
    let claim = plan.claim(common.force, waiting);
    // A signal also ends the waiting.
    interrupt::check()?;
    match claim? {
        Claim::Done(m) => {
            log::debug!("{}: already done", path.display());
            Ok(*m)
        }
        Claim::Work(writer) => {
            let _working = interrupt::working();
            // Many errors already begin with a path: that of an input (absolute) or one inside the result.
            let begins_with_path = |text: String| {
                let text = text.trim_start_matches("./");
                text.starts_with('/') || text.starts_with(path.to_string_lossy().trim_start_matches("./"))
            };
            let done = work(&writer).map_err(|e| match begins_with_path(e.to_string()) {
                true => e,
                false => e.context(path.display().to_string()),
            })?;
            let mut run = provenance(common, started.0, started.1.elapsed().as_secs_f64(), &path);
            run.extend(done.run);
            Ok(writer.publish(done.outputs, done.metrics, run)?)
        }
    }
}

/// Checks a finished result and prints its manifest. What is wrong with it is logged, and does not keep the results
/// after it from being checked.
fn verify(plan: &Plan) -> Result<Manifest> {
    let m = match intact(plan) {
        Ok(m) => m,
        Err(why) => {
            log::error!("{why}");
            IS_UNVERIFIED.store(true, Ordering::Relaxed);
            return Ok(plan.manifest());
        }
    };
    let path = plan.path();
    let path = path.display();
    match m.outputs.len() {
        0 => log::info!("{path}: intact; the result is the manifest alone"),
        1 => log::info!("{path}: intact, including its file"),
        n => log::info!("{path}: intact, including its {n} files"),
    }
    print(&m)?;
    Ok(m)
}

/// Returns the finished result of a plan, or why it is none.
fn intact(plan: &Plan) -> Result<Manifest, String> {
    let path = plan.path();
    let path = path.display();
    let Some(m) = plan.existing() else {
        let file = plan.manifest_path();
        return Err(match source::read_file(&file) {
            Err(e) if file.exists() => e.to_string(),
            _ => format!("{path}: there is no finished result here"),
        });
    };
    if m.key != plan.key() {
        return Err(format!("{path}: holds another result; --explain shows what differs"));
    }
    m.damage(hash::file_now).map_or(Ok(m), |e| Err(e.to_string()))
}

/// Names the parts in which the keys of two results differ, each once. Of a part with another name, such as
/// another mix, the options are left out.
fn differences(old: &Manifest, new: &Manifest) -> String {
    let name = |d: Difference| match d.part {
        Part::Kind => "the kind".into(),
        Part::Param(name) => name,
        Part::Input(_, role) => format!("the input {role}"),
        Part::Semantics => format!("the version of {}", new.kind.tool()),
    };
    let all: Vec<String> = compare::differences(old, new).into_iter().map(name).collect();
    let mut known = BTreeSet::new();
    let is_option = |name: &str| {
        let part = name.split_once('.').map(|(part, _)| format!("{part}.name"));
        part.is_some_and(|part| part != name && all.contains(&part))
    };
    let told: Vec<&str> =
        all.iter().map(String::as_str).filter(|name| !is_option(name) && known.insert(*name)).collect();
    told.join(", ")
}

fn provenance(common: &Common, started: SystemTime, seconds: f64, path: &Path) -> Object {
    let since = started.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    object(json!({
        "tool": format!("remix {}", env!("CARGO_PKG_VERSION")),
        "argv": std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect::<Vec<_>>(),
        "git": {"commit": env!("REMIX_GIT_COMMIT"), "dirty": env!("REMIX_GIT_DIRTY") == "true"},
        "started_unix": since,
        "seconds": (seconds * 1e3).round() / 1e3,
        "host": host.trim(),
        "device": "cpu",
        "threads": rayon::current_num_threads(),
        "requested_device": common.device,
        "cwd": store::absolute(Path::new(".")),
        "out": path,
    }))
}

/// Makes a part of a directory's name of any text: at most 64 letters, digits, `-`, `_` and `.`, of which the
/// first is no `.`, in at most 200 bytes. Every other character becomes `-`. Returns `None` if nothing is left.
fn safe_name(text: &str) -> Option<String> {
    let safe = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let mut bytes = 0;
    let fits = |c: &char| {
        bytes += c.len_utf8();
        bytes <= 200
    };
    let name: String = text.trim_start_matches('.').chars().map(safe).take(64).take_while(fits).collect();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests;
