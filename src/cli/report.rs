//! `report`: turns manifests into tables, figures and pages. Their content is decided in [`crate::report`].

mod figure;
mod html;
mod runs;
mod table;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use clap::{Parser, Subcommand};

use super::{Common, VERSION, negative_values, only_cpu, terminal};
use crate::manifest::store::{self, Done, Plan, Produced, Writer, write_atomic};
use crate::manifest::{self, Input, Kind, Manifest, Object, key};
use crate::report::experiment::{Experiment, longer_names};
use crate::report::published::Published;
use crate::report::record;

pub use figure::FigureFlags;
pub use html::HtmlFlags;
pub use runs::RunsFlags;
pub use table::TableFlags;

/// Make tables, figures and pages
#[derive(Parser, Debug)]
#[command(name = "report", version = VERSION)]
#[command(mut_subcommands(|command| command.mut_args(negative_values)), mut_arg("device", only_cpu))]
pub struct Flags {
    /// What to make.
    #[command(subcommand)]
    pub command: Command,

    /// Common flags.
    #[command(flatten)]
    pub common: Common,
}

/// What `report` makes.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Tables of accuracy by method and imbalance, beside the published values
    ///
    /// Makes one table for each data set and epoch (last, best), with the mean ± sample standard deviation
    /// over seeds, the number of seeds, the paper's value, the difference from it if both have the same
    /// schedule, and the value of the reproduction report that this project starts from. Runs share a row if
    /// they differ only in the seed or in what computed them (device, instruction set, version of train).
    ///
    /// Without -o and --format, writes table.md, table.csv, table.tex (for \input) and table.json into a
    /// directory, prints the report's manifest on stdout and shows the Markdown on stderr. With --format,
    /// prints the table itself on stdout.
    #[command(after_help = table::EXAMPLES)]
    Table(TableFlags),

    /// A figure for a paper, as SVG or PNG
    ///
    /// Figures are one column wide (3.3 inches) and set in Arimo, which has the character widths of Arial and
    /// Helvetica. People with any colour vision can tell the colours apart, and text in SVG files stays text.
    /// The same inputs give the same bytes. The seeds of a method are combined: as means with standard
    /// deviations, in curves as bands from the lowest to the highest value, in reliability diagrams as pooled
    /// bins.
    ///
    /// Each FILE of -o is a result of its own, with FILE.manifest.json beside it, so many figures can share a
    /// directory.
    #[command(after_help = figure::EXAMPLES)]
    Figure(FigureFlags),

    /// Tables, figures, settings and lineage on one self-contained page
    ///
    /// Writes one HTML file that needs neither a network connection nor scripts (with scripts, a click sorts
    /// a table). It has the tables of `report table`, with a list of the differences of more than two
    /// standard errors from the published values; figures of everything that is given; the settings of every
    /// run; and the lineage of every number, hash by hash, down to the official files. Give it metrics
    /// manifests and, in any order, manifests of checkpoints (for training curves), of embeddings with a
    /// projection (for figure 1) and of data sets (for class counts and pictures of wrong predictions).
    #[command(after_help = html::EXAMPLES)]
    Html(HtmlFlags),

    /// List training runs with their settings, progress and accuracy
    ///
    /// Looks for finished and unfinished runs in directories and their subdirectories, and prints one line
    /// for each on stdout: method, settings, seed, finished epochs, and accuracy on the test split after the
    /// last and after the best epoch. Settings that all runs share are printed once, except classifiers on
    /// features. Nothing is written.
    #[command(after_help = runs::EXAMPLES, args = runs::refused())]
    Runs(RunsFlags),
}

/// Runs the tool.
pub fn main() -> ExitCode {
    super::main("report", |a: &Flags| &a.common, run)
}

fn run(flags: Flags) -> Result<()> {
    let common = &flags.common;
    match &flags.command {
        Command::Table(flags) => table::run(flags, common),
        Command::Figure(flags) => figure::run(flags, common),
        Command::Html(flags) => html::run(flags, common),
        Command::Runs(flags) => runs::run(flags, common),
    }
}

/// Returns each manifest once by content, in an order that does not depend on the order in which they came.
/// `roles` returns the outputs of a manifest that the report opens.
fn unique(
    found: &[Manifest],
    roles: impl Fn(&Manifest) -> &'static [&'static str],
) -> Vec<(Input, &Manifest)> {
    let mut chosen: BTreeMap<String, (Input, &Manifest)> = BTreeMap::new();
    for m in found {
        let input = record::input(m, roles(m));
        let entry = chosen.entry(input.blake3.clone()).or_insert_with(|| (input.clone(), m));
        // Of two copies the first one by path is taken; otherwise the manifest would depend on the order of
        // the arguments.
        if input.path < entry.0.path {
            *entry = (input, m);
        }
    }
    chosen.into_values().collect()
}

/// Creates the plan of a report that is a directory: `--out`, or `reports/NAME-KEY`.
fn plan(semantics: u32, params: Object, inputs: Vec<Input>, name: &str, common: &Common) -> Plan {
    let usual = |key: &str| Path::new("reports").join(format!("{name}-{}", key::short(key)));
    let dir = |key: &str| common.out.clone().unwrap_or_else(|| usual(key));
    Plan::new(Kind::Report, semantics, params, inputs, dir)
}

/// Creates the plan of a report that is a single file, the FILE of `-o FILE`. Its params record the file's
/// format as `format`.
///
/// # Errors
/// Returns an error if the name is not UTF-8.
fn file_plan(
    semantics: u32,
    mut params: Object,
    inputs: Vec<Input>,
    file: &Path,
    format: &str,
) -> Result<Plan> {
    let name = file.file_name().and_then(|name| name.to_str());
    let name = name
        .with_context(|| format!("{}: is not a file name in UTF-8; choose another name", file.display()))?
        .to_owned();
    let dir = store::parent(file).to_owned();
    params.insert("format".into(), format.into());
    Ok(Plan { file: Some(name), ..Plan::new(Kind::Report, semantics, params, inputs, |_| dir) })
}

/// Returns the extension of a file, which must be one of `known`, ignoring case. Refuses the names of
/// manifests and plans.
fn format_of<'a>(file: &Path, known: &[&'a str]) -> Result<&'a str> {
    let here = file.display();
    let name = file.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    if [manifest::FILE, store::PLAN].iter().any(|own| name == *own || name.ends_with(&format!(".{own}"))) {
        bail!("{here}: is a name of manifests and plans; choose another name");
    }
    let extension = file.extension().and_then(|e| e.to_str()).unwrap_or_default();
    known.iter().find(|known| known.eq_ignore_ascii_case(extension)).copied().with_context(|| match known {
        [one] => format!("{here}: must end in .{one}"),
        all => {
            format!("{here}: the extension determines the format, and must be one of .{}", all.join(", ."))
        }
    })
}

/// Reads the published values, among them those of `--published`.
fn load_published(file: Option<&Path>) -> Result<Published> {
    match file {
        Some(file) => Published::with(file).map_err(|why| anyhow!("--published {}: {why}", file.display())),
        None => Ok(Published::committed()),
    }
}

/// Refuses `-o` together with `--out`, and a file that is named twice.
fn only_files(files: &[PathBuf], common: &Common) -> Result<()> {
    if let (Some(out), Some(file)) = (&common.out, files.first()) {
        let (out, file) = (out.display(), file.display());
        bail!(
            "--out {out} and -o {file}: --out names a directory for the result, -o the file that is the \
             result; give only one of them"
        );
    }
    let is_again = |n: &usize| files[..*n].iter().any(|f| store::absolute(f) == store::absolute(&files[*n]));
    match (0..files.len()).find(is_again) {
        Some(n) => bail!("-o {}: is given twice; give each file once", files[n].display()),
        None => Ok(()),
    }
}

/// Makes a report that is one file, in a directory of its own or the FILE of `-o`, and logs where it is.
/// `work` returns the file's bytes by its name.
fn make_file(
    plan: &Plan,
    common: &Common,
    role: &'static str,
    work: impl FnOnce(&str) -> Result<Vec<u8>>,
) -> Result<()> {
    // In a directory of its own, the file has the name that the params list.
    let listed = || plan.params.get("files")?.get(0)?.as_str();
    let name = plan.file.as_deref().or_else(listed).expect("a report of one file names it");
    let m = super::run_plan(plan, common, |writer| {
        begin(writer, &[name])?;
        let bytes = work(name)?;
        writer.withdraw()?;
        write_atomic(&writer.dir().join(name), |f| f.write_all(&bytes))?;
        Ok(Done { outputs: vec![Produced { role, name: name.into(), rows: None }], ..Done::default() })
    })?;
    say(&m);
    Ok(())
}

/// Claims the locked directory or file for this report, and lists the files that it will have. Refuses a
/// directory that holds a report of another kind or with other files. The FILE of `-o` may replace any report
/// that has its name.
fn begin<S: AsRef<str>>(writer: &Writer, files: &[S]) -> Result<()> {
    let plan = writer.plan();
    let what = |params: &Object| ["report", "kind", "files"].map(|name| params.get(name).cloned());
    let is_another = |m: &Manifest| m.kind == Kind::Report && what(&m.params) != what(&plan.params);
    if plan.file.is_none()
        && let Some(there) = plan.existing().filter(is_another)
    {
        let said = there.outputs.first().map_or("nothing".into(), |o| o.path.display().to_string());
        bail!(
            "{}: holds another report ({said}), which this one would replace; choose another directory with --out",
            plan.dir.display()
        );
    }
    Ok(writer.begin(files)?)
}

/// Adds the names of bare files to the params of a report that shows them, if the file name alone is not
/// enough.
fn name_files(params: &mut Object, shown: &[&Experiment]) {
    let names = longer_names(shown);
    if !names.is_empty() {
        params.insert("names".into(), names.into());
    }
}

/// Logs where the files are, unless standard output says so.
fn say(m: &Manifest) {
    if terminal::stdout_is_terminal() {
        return;
    }
    for o in &m.outputs {
        if let Ok(dir) = m.dir() {
            log::info!("{}: {} bytes", dir.join(&o.path).display(), o.bytes);
        }
    }
}
