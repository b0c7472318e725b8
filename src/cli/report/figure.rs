//! `report figure`: from flags to a drawing in a file of its own.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;

use super::super::Common;
use super::{place_of, plan, unique};
use crate::manifest::store::{Done, Produced, Writer, write_atomic};
use crate::manifest::{Manifest, Object, source};
use crate::report::figure::{Kind, experiments, png, text};
use crate::report::one_line;

/// Raised when the same inputs would give another picture. 2: names are wrapped, or cut so that they differ; each loss function has a panel;
/// byte-identical runs count once.
const SEMANTICS: u32 = 2;

pub(super) const EXAMPLES: &str = "Examples:
  embed runs/mixup-*/ runs/remix-*/ --project tsne | report figure --kind figure1 -o figures/figure1/figure1.svg
  cat metrics/*/manifest.json | report figure --kind per-class -o per-class.png --dpi 600
  report figure --kind curves runs/*/manifest.json -o curves.svg -o curves.png";

/// Flags of `report figure`.
#[derive(Args, Debug)]
pub struct FigureFlags {
    /// Manifests (or their directories), one or many a file [default: stdin]
    #[arg(value_name = "MANIFEST")]
    pub inputs: Vec<PathBuf>,

    /// What to draw
    #[arg(long, value_enum)]
    pub kind: Kind,

    /// File to write, .svg or .png; may be given twice; its directory is that of the result [default: KIND.svg]
    #[arg(short = 'o', long = "file", value_name = "NAME")]
    pub files: Vec<PathBuf>,

    /// Width in inches: 3.3 is a column, 6.9 a page
    #[arg(long, value_name = "INCHES", default_value_t = 3.3, value_parser = inches)]
    pub width: f64,

    /// Resolution of PNG files
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(30..=2400))]
    pub dpi: u32,
}

fn inches(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "expected a number of inches".to_owned())?;
    if (2.0..=20.0).contains(&value) { Ok(value) } else { Err("expected 2 to 20 inches".into()) }
}

/// Where a figure goes.
struct Target {
    /// File names, without directories.
    names: Vec<String>,
    /// The flags with the directory of the files as `--out`.
    common: Common,
}

pub(super) fn run(flags: &FigureFlags, common: &Common) -> Result<()> {
    let kind = flags.kind;
    let Target { names, common } = target(flags, common)?;
    let found = source::read_all(&flags.inputs, kind.name(), kind.takes())?;
    let (inputs, manifests): (Vec<_>, Vec<&Manifest>) = unique(&found, |_| kind.roles()).into_iter().unzip();
    let mut params = Object::new();
    params.insert("report".into(), "figure".into());
    params.insert("kind".into(), kind.name().into());
    params.insert("files".into(), names.clone().into());
    params.insert("width".into(), flags.width.into());
    if names.iter().any(|n| n.ends_with(".png")) {
        params.insert("dpi".into(), flags.dpi.into());
    }
    if kind != Kind::ClassCounts {
        super::name_files(&mut params, &experiments(&manifests)?.iter().collect::<Vec<_>>());
    }
    let plan = plan(SEMANTICS, params, inputs, kind.name(), &common)?;
    let m = super::super::run_plan(&plan, &common, |w| {
        super::begin(w, &names)?;
        let svg = kind.draw(&manifests, flags.width * 72.0)?;
        if let Some(png) = names.iter().find(|n| n.ends_with(".png")) {
            warn_of_boxes(png, &svg, &manifests);
        }
        write(w, &names, &svg, flags.dpi)
    })?;
    super::say(&m);
    Ok(())
}

/// Names and directory of the files, checked.
fn target(flags: &FigureFlags, common: &Common) -> Result<Target> {
    let files = match flags.files.as_slice() {
        [] => vec![PathBuf::from(format!("{}.svg", flags.kind.name()))],
        files => files.to_vec(),
    };
    let mut common = common.clone();
    let mut names = Vec::new();
    for file in &files {
        let here = file.display();
        let suffix = file.extension().and_then(|e| e.to_str()).unwrap_or_default();
        ensure!(
            ["svg", "png"].contains(&suffix),
            "{here}: ends neither in .svg nor in .png; name one of the two"
        );
        let (name, placed) = place_of(file, &common)?;
        ensure!(!names.contains(&name), "{here}: is named twice; name each file once");
        names.push(name);
        common = placed;
    }
    names.sort();
    Ok(Target { names, common })
}

/// Says which characters the font of PNG files lacks, and in which names of classes they are.
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

fn write(writer: &Writer, names: &[String], svg: &str, dpi: u32) -> Result<Done> {
    let mut files = Vec::new();
    for name in names {
        let png = name.ends_with(".png");
        let bytes = if png { png::render(svg, dpi)? } else { svg.as_bytes().to_vec() };
        files.push((if png { "png" } else { "svg" }, name, bytes));
    }
    writer.withdraw()?;
    let mut outputs = Vec::new();
    for (role, name, bytes) in files {
        write_atomic(&writer.dir().join(name), |f| f.write_all(&bytes))?;
        outputs.push(Produced { role, name: name.clone(), rows: None });
    }
    Ok(Done { outputs, ..Done::default() })
}
