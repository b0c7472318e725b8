//! `report html`: makes one page.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;

use super::{plan, unique};
use crate::cli::Common;
use crate::manifest::{Kind, Manifest, Object, source};
use crate::report::figure::experiments;
use crate::report::html;

/// Version of the page; raised when the same inputs would give another one. 2 to 4: changes of its tables and
/// figures; 5: its markup; 6: captions state the epoch, and mistakes are in the order of the tables, under
/// headings that name the run; 7: as version 5 of the figures and 6 of the tables; 8: as version 6 of the
/// figures, and rows of settings state those of all their runs; 9: sweeps; 10: as version 8 of the tables.
const SEMANTICS: u32 = 10;

/// The kinds of manifests that a page is made of; the first one is required.
const KINDS: [Kind; 4] = [Kind::Metrics, Kind::Checkpoint, Kind::Embedding, Kind::Dataset];

pub(super) const EXAMPLES: &str = "Examples:
  cat metrics/*/manifest.json | report html -o reports/page.html
  cat metrics/*/manifest.json runs/*/manifest.json | report html --title 'Table 1' -o reports/table1.html";

/// Flags of `report html`.
#[derive(Args, Debug)]
pub struct HtmlFlags {
    /// Manifests (or their directories); a file may hold several [default: stdin]
    #[arg(value_name = "MANIFEST")]
    pub inputs: Vec<PathBuf>,

    /// File to write, with FILE.manifest.json beside it [default: report.html in a directory named after the
    /// key]
    #[arg(short = 'o', long = "file", alias = "output", value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// File of published values in the format of this program's published.json, over whose values they take
    /// precedence
    #[arg(long, value_name = "FILE")]
    pub published: Option<PathBuf>,

    /// Heading of the page
    #[arg(long, value_name = "TEXT", default_value = "Learning from imbalanced data")]
    pub title: String,
}

pub(super) fn run(flags: &HtmlFlags, common: &Common) -> Result<()> {
    ensure!(
        !flags.title.trim().is_empty(),
        "--title {:?}: is empty; give a heading, or omit --title",
        flags.title
    );
    super::only_files(flags.file.as_slice(), common)?;
    if let Some(file) = &flags.file {
        super::format_of(file, &["html"])?;
    }
    let published = super::load_published(flags.published.as_deref())?;
    let found = source::read_kinds(&flags.inputs, "report html", &KINDS)?;
    let found = unique(&found, html::roles);
    let inputs = found.iter().map(|(input, _)| input.clone()).collect();
    let shown: Vec<&Manifest> = found.iter().map(|(_, m)| *m).filter(|m| m.kind != Kind::Dataset).collect();
    let of = experiments(&shown)?;
    let sources = html::Sources::of(found)?;
    let mut params = Object::new();
    params.insert("report".into(), "html".into());
    params.insert("title".into(), flags.title.as_str().into());
    params.insert("published".into(), published.hash.as_str().into());
    super::name_files(&mut params, &of.iter().collect::<Vec<_>>());
    let plan = match &flags.file {
        Some(file) => super::file_plan(SEMANTICS, params, inputs, file, "html")?,
        None => {
            params.insert("files".into(), vec!["report.html"].into());
            plan(SEMANTICS, params, inputs, "html", common)
        }
    };
    super::make_file(&plan, common, "html", |_| {
        Ok(html::write(&sources, &flags.title, &published)?.into_bytes())
    })
}
