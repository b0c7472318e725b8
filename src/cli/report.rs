//! `report`: from manifests to tables, figures and pages. What is in them is decided in [`crate::report`].

mod figure;
mod html;
mod table;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};

use super::Common;
use crate::manifest::store::{Plan, Writer};
use crate::manifest::{Input, Kind, Manifest, Object, key};
use crate::report::experiment::{Experiment, longer_names};
use crate::report::record;

pub use figure::FigureFlags;
pub use html::HtmlFlags;
pub use table::TableFlags;

/// Make tables, figures and pages
#[derive(Parser, Debug)]
#[command(name = "report", version = super::VERSION)]
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
    /// Accuracy of methods × imbalance, beside the published values
    ///
    /// Writes table.md, table.csv, table.tex (for \input) and table.json: a table a data set and epoch (last, best), with
    /// mean ± sample standard deviation over seeds, the number of seeds, the paper's value, the difference from it where
    /// both have one schedule, and the starting report's value. Runs that differ in anything but the seed, or what computed
    /// them, get rows of their own. The Markdown is shown on
    /// stderr; stdout has the report's manifest.
    #[command(after_help = table::EXAMPLES)]
    Table(TableFlags),

    /// A figure for a paper, as SVG or PNG
    ///
    /// One column wide (3.3 inches), set in Arimo, which has the widths of Arial and Helvetica; colours that people with any
    /// colour vision can tell apart; text stays text in SVG. The same inputs give the same bytes. Seeds of a method are
    /// put together: means with standard deviations, bands of extremes in curves, pooled bins in reliability diagrams.
    ///
    /// A directory holds one figure, with its manifest beside it.
    #[command(after_help = figure::EXAMPLES)]
    Figure(FigureFlags),

    /// Tables, figures, settings and lineage on one self-contained page
    ///
    /// Writes one HTML file that needs no network and no script (with one, tables sort by a click): tables as of
    /// `report table`, with differences of more than two standard errors from the published values named; figures of
    /// whatever is given; the settings of every run; and the lineage of every number, hash by hash, down to the official
    /// files. Give it metrics manifests, and beside them in any order those of checkpoints (training curves), embeddings
    /// with a projection (figure 1) and data sets.
    #[command(after_help = html::EXAMPLES)]
    Html(HtmlFlags),
}

/// The tool.
pub fn main() -> ExitCode {
    super::main("report", |a: &Flags| &a.common, run)
}

fn run(flags: Flags) -> Result<()> {
    let common = &flags.common;
    match &flags.command {
        Command::Table(flags) => table::run(flags, common),
        Command::Figure(flags) => figure::run(flags, common),
        Command::Html(flags) => html::run(flags, common),
    }
}

/// Each manifest once by content, in an order that does not depend on how they came. `roles` are the outputs of a manifest
/// that the report opens.
fn unique(
    found: &[Manifest],
    roles: impl Fn(&Manifest) -> &'static [&'static str],
) -> Vec<(Input, &Manifest)> {
    let mut chosen: BTreeMap<String, (Input, &Manifest)> = BTreeMap::new();
    for m in found {
        let input = record::input(m, roles(m));
        let entry = chosen.entry(input.blake3.clone()).or_insert_with(|| (input.clone(), m));
        // Of two copies the first by path, or the manifest would depend on the order of the arguments.
        if input.path < entry.0.path {
            *entry = (input, m);
        }
    }
    chosen.into_values().collect()
}

/// The plan of a report, in `--out` or in `reports/NAME-KEY`.
///
/// # Errors
/// A directory that holds a report of another kind or with other files: it is not replaced.
fn plan(semantics: u32, params: Object, inputs: Vec<Input>, name: &str, common: &Common) -> Result<Plan> {
    let mut plan = Plan { kind: Kind::Report, semantics, params, inputs, dir: Default::default() };
    plan.dir = match &common.out {
        Some(out) => out.clone(),
        None => Path::new("reports").join(format!("{name}-{}", key::short(&plan.key()))),
    };
    unoccupied(&plan)?;
    Ok(plan)
}

/// Refuses a directory that holds a report of another kind or with other files.
fn unoccupied(plan: &Plan) -> Result<()> {
    let what = |params: &Object| ["report", "kind", "files"].map(|name| params.get(name).cloned());
    if let Some(there) =
        plan.existing().filter(|m| m.kind == Kind::Report && what(&m.params) != what(&plan.params))
    {
        let said = there.outputs.first().map_or("nothing".into(), |o| o.path.display().to_string());
        bail!(
            "{}: holds another report ({said}), which this one would replace; choose another directory with --out",
            plan.dir.display()
        );
    }
    Ok(())
}

/// Makes the locked directory this report's, and lists the files that it will have. Another process may have made another report there
/// since the plan was made.
fn begin<S: AsRef<str>>(writer: &Writer, files: &[S]) -> Result<()> {
    unoccupied(writer.plan())?;
    Ok(writer.begin(files)?)
}

/// Puts what bare files are called among the params of a report that shows them, where the name of the file is not enough.
fn name_files(params: &mut Object, shown: &[&Experiment]) {
    let names = longer_names(shown);
    if !names.is_empty() {
        params.insert("names".into(), names.into());
    }
}

/// The name of a file, and the flags with its directory, where it says one, as `--out`.
///
/// # Errors
/// Two directories, or a name that is not UTF-8.
fn place_of(file: &Path, common: &Common) -> Result<(String, Common)> {
    let here = file.display();
    let Some(name) = file.file_name().and_then(|n| n.to_str()) else {
        bail!("{here}: is no file name in UTF-8, and manifests name their files in it; choose another name");
    };
    let mut common = common.clone();
    if let Some(dir) = file.parent().filter(|d| !d.as_os_str().is_empty()) {
        let out = common.out.get_or_insert_with(|| dir.to_owned());
        if out != dir {
            let out = out.display();
            bail!("{here}: is not in {out}, where the result goes; all files of a report share a directory");
        }
    }
    Ok((name.to_owned(), common))
}

/// Says where the files are, which need not be where one looks first.
fn say(m: &Manifest) {
    for o in &m.outputs {
        if let Ok(dir) = m.dir() {
            log::info!("{}: {} bytes", dir.join(&o.path).display(), o.bytes);
        }
    }
}
