//! `report table`: which evaluations, and the four files.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use super::super::Common;
use super::{plan, unique};
use crate::manifest::store::{Done, Produced, Writer, write_atomic};
use crate::manifest::{Input, Kind, Manifest, Object, source};
use crate::report::record::Record;
use crate::report::table::{Table, tables};
use crate::report::{csv, json, latex, markdown, published};

/// Raised when the same evaluations would give other files. 2: runs by what computed them, settings that all rows share above the table, and
/// differences from published values of the same schedule alone.
const SEMANTICS: u32 = 2;

pub(super) const EXAMPLES: &str = "Examples:
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

pub(super) fn run(flags: &TableFlags, common: &Common) -> Result<()> {
    let found = source::read_all(&flags.metrics, "report", Kind::Metrics)?;
    let (inputs, records) = choose(&found, &flags.checkpoint)?;
    let tables = tables(&records);
    let mut params = Object::new();
    params.insert("report".into(), "table".into());
    params.insert("checkpoint".into(), flags.checkpoint.as_str().into());
    params.insert("published".into(), published::hash().into());
    super::name_files(&mut params, &records.iter().map(|r| &r.of).collect::<Vec<_>>());
    let plan = plan(SEMANTICS, params, inputs, "table", common)?;
    super::super::run_plan(&plan, common, |w| write(w, &tables))?;
    if !(common.quiet || common.dry_run || common.explain || common.verify) {
        // For people; nobody listening is no error.
        let _ = write!(std::io::stderr().lock(), "\n{}", markdown::write(&tables));
    }
    Ok(())
}

/// The evaluations of the asked epoch, each once, in an order that does not depend on how they came.
pub(super) fn choose(found: &[Manifest], checkpoint: &str) -> Result<(Vec<Input>, Vec<Record>)> {
    let mut chosen = Vec::new();
    for (input, m) in unique(found, |_| &[]) {
        let record = Record::of(m, &input)?;
        if checkpoint == "both" || checkpoint == record.of.which {
            chosen.push((input, record));
        }
    }
    if chosen.is_empty() {
        bail!(
            "--checkpoint {checkpoint}: none of the {} evaluations is of that epoch; run eval --checkpoint {checkpoint}",
            found.len()
        );
    }
    Ok(chosen.into_iter().unzip())
}

fn write(writer: &Writer, tables: &[Table]) -> Result<Done> {
    let cells = tables.iter().flat_map(Table::cells).count() as u64;
    let rows = tables.iter().map(|t| t.rows.len() as u64).sum();
    let files = [
        ("markdown", "table.md", markdown::write(tables), rows),
        ("csv", "table.csv", csv::write(tables), cells),
        ("latex", "table.tex", latex::write(tables), rows),
        ("json", "table.json", json::write(tables), cells),
    ];
    super::begin(writer, &files.each_ref().map(|(_, name, ..)| *name))?;
    writer.withdraw()?;
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
