//! Pictures of the most confident wrong predictions of evaluations whose data sets were given.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use super::Sources;
use crate::data::shard::Split;
use crate::manifest::{Input, Manifest};
use crate::report::record::Record;
use crate::report::{Error, title};

/// The number of pictures per evaluation: up to 50 with at most two evaluations, up to 12 with more.
const SHOWN: [(usize, usize); 2] = [(2, 50), (usize::MAX, 12)];

/// A wrong prediction recorded in a metrics manifest.
#[derive(Deserialize)]
struct Mistake {
    source_index: u32,
    label: usize,
    prediction: usize,
    probability: f64,
}

/// Returns the section, or `None` if no evaluation has both such predictions and a given data set.
pub(super) fn section(
    sources: &Sources,
    metrics: &[&(Input, &Manifest)],
    records: &[Record],
) -> Result<Option<Markup>, Error> {
    let most = SHOWN.iter().find(|(few, _)| metrics.len() <= *few).map_or(0, |(_, most)| *most);
    let mut all: Vec<Markup> = vec![];
    for ((_, m), record) in metrics.iter().zip(records) {
        let said = m.metrics.get("mistakes").cloned().unwrap_or(Value::Null);
        let Ok(mistakes) = serde_json::from_value::<Vec<Mistake>>(said) else { continue };
        let Some((dataset, split)) = dataset_of(sources, m) else { continue };
        if mistakes.is_empty() {
            continue;
        }
        let opened = Split::open(dataset, &split).map_err(|e| e.to_string());
        let (images, names) = match opened.and_then(|images| Ok((images, names(dataset)?))) {
            Ok(found) => found,
            Err(why) => {
                log::warn!("the page leaves out pictures of wrong predictions: {why}");
                continue;
            }
        };
        let rows: HashMap<u32, usize> = (0..images.len()).map(|n| (images.source_index(n), n)).collect();
        let classes = dataset.metrics.get("class_names").and_then(Value::as_array);
        let class = |label: usize| {
            let name = classes.and_then(|names| names.get(label)?.as_str());
            name.map_or_else(|| label.to_string(), str::to_owned)
        };
        let e = &record.of;
        let which = if e.which == "file" { String::new() } else { format!(", {} epoch", e.which) };
        let seed = e.seed.map_or_else(String::new, |seed| format!(", seed {seed}"));
        let column = format!("{}, {}", e.column.title(), e.column.heading());
        let name = |row: u32| names.get(row as usize).cloned().unwrap_or_else(|| format!("image {row}"));
        let found = mistakes.iter().take(most).filter_map(|m| Some((m, *rows.get(&m.source_index)?)));
        let pictures = found.map(|(m, row)| {
            let caption =
                format!("{}, not {} ({:.1} %)", class(m.prediction), class(m.label), 100.0 * m.probability);
            let (png, name) = (STANDARD.encode(picture(&images, row)?), name(m.source_index));
            Ok(html! {
                figure {
                    img src={ "data:image/png;base64," (png) } alt=(name);
                    figcaption { (name) br; (caption) }
                }
            })
        });
        let pictures: Vec<Markup> = pictures.collect::<Result<_, Error>>()?;
        all.push(html! {
            h3 { (column) ": " (title(&e.method)) (seed) (which) }
            div.mistakes { @for picture in pictures { (picture) } }
        });
    }
    Ok((!all.is_empty()).then(|| {
        html! {
            section id="mistakes" {
                h2 { "Mistakes" }
                p {
                    "The most confident wrong predictions, most confident first: the image as the network sees it, the \
                     predicted class, the true class, and the probability of the prediction."
                }
                @for of_one in all { (of_one) }
            }
        }
    }))
}

/// Returns the data set and the split of an evaluation.
fn dataset_of<'a>(sources: &Sources<'a>, m: &Manifest) -> Option<(&'a Manifest, String)> {
    let split = m.params.get("split")?.as_str()?;
    let wanted = &m.input("dataset")?.blake3;
    let is_it = |d: &&Manifest| d.as_input("dataset", &[split]).is_ok_and(|input| input.blake3 == *wanted);
    let found = sources.datasets.iter().map(|(_, d)| *d).find(is_it)?;
    Some((found, split.to_owned()))
}

/// Returns the names of image files by row; empty for other data sets.
fn names(dataset: &Manifest) -> Result<Vec<String>, String> {
    if dataset.outputs_of("files").next().is_none() {
        return Ok(vec![]);
    }
    let file = dataset.checked("files").map_err(|e| e.to_string())?.swap_remove(0);
    let text = std::fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
    Ok(text.lines().map(|line| line.rsplit_once('\t').map_or(line, |(path, _)| path).to_owned()).collect())
}

/// Encodes the centre of an image, which is what evaluation sees, as PNG.
fn picture(images: &Split, row: usize) -> Result<Vec<u8>, Error> {
    let [height, width, _] = images.shape();
    let pixels: Vec<u8> = images.rows(row).flatten().copied().collect();
    let mut bytes = vec![];
    let mut encoder = png::Encoder::new(&mut bytes, width as u32, height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(&pixels));
    written.map_err(|e| Error::Inputs { kind: "html", why: format!("cannot encode a picture: {e}") })?;
    Ok(bytes)
}
