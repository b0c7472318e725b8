//! `report figure`: draws a figure into a file of its own.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use super::{plan, unique};
use crate::cli::{Common, whole_number};
use crate::manifest::{Manifest, Object, source};
use crate::report::figure::{Kind, experiments, png, text};
use crate::report::one_line;

/// Version of the figures; raised when the same inputs would give another picture. 2: names are wrapped, or
/// cut so that they differ; each loss function has a panel; byte-identical runs count once. 3: projections
/// that differ are told apart. 4: names state the schedule that each run had. 5: classes without test images
/// have no bar and are in no mean, names with fewer settings come first, and sweeps and t-SNE have other titles.
/// 6: names state no settings that a run does not have.
const SEMANTICS: u32 = 7;

pub(super) const EXAMPLES: &str = "Examples:
  embed runs/mixup-*/ runs/remix-*/ --project tsne | report figure --kind tsne -o figures/figure1.svg
  cat metrics/*/manifest.json | report figure --kind per-class -o per-class.png --dpi 600
  report figure --kind curves runs/*/manifest.json -o curves.svg -o curves.png";

/// Flags of `report figure`.
#[derive(Args, Debug)]
pub struct FigureFlags {
    /// Manifests (or their directories); a file may hold several [default: stdin]
    #[arg(value_name = "MANIFEST")]
    pub inputs: Vec<PathBuf>,

    /// What to draw
    #[arg(long, value_enum)]
    pub kind: Kind,

    /// File to write, .svg or .png, with FILE.manifest.json beside it; can be given several times
    /// [default: KIND.svg in a directory named after the key]
    #[arg(short = 'o', long = "file", alias = "output", value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Width in inches: 3.3 for one column, 6.9 for the whole page
    #[arg(long, value_name = "INCHES", default_value_t = 3.3, value_parser = inches)]
    pub width: f64,

    /// Resolution of PNG files in dots per inch [default: 300]
    #[arg(long, value_name = "N", value_parser = whole_number::<u32>(30, 2400))]
    pub dpi: Option<u32>,
}

fn inches(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "expected a number of inches".to_owned())?;
    if (2.0..=20.0).contains(&value) { Ok(value) } else { Err("expected 2 to 20 inches".into()) }
}

/// Formats of figure files.
const FORMATS: [&str; 2] = ["svg", "png"];

/// Resolution of PNG files without `--dpi`.
const DPI: u32 = 300;

pub(super) fn run(flags: &FigureFlags, common: &Common) -> Result<()> {
    let kind = flags.kind;
    super::only_files(&flags.files, common)?;
    let formats = flags.files.iter().map(|file| super::format_of(file, &FORMATS));
    let formats = formats.collect::<Result<Vec<_>>>()?;
    if flags.dpi.is_some() && !formats.contains(&"png") {
        bail!("--dpi: does nothing here, because no PNG is written; omit it, or write one with -o FILE.png");
    }
    let dpi = flags.dpi.unwrap_or(DPI);
    let found = source::read_all(&flags.inputs, kind.title(), kind.takes())?;
    let (inputs, manifests): (Vec<_>, Vec<&Manifest>) = unique(&found, |_| kind.roles()).into_iter().unzip();
    let mut params = Object::new();
    params.insert("report".into(), "figure".into());
    params.insert("kind".into(), kind.name().into());
    params.insert("width".into(), flags.width.into());
    if kind != Kind::ClassCounts {
        super::name_files(&mut params, &experiments(&manifests)?.iter().collect::<Vec<_>>());
    }
    let render = |format: &str, name: &str| -> Result<Vec<u8>> {
        let svg = kind.draw(&manifests, flags.width * 72.0)?;
        if format == "svg" {
            return Ok(svg.into_bytes());
        }
        warn_of_boxes(name, &svg, &manifests);
        Ok(png::render(&svg, dpi)?)
    };
    if flags.files.is_empty() {
        params.insert("files".into(), vec![format!("{}.svg", kind.name())].into());
        let plan = plan(SEMANTICS, params, inputs, kind.name(), common);
        return super::make_file(&plan, common, "svg", |name| render("svg", name));
    }
    for (file, format) in flags.files.iter().zip(formats) {
        let mut params = params.clone();
        if format == "png" {
            params.insert("dpi".into(), dpi.into());
        }
        let plan = super::file_plan(SEMANTICS, params, inputs.clone(), file, format)?;
        super::make_file(&plan, common, format, |name| render(format, name))?;
    }
    Ok(())
}

/// Warns about characters that the font of PNG files lacks, with the class names that contain them.
fn warn_of_boxes(png: &str, svg: &str, manifests: &[&Manifest]) {
    const MOST: usize = 5;
    let missing = text::missing(svg);
    if missing.is_empty() {
        return;
    }
    let list = |all: Vec<String>| {
        let more = all.len().saturating_sub(MOST);
        let shown = all[..all.len() - more].join(", ");
        if more > 0 { format!("{shown} and {more} more") } else { shown }
    };
    let names = manifests.iter().filter_map(|m| m.metrics.get("class_names")?.as_array());
    let classes: BTreeSet<String> = names
        .flatten()
        .filter_map(|name| name.as_str())
        .filter(|name| name.contains(|c| missing.contains(&c)))
        .map(one_line)
        .collect();
    let of = match classes.len() {
        0 => String::new(),
        1 => format!(" of the class {}", list(classes.into_iter().collect())),
        _ => format!(" of the classes {}", list(classes.into_iter().collect())),
    };
    let missing = list(missing.into_iter().map(|c| c.to_string()).collect());
    log::warn!(
        "{png}: the bundled font cannot draw {missing}{of}, so the PNG shows boxes; write an SVG to keep the text"
    );
}
