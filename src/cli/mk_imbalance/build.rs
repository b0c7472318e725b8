//! The work of `mk-imbalance`: from the chosen images to shards, statistics and the manifest.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::Origin;
use super::flags::{Flags, Name, Normalisation, OnError};
use crate::cli::terminal;
use crate::data::files::CHANGED;
use crate::data::files::tree::LIST;
use crate::data::shard::{Chosen, Written};
use crate::data::{self, Images, Normalise, imbalance, listing, synthetic};
use crate::interrupt::{self, Interrupted};
use crate::manifest::Object;
use crate::manifest::store::{Done, Produced, Writer, rename, write_atomic};

/// A split of a data set: its name, the images it is chosen from, and the positions of the chosen ones.
type Split<'a> = (&'static str, Arc<dyn Images + 'a>, Vec<u32>);

/// A data set before it is written.
struct Prepared<'a> {
    class_names: Vec<String>,
    splits: Vec<Split<'a>>,
    official: Option<bool>,
}

/// Opens the source, and chooses the images of each split.
fn prepare<'a>(flags: &Flags, origin: &'a Origin) -> Result<Prepared<'a>> {
    let all = |images: &dyn Images| (0..).take(images.labels().len()).collect();
    let (source, official) = match origin {
        Origin::Cifar(files) => {
            let source = files.read()?;
            let official = files.is_official(&source);
            if !official {
                log::warn!(
                    "these are not the published images or labels: their hash differs; the manifest \
                     records this"
                );
            }
            (source, Some(official))
        }
        Origin::Synthetic { train, test } => (synthetic::generate(*train, *test), None),
        Origin::Files(found) => {
            let [train, val, test] = [0, 1, 2].map(|split| Arc::new(found.files(split)));
            let (all_val, all_test) = (all(&*val), all(&*test));
            let splits: Vec<Split> = vec![
                ("train", train, found.draw.train.clone()),
                ("val", val, all_val),
                ("test", test, all_test),
            ];
            let class_names = found.listing.class_names.clone();
            return Ok(Prepared { class_names, splits, official: found.official });
        }
    };
    let data::Source { class_names, train, test } = source;
    let (classes, profile) = (class_names.len(), flags.profile());
    let draw = imbalance::draw(train.labels(), classes, profile, flags.val_fraction, flags.rand_number)?;
    let (train, test) = (Arc::new(train), Arc::new(test));
    let all_test = all(&*test);
    let splits: Vec<Split> =
        vec![("train", train.clone(), draw.train), ("val", train, draw.val), ("test", test, all_test)];
    Ok(Prepared { class_names, splits, official })
}

/// Reads, draws and writes. The files in the directory stay until the new shards are safely on disk.
pub fn build(flags: &Flags, origin: &Origin, writer: &Writer) -> Result<Done> {
    let Prepared { class_names, splits, official } = prepare(flags, origin)?;
    let shard_bytes = usize::try_from(flags.shard_bytes).unwrap_or(usize::MAX);
    let splits: Vec<Chosen> = splits
        .iter()
        .map(|(split, images, chosen)| Chosen { split, images: &**images, chosen })
        .filter(|c| !c.chosen.is_empty())
        .collect();
    let mut names: Vec<String> = splits.iter().flat_map(|c| c.names(shard_bytes)).collect();
    if let Origin::Files(_) = origin {
        names.push(LIST.into());
    }
    let staging = writer.begin_staged(&names)?;
    let written = match write(flags, &splits, &staging, class_names.len()) {
        Ok(written) => written,
        Err(e) => {
            // Shards of image files take long to make, so they are kept and the same call continues with
            // them. They are not kept if an image has to be repaired, because the key is then another.
            let is_broken = matches!(e.downcast_ref(), Some(data::Error::Broken { .. }));
            if is_broken || !matches!(origin, Origin::Files(_)) {
                fs::remove_dir_all(&staging).with_context(|| staging.display().to_string())?;
            }
            return Err(e);
        }
    };
    let broken: Vec<_> = written.iter().flat_map(|w| &w.broken).collect();
    let train = &written[0];
    if let Some(label) = train.counts.iter().position(|n| *n == 0) {
        bail!("class {:?} has no training image that can be read", class_names[label]);
    }
    let of_test = splits.iter().zip(&written).find(|(c, _)| c.split == "test");
    if of_test.is_some_and(|(_, w)| w.counts.iter().all(|n| *n == 0)) {
        bail!("no test image can be read");
    }
    let mut metrics = Object::new();
    let mut set = |name: &str, value: Value| metrics.insert(name.into(), value);
    let [height, width, channels] = splits[0].images.shape();
    set("classes", json!(class_names.len()));
    set("class_names", json!(class_names));
    set("cls_num_list", json!(train.counts));
    set("mean", json!(train.mean));
    set("std", json!(train.std));
    set("height", json!(height));
    set("width", json!(width));
    set("channels", json!(channels));
    for name in listing::SPLITS {
        let of = splits.iter().zip(&written).find(|(c, _)| c.split == name);
        set(name, json!(of.map_or(0, |(_, w)| w.counts.iter().sum::<usize>())));
    }
    let digests = splits.iter().zip(&written);
    set("images", digests.map(|(c, w)| (c.split.to_owned(), json!(w.digest))).collect());
    if let Some(official) = official {
        set("official", official.into());
    }
    let normalise = match flags.normalise {
        Some(Normalisation::By(given)) => Some(given),
        None if !flags.dataset.is_files() => None,
        _ => {
            let value = |all: &[f64]| std::array::from_fn(|channel| all[channel]);
            // A channel of one value has no spread to divide by.
            let std = value(&train.std).map(|s: f64| s.max(1.0 / 255.0));
            Some(Normalise { mean: value(&train.mean), std })
        }
    };
    if let Some(normalise) = normalise {
        set("normalise", json!(normalise));
    }
    if let Origin::Files(found) = origin {
        if matches!(flags.dataset, Name::Folder | Name::List) {
            set("name", json!(found.name()));
        }
        let preprocess = found.reading.preprocess;
        set("preprocess", json!(preprocess));
        if preprocess.resize.is_some() {
            set("crop", json!(preprocess.size));
        }
        let (leaks, first) = found.leaks();
        if let Some([train, test]) = first {
            log::warn!(
                "{leaks} test image{} also among the training images, byte for byte, such as {test}, \
                 which is {train}",
                if leaks == 1 { " is" } else { "s are" }
            );
            set("test_images_in_train", json!(leaks));
        }
        if !broken.is_empty() {
            let skipped: Vec<Value> = broken.iter().map(|b| json!({"path": b.name, "why": b.why})).collect();
            set("skipped", json!(skipped));
        }
    }
    writer.withdraw()?;
    let mut outputs: Vec<Produced> = written.into_iter().flat_map(|w| w.outputs).collect();
    for o in &outputs {
        rename(&staging.join(&o.name), &writer.dir().join(&o.name))?;
    }
    if let Origin::Files(found) = origin {
        let lines = found.tree.lines();
        write_atomic(&writer.dir().join(LIST), |f| f.write_all(lines.as_bytes()))?;
        let rows = Some(found.tree.files.len() as u64);
        outputs.push(Produced { role: "files", name: LIST.into(), rows });
    }
    fs::remove_dir_all(&staging).with_context(|| staging.display().to_string())?;
    Ok(Done { outputs, metrics, run: Object::new() })
}

/// Writes the splits into the directory `staging`.
fn write(flags: &Flags, splits: &[Chosen], staging: &Path, classes: usize) -> Result<Vec<Written>> {
    let shard_bytes = usize::try_from(flags.shard_bytes).unwrap_or(usize::MAX);
    let total = splits.iter().map(|c| c.chosen.len()).sum();
    let progress = terminal::progress(total, "images");
    let write = |c: &Chosen| c.write(staging, shard_bytes, classes, &|| progress.step());
    let written: Vec<Written> = splits.iter().map(write).collect::<Result<_, _>>()?;
    drop(progress);
    if interrupt::requested() {
        return Err(Interrupted.into());
    }
    let broken: Vec<_> = written.iter().flat_map(|w| &w.broken).collect();
    let has_changed = broken.iter().any(|b| b.why == CHANGED);
    if has_changed || !broken.is_empty() && flags.on_error == OnError::Fail {
        let first: Vec<String> = broken.iter().map(|b| format!("{}: {}", b.name, b.why)).collect();
        return Err(
            data::Error::Broken { count: broken.len(), all: total, first: listing::some(&first) }.into()
        );
    }
    Ok(written)
}
