//! `report`: from metrics manifests to tables. What is in them is decided in [`crate::report`].

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};

use super::Common;
use crate::manifest::store::Done;
use crate::manifest::store::{Plan, Produced, Writer, write_atomic};
use crate::manifest::{Input, Kind, Manifest, Object, key, source};
use crate::report::record::{self, Record};
use crate::report::table::{Table, tables};
use crate::report::{csv, json, latex, markdown, published};

/// Raised when the same evaluations would give other files.
const SEMANTICS: u32 = 1;

/// Make tables of evaluations
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
    /// mean ± sample standard deviation over seeds, the number of seeds, the paper's value, the difference from it and the
    /// starting report's value. Runs that differ in anything but the seed get rows of their own. The Markdown is shown on
    /// stderr; stdout has the report's manifest.
    #[command(after_help = EXAMPLES)]
    Table(TableFlags),
}

const EXAMPLES: &str = "Examples:
  cat metrics/*/manifest.json | report table
  cat runs/*/manifest.json | ./eval --checkpoint best | report table --checkpoint best
  report table metrics/*cifar10*/manifest.json --out reports/table1";

/// Flags of `report table`.
#[derive(Args, Debug)]
pub struct TableFlags {
    /// Evaluations: manifests (or their directories), one or many a file [default: stdin]
    #[arg(value_name = "METRICS")]
    pub metrics: Vec<PathBuf>,

    /// Epoch of the evaluations to show; they never share a table
    #[arg(long, default_value = "both", value_parser = ["last", "best", "both"])]
    pub checkpoint: String,
}

/// The tool.
pub fn main() -> ExitCode {
    super::main("report", |a: &Flags| &a.common, run)
}

fn run(flags: Flags) -> Result<()> {
    let Command::Table(table) = &flags.command;
    let common = &flags.common;
    let found = source::read_all(&table.metrics, "report", Kind::Metrics)?;
    let (inputs, records) = choose(&found, &table.checkpoint)?;
    let tables = tables(&records)?;
    let plan = plan(inputs, &table.checkpoint, common.out.as_deref());
    super::run_plan(&plan, common, |w| write(w, &tables))?;
    if !(common.quiet || common.dry_run || common.explain || common.verify) {
        // For people; nobody listening is no error.
        let _ = write!(std::io::stderr().lock(), "\n{}", markdown::write(&tables));
    }
    Ok(())
}

/// The evaluations of the asked epoch, each once, in an order that does not depend on how they came.
fn choose(found: &[Manifest], checkpoint: &str) -> Result<(Vec<Input>, Vec<Record>)> {
    let mut chosen: BTreeMap<String, (Input, Record)> = BTreeMap::new();
    for m in found {
        let record = Record::of(m)?;
        if checkpoint == "both" || checkpoint == record.which {
            let input = record::input(m);
            let place = input.path.clone();
            let entry = chosen.entry(input.blake3.clone()).or_insert_with(|| (input, record));
            // Of two copies the first by path, or the manifest would depend on the order of the arguments.
            if place < entry.0.path {
                *entry = (record::input(m), Record::of(m)?);
            }
        }
    }
    if chosen.is_empty() {
        bail!(
            "--checkpoint {checkpoint}: none of the {} evaluations is of that epoch; run eval --checkpoint {checkpoint}",
            found.len()
        );
    }
    Ok(chosen.into_values().unzip())
}

fn plan(inputs: Vec<Input>, checkpoint: &str, out: Option<&Path>) -> Plan {
    let mut params = Object::new();
    params.insert("report".into(), "table".into());
    params.insert("checkpoint".into(), checkpoint.into());
    params.insert("published".into(), blake3::hash(published::TEXT.as_bytes()).to_hex().to_string().into());
    let mut plan = Plan { kind: Kind::Report, semantics: SEMANTICS, params, inputs, dir: Default::default() };
    plan.dir = match out {
        Some(out) => out.to_owned(),
        None => Path::new("reports").join(format!("table-{}", key::short(&plan.key()))),
    };
    plan
}

fn write(writer: &Writer, tables: &[Table]) -> Result<Done> {
    writer.withdraw()?;
    let cells = tables.iter().flat_map(Table::cells).count() as u64;
    let rows = tables.iter().map(|t| t.rows.len() as u64).sum();
    let files = [
        ("markdown", "table.md", markdown::write(tables), rows),
        ("csv", "table.csv", csv::write(tables), cells),
        ("latex", "table.tex", latex::write(tables), rows),
        ("json", "table.json", json::write(tables), cells),
    ];
    let mut outputs = Vec::new();
    for (role, name, text, rows) in files {
        write_atomic(&writer.dir().join(name), |f| f.write_all(text.as_bytes()))?;
        outputs.push(Produced { role, name: name.into(), rows: Some(rows) });
    }
    let mut metrics = Object::new();
    metrics.insert("cells".into(), cells.into());
    metrics.insert(
        "missing".into(),
        tables.iter().flat_map(Table::cells).filter(|c| c.values.is_empty()).count().into(),
    );
    Ok(Done { outputs, metrics, ..Done::default() })
}
