//! Pictures of the most confident wrong predictions of evaluations whose data sets were given.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use super::{Sources, in_order, run};
use crate::data::shard::Split;
use crate::manifest::{Input, Manifest, key};
use crate::report::Error;
use crate::report::experiment::Experiment;
use crate::report::figure::png;
use crate::report::record::Record;
use crate::report::series::{apart, series_anywhere};

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
    let of: Vec<&Experiment> = records.iter().map(|r| &r.of).collect();
    let headings = headings(&of);
    let mut all: Vec<Markup> = vec![];
    for (i, is_both) in shown(metrics, records) {
        let Some(pictures) = pictures(sources, metrics[i].1, most)? else { continue };
        let epoch = match of[i].which.as_str() {
            "file" => String::new(),
            _ if is_both => ", last and best epoch".into(),
            which => format!(", {which} epoch"),
        };
        all.push(html! {
            h3 { (headings[i]) (epoch) }
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

/// Returns the evaluations to show, in display order. If the last and the best epoch of a run have the same
/// mistakes, the last one is shown for both, which the flag says.
fn shown(metrics: &[&(Input, &Manifest)], records: &[Record]) -> Vec<(usize, bool)> {
    let mut shown: Vec<(usize, bool)> = vec![];
    for i in in_order(records) {
        let of = |i: usize| (metrics[i].1, &records[i].of);
        match shown.last_mut() {
            Some((last, is_both)) if repeats(of(*last), of(i)) => *is_both = true,
            _ => shown.push((i, false)),
        }
    }
    shown
}

/// Returns at most `most` pictures of an evaluation, with captions; `None` if it has no mistakes, or if its
/// data set was not given or cannot be read.
fn pictures(sources: &Sources, m: &Manifest, most: usize) -> Result<Option<Vec<Markup>>, Error> {
    let said = m.metrics.get("mistakes").cloned().unwrap_or(Value::Null);
    let Ok(mistakes) = serde_json::from_value::<Vec<Mistake>>(said) else { return Ok(None) };
    let Some((dataset, split)) = dataset_of(sources, m) else { return Ok(None) };
    if mistakes.is_empty() {
        return Ok(None);
    }
    let opened = Split::open(dataset, &split).map_err(|e| e.to_string());
    let (images, names) = match opened.and_then(|images| Ok((images, names(dataset)?))) {
        Ok(found) => found,
        Err(why) => {
            log::warn!("the page leaves out pictures of wrong predictions: {why}");
            return Ok(None);
        }
    };
    let rows: HashMap<u32, usize> = (0..images.len()).map(|n| (images.source_index(n), n)).collect();
    let classes = dataset.metrics.get("class_names").and_then(Value::as_array);
    let class = |label: usize| {
        let name = classes.and_then(|names| names.get(label)?.as_str());
        name.map_or_else(|| label.to_string(), str::to_owned)
    };
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
    pictures.collect::<Result<_, Error>>().map(Some)
}

/// Returns the headings of evaluations without the epoch: the training set, the method, and what tells the run
/// from the others on the page.
fn headings(of: &[&Experiment]) -> Vec<String> {
    // Labels must not depend on the training set and the epoch, because headings state these anyway.
    let run = |(i, e): (u64, &&Experiment)| {
        // With the same seed, evaluations of the same weights would count once.
        let mut run = Experiment { seed: Some(i), ..(*e).clone() };
        run.settings.remove("select");
        run
    };
    let runs: Vec<Experiment> = (0..).zip(of).map(run).collect();
    let mut all = vec![String::new(); of.len()];
    for group in series_anywhere(&runs.iter().collect::<Vec<_>>()) {
        for &i in &group.members {
            let same = group.members.iter().copied().filter(|&n| of[n].column == of[i].column);
            let same: Vec<usize> = same.collect();
            // Both epochs of a run have the same name, although their weights differ.
            let runs: Vec<Experiment> =
                same.iter().map(|&n| Experiment { weights: String::new(), ..of[n].clone() }).collect();
            let names = apart(&runs.iter().collect::<Vec<_>>());
            let name = same.iter().zip(names).find(|(n, _)| **n == i).map(|(_, name)| name);
            let seed = || of[i].seed.map(|seed| format!("seed {seed}"));
            let name = name.filter(|name| !name.is_empty()).or_else(seed);
            let name = name.map_or_else(String::new, |name| format!(", {name}"));
            let column = &of[i].column;
            all[i] = format!("{}, {}: {}{name}", column.title(), column.heading(), group.label);
        }
    }
    let is_twice =
        |i: usize| (0..of.len()).any(|n| n != i && (&all[n], &of[n].which) == (&all[i], &of[i].which));
    let heading = |i: usize| match is_twice(i) {
        true => format!("{}, weights {}", all[i], key::short(&of[i].weights)),
        false => all[i].clone(),
    };
    (0..of.len()).map(heading).collect()
}

/// Returns whether an evaluation of the best epoch of a run has the mistakes of that of its last epoch.
fn repeats((last, of_last): (&Manifest, &Experiment), (best, of_best): (&Manifest, &Experiment)) -> bool {
    (of_last.which.as_str(), of_best.which.as_str()) == ("last", "best")
        && run(of_last) == run(of_best)
        && last.params.get("split") == best.params.get("split")
        && last.metrics.get("mistakes") == best.metrics.get("mistakes")
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
    let encoded = png::encode(&pixels, (width as u32, height as u32), None);
    encoded.map_err(|e| Error::Inputs { kind: "html", why: format!("cannot encode a picture: {e}") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::column::Column;
    use crate::report::experiment::tests::experiment;

    #[test]
    fn headings_tell_runs_apart() {
        let run = |epochs: u64, which: &str, weights: &str| Experiment {
            method: "erm".into(),
            which: which.into(),
            settings: [("epochs".to_owned(), epochs.into())].into_iter().collect(),
            weights: weights.into(),
            ..experiment()
        };
        let by = |by: &str, e: Experiment| Experiment { computed_by: Some(by.into()), ..e };
        let select = |by: &str, mut e: Experiment| {
            e.settings.insert("select".into(), by.into());
            e
        };
        let of = |all: &[Experiment]| headings(&all.iter().collect::<Vec<_>>());
        // The best epoch of the first run is its last one.
        let all = [run(1, "last", "1"), run(4, "last", "2"), select("val", run(1, "best", "1"))];
        let [one, four] = ["1 epoch", "4 epochs"].map(|n| format!("CIFAR-10, exp 100: ERM ({n}), seed 0"));
        assert_eq!(of(&all), [one.as_str(), &four, &one]);
        let all = [by("amx", run(1, "last", "1")), by("avx512", run(1, "last", "2"))];
        let [amx, avx512] = ["amx", "avx512"].map(|name| format!("CIFAR-10, exp 100: ERM, {name}"));
        assert_eq!(
            of(&[&all[..], &[by("amx", run(1, "best", "3"))]].concat()),
            [amx.as_str(), &avx512, &amx]
        );
        let all = [run(1, "last", "1"), run(1, "last", "2"), run(1, "best", "3")];
        let erm = "CIFAR-10, exp 100: ERM, seed 0";
        let wanted = [format!("{erm}, weights 1"), format!("{erm}, weights 2"), erm.to_owned()];
        assert_eq!(of(&all), wanted);
        let step = Column { imb_type: "step".into(), ..experiment().column };
        let all = [run(1, "last", "1"), Experiment { seed: Some(1), column: step, ..run(1, "last", "2") }];
        assert_eq!(of(&all), [erm, "CIFAR-10, step 100: ERM, seed 1"]);
        let dataset = "synthetic".into();
        let mut synthetic = run(1, "last", "2");
        synthetic.column = Column { dataset, ..experiment().column };
        synthetic.settings.insert("train_per_class".into(), 50.into());
        assert_eq!(of(&[run(1, "last", "1"), synthetic]), [erm, "Synthetic, exp 100: ERM, seed 0"]);
    }
}
