//! `report table`: chooses the evaluations, and writes the four files.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use super::runs::given_in_vain;
use super::{plan, unique};
use crate::cli::{Common, print_line, run_plan};
use crate::manifest::store::{Done, Produced, Writer, write_atomic};
use crate::manifest::{Input, Kind, Manifest, Object, source};
use crate::report::published::Published;
use crate::report::record::Record;
use crate::report::table::{Table, tables};
use crate::report::{csv, json, latex, markdown};

/// Version of the tables; raised when the same evaluations would give other files. 2: runs are told apart by
/// what computed them, settings that all rows share are above the table, and differences are only from
/// published values of the same schedule. 3: no empty columns, and the reasons why published values are
/// missing. 4: these reasons in one sentence. 5: other words in titles and notes, and milestones in words.
/// 6: rows with fewer departures from the usual settings come first. 7: standard errors over independent networks,
/// and doubtful published values. 8: all settings in the CSV and the JSON.
const SEMANTICS: u32 = 8;

pub(super) const EXAMPLES: &str = "Examples:
  cat metrics/*/manifest.json | report table
  cat runs/*/manifest.json | ./eval --checkpoint best | report table --checkpoint best
  report table metrics/*cifar10*/manifest.json --out reports/table1
  report table metrics/*/manifest.json --format md > table.md";

/// Flags of `report table`.
#[derive(Args, Debug)]
pub struct TableFlags {
    /// Evaluations: manifests or their directories, such as metrics/* [default: stdin]
    #[arg(value_name = "METRICS")]
    pub metrics: Vec<PathBuf>,

    /// Epoch of the evaluations to show; last and best are never in the same table
    #[arg(long, default_value = "both", value_parser = ["last", "best", "both"])]
    pub checkpoint: String,

    /// File of published values in the format of this program's published.json, over whose values they take
    /// precedence
    #[arg(long, value_name = "FILE")]
    pub published: Option<PathBuf>,

    /// Print the table itself on stdout, as md, csv, tex or json, and write no files
    #[arg(long, value_name = "FORMAT")]
    #[arg(value_parser = FORMATS, conflicts_with = "files")]
    pub format: Option<String>,

    /// File to write, .md, .csv, .tex or .json, with FILE.manifest.json beside it; can be given several times
    /// [default: all four in a directory named after the key]
    #[arg(short = 'o', long = "file", alias = "output", value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// Formats of tables.
const FORMATS: [&str; 4] = ["md", "csv", "tex", "json"];

/// Renders tables in a format.
fn text(tables: &[Table], published: &Published, format: &str) -> String {
    match format {
        "csv" => csv::write(tables),
        "tex" => latex::write(tables, published),
        "json" => json::write(tables, published),
        _ => markdown::write(tables, published),
    }
}

pub(super) fn run(flags: &TableFlags, common: &Common) -> Result<()> {
    super::only_files(&flags.files, common)?;
    for file in &flags.files {
        super::format_of(file, &FORMATS)?;
    }
    if let (Some(format), Some(flag)) = (&flags.format, given_in_vain(common)) {
        bail!("--format {format}: prints the table and writes no files; omit --{flag}");
    }
    let published = super::load_published(flags.published.as_deref())?;
    let found = source::read_all(&flags.metrics, "report", Kind::Metrics)?;
    let (inputs, records) = choose(&found, &flags.checkpoint)?;
    let tables = tables(&records, &published);
    let text = |format: &str| text(&tables, &published, format);
    if let Some(format) = &flags.format {
        return print_line(text(format).trim_end());
    }
    let mut params = Object::new();
    params.insert("report".into(), "table".into());
    params.insert("checkpoint".into(), flags.checkpoint.as_str().into());
    params.insert("published".into(), published.hash.as_str().into());
    super::name_files(&mut params, &records.iter().map(|r| &r.of).collect::<Vec<_>>());
    for file in &flags.files {
        let format = super::format_of(file, &FORMATS)?;
        let plan = super::file_plan(SEMANTICS, params.clone(), inputs.clone(), file, format)?;
        super::make_file(&plan, common, role(format), |_| Ok(text(format).into_bytes()))?;
    }
    if flags.files.is_empty() {
        let plan = plan(SEMANTICS, params, inputs, "table", common);
        run_plan(&plan, common, |w| write(w, &tables, text))?;
    }
    if flags.files.is_empty() && !(common.quiet || common.dry_run || common.explain || common.verify) {
        // The table is shown only for convenience, so a closed stderr is not an error.
        let _ = write!(std::io::stderr().lock(), "\n{}", text("md"));
    }
    Ok(())
}

/// Returns the role of a file in the manifest.
fn role(format: &str) -> &'static str {
    match format {
        "csv" => "csv",
        "tex" => "latex",
        "json" => "json",
        _ => "markdown",
    }
}

/// Returns the evaluations of the given epoch, each once, in an order that does not depend on the order in
/// which they came.
fn choose(found: &[Manifest], checkpoint: &str) -> Result<(Vec<Input>, Vec<Record>)> {
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

/// Writes the tables in all formats; `text` renders them in one.
fn write(writer: &Writer, tables: &[Table], text: impl Fn(&str) -> String) -> Result<Done> {
    let cells = tables.iter().flat_map(Table::cells).count() as u64;
    let rows = tables.iter().map(|t| t.rows.len() as u64).sum();
    super::begin(writer, &FORMATS.map(|format| format!("table.{format}")))?;
    writer.withdraw()?;
    let mut outputs = Vec::new();
    for format in FORMATS {
        let name = format!("table.{format}");
        write_atomic(&writer.dir().join(&name), |f| f.write_all(text(format).as_bytes()))?;
        let rows = Some(if ["csv", "json"].contains(&format) { cells } else { rows });
        outputs.push(Produced { role: role(format), name, rows });
    }
    let mut metrics = Object::new();
    metrics.insert("cells".into(), cells.into());
    metrics.insert(
        "missing".into(),
        tables.iter().flat_map(Table::cells).filter(|c| c.values.is_empty()).count().into(),
    );
    Ok(Done { outputs, metrics, ..Done::default() })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::report::{Command, Flags};

    #[test]
    fn a_printed_table_takes_no_flags_for_files() {
        for flag in ["--out", "--dry-run", "--explain", "--verify", "--force"] {
            let value = (flag == "--out").then_some("x");
            let words = ["report", "table", "nowhere", "--format", "md", flag].into_iter().chain(value);
            let parsed = Flags::try_parse_from(words).expect("flags");
            let Flags { command: Command::Table(flags), common } = parsed else {
                unreachable!("the command is table");
            };
            let e = run(&flags, &common).expect_err(flag).to_string();
            assert_eq!(e, format!("--format md: prints the table and writes no files; omit {flag}"));
        }
    }
}
