//! `report html`: from flags to one page.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;

use super::super::Common;
use super::{place_of, plan, say, unique};
use crate::manifest::store::{Done, Produced, write_atomic};
use crate::manifest::{Kind, Manifest, Object, source};
use crate::report::figure::experiments;
use crate::report::{html, published};

/// Raised when the same inputs would give another page. 2: as the tables and figures on it.
const SEMANTICS: u32 = 2;

/// What a page is made of; the first is what it cannot do without.
const KINDS: [Kind; 4] = [Kind::Metrics, Kind::Checkpoint, Kind::Embedding, Kind::Dataset];

pub(super) const EXAMPLES: &str = "Examples:
  cat metrics/*/manifest.json | report html -o reports/page/report.html
  cat metrics/*/manifest.json runs/*/manifest.json | report html --title 'Table 1' --out reports/table1-page";

/// Flags of `report html`.
#[derive(Args, Debug)]
pub struct HtmlFlags {
    /// Manifests (or their directories), one or many a file [default: stdin]
    #[arg(value_name = "MANIFEST")]
    pub inputs: Vec<PathBuf>,

    /// File to write; its directory is that of the result
    #[arg(short = 'o', long = "file", value_name = "NAME", default_value = "report.html")]
    pub file: PathBuf,

    /// Heading of the page
    #[arg(long, value_name = "TEXT", default_value = "Learning from imbalanced data")]
    pub title: String,
}

pub(super) fn run(flags: &HtmlFlags, common: &Common) -> Result<()> {
    let here = flags.file.display();
    ensure!(flags.file.extension().is_some_and(|e| e == "html"), "{here}: does not end in .html; name it so");
    let (name, common) = place_of(&flags.file, common)?;
    let found = source::read_kinds(&flags.inputs, "report html", &KINDS)?;
    let found = unique(&found, html::roles);
    let inputs = found.iter().map(|(input, _)| input.clone()).collect();
    let shown: Vec<&Manifest> = found.iter().map(|(_, m)| *m).filter(|m| m.kind != Kind::Dataset).collect();
    let of = experiments(&shown)?;
    let sources = html::Sources::of(found)?;
    let mut params = Object::new();
    params.insert("report".into(), "html".into());
    params.insert("files".into(), vec![name.clone()].into());
    params.insert("title".into(), flags.title.as_str().into());
    params.insert("published".into(), published::hash().into());
    super::name_files(&mut params, &of.iter().collect::<Vec<_>>());
    let plan = plan(SEMANTICS, params, inputs, "html", &common)?;
    let m = super::super::run_plan(&plan, &common, |writer| {
        super::begin(writer, &[&name])?;
        let page = html::write(&sources, &flags.title)?;
        writer.withdraw()?;
        write_atomic(&writer.dir().join(&name), |f| f.write_all(page.as_bytes()))?;
        Ok(Done {
            outputs: vec![Produced { role: "html", name: name.clone(), rows: None }],
            ..Done::default()
        })
    })?;
    say(&m);
    Ok(())
}
