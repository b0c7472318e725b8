//! The work of `mk-imbalance`: from the chosen images to shards, statistics and the manifest.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::Origin;
use super::collection::Collection;
use super::flags::{Flags, Name, Normalisation, OnError};
use crate::cli::terminal;
use crate::data::files::tree::LIST;
use crate::data::shard::{Broken, Chosen, Written};
use crate::data::{self, Images, Normalise, Unreadable, imbalance, listing, synthetic};
use crate::interrupt;
use crate::manifest::Object;
use crate::manifest::store::{Done, Produced, Writer, rename, write_atomic};

/// A split before it is written: its name, the images that it is chosen from, and the positions of the chosen
/// ones.
type Selection<'a> = (&'static str, Arc<dyn Images + 'a>, Vec<u32>);

/// A data set before it is written.
struct Prepared<'a> {
    class_names: Vec<String>,
    splits: Vec<Selection<'a>>,
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
            let splits: Vec<Selection> = vec![
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
    let draw = imbalance::draw(train.labels(), classes, profile, flags.val_fraction, flags.rand_number())?;
    let (train, test) = (Arc::new(train), Arc::new(test));
    let all_test = all(&*test);
    let splits: Vec<Selection> =
        vec![("train", train.clone(), draw.train), ("val", train, draw.val), ("test", test, all_test)];
    Ok(Prepared { class_names, splits, official })
}

/// Reads, draws and writes. The files in the directory stay until the new shards are safely on disk.
pub fn build(flags: &Flags, origin: &Origin, writer: &Writer) -> Result<Done> {
    let prepared = prepare(flags, origin)?;
    let shard_bytes = usize::try_from(flags.shard_bytes).unwrap_or(usize::MAX);
    let splits: Vec<Chosen> = prepared
        .splits
        .iter()
        .map(|(split, images, chosen)| Chosen { split, images: &**images, chosen })
        .filter(|c| !c.chosen.is_empty())
        .collect();
    let mut names: Vec<String> = splits.iter().flat_map(|c| c.names(shard_bytes)).collect();
    if let Origin::Files(_) = origin {
        names.push(LIST.into());
    }
    let staging = writer.begin_staged(&names)?;
    let written = write(&splits, &staging, shard_bytes, prepared.class_names.len()).inspect_err(|_| {
        // Shards of image files take long to make, so they are kept, and the same call continues with them.
        if !matches!(origin, Origin::Files(_)) {
            discard(&staging);
        }
    })?;
    // If an image has to be repaired, no call continues with the shards, because the key is then another.
    check(flags, &prepared.class_names, &splits, &written).inspect_err(|_| discard(&staging))?;
    let metrics = metrics(flags, origin, &prepared, &splits, &written);
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
    discard(&staging);
    Ok(Done { outputs, metrics, run: Object::new() })
}

/// Removes the directory of the staged shards. If it cannot be removed it is only litter, so this does not
/// replace the outcome of the work.
fn discard(staging: &Path) {
    if let Err(e) = fs::remove_dir_all(staging) {
        log::warn!("{}: cannot be removed: {e}; remove it, nothing needs it any more", staging.display());
    }
}

/// Writes the splits into the directory `staging`.
fn write(splits: &[Chosen], staging: &Path, shard_bytes: usize, classes: usize) -> Result<Vec<Written>> {
    let total = splits.iter().map(|c| c.chosen.len()).sum();
    let progress = terminal::progress(total, "images");
    let write = |c: &Chosen| c.write(staging, shard_bytes, classes, &|| progress.step());
    let written: Vec<Written> = splits.iter().map(write).collect::<Result<_, _>>()?;
    drop(progress);
    interrupt::check()?;
    Ok(written)
}

/// Returns the first remedy for broken images other than repairing them, as the beginning of a list.
fn first_remedy<'a>(mut broken: impl Iterator<Item = &'a Broken>) -> String {
    broken.find_map(|b| b.why.remedy()).map_or_else(String::new, |what| format!("{what}, or "))
}

/// Refuses images that cannot be read, unless they are to be skipped and enough others are left.
fn check(flags: &Flags, class_names: &[String], splits: &[Chosen], written: &[Written]) -> Result<()> {
    let broken: Vec<&Broken> = written.iter().flat_map(|w| &w.broken).collect();
    let all = splits.iter().map(|c| c.chosen.len()).sum();
    let has_changed = |b: &&&Broken| matches!(b.why, Unreadable::Changed);
    let changed: Vec<&str> = broken.iter().filter(has_changed).map(|b| b.name.as_str()).collect();
    if !changed.is_empty() {
        let (count, first) = (changed.len(), listing::some(&changed));
        return Err(data::Error::Changed { count, all, first }.into());
    }
    let remedy = broken.iter().find_map(|b| b.why.remedy());
    if !broken.is_empty() && flags.on_error() == OnError::Fail {
        let listed: Vec<String> = broken.iter().map(|b| format!("{}: {}", b.name, b.why)).collect();
        let (count, first) = (broken.len(), listing::some_texts(&listed));
        return Err(data::Error::Broken { count, all, first, remedy }.into());
    }
    if let Some(label) = written[0].counts.iter().position(|n| *n == 0) {
        bail!(
            "class {:?} has no training image that can be read; {}repair its images",
            class_names[label],
            first_remedy(written[0].broken.iter().filter(|b| b.label as usize == label))
        );
    }
    let test = splits.iter().zip(written).find(|(c, _)| c.split == "test");
    if let Some((_, test)) = test.filter(|(_, w)| w.counts.iter().all(|n| *n == 0)) {
        bail!("no test image can be read; {}repair some of them", first_remedy(test.broken.iter()));
    }
    Ok(())
}

/// Returns what the manifest records of the data set.
fn metrics(
    flags: &Flags,
    origin: &Origin,
    prepared: &Prepared,
    splits: &[Chosen],
    written: &[Written],
) -> Object {
    let mut metrics = Object::new();
    let mut set = |name: &str, value: Value| metrics.insert(name.into(), value);
    let train = &written[0];
    let [height, width, channels] = splits[0].images.shape();
    set("classes", json!(prepared.class_names.len()));
    set("class_names", json!(prepared.class_names));
    set("cls_num_list", json!(train.counts));
    set("mean", json!(train.mean));
    set("std", json!(train.std));
    set("height", json!(height));
    set("width", json!(width));
    set("channels", json!(channels));
    let all = || splits.iter().zip(written);
    for name in listing::SPLITS {
        let of = all().find(|(c, _)| c.split == name);
        set(name, json!(of.map_or(0, |(_, w)| w.counts.iter().sum::<usize>())));
    }
    set("images", all().map(|(c, w)| (c.split.to_owned(), json!(w.digest))).collect());
    if let Some(official) = prepared.official {
        set("official", official.into());
    }
    if let Some(normalise) = normalise(flags, train) {
        set("normalise", json!(normalise));
    }
    if let Origin::Files(found) = origin {
        add_files(flags, found, written, &mut metrics);
    }
    metrics
}

/// Returns what images are normalised by, unless it is the usual values for CIFAR.
fn normalise(flags: &Flags, train: &Written) -> Option<Normalise> {
    match flags.normalise {
        Some(Normalisation::By(given)) => Some(given),
        None if !flags.dataset.is_files() => None,
        _ => {
            let value = |all: &[f64]| std::array::from_fn(|channel| all[channel]);
            // A channel of one value has no spread to divide by.
            let std = value(&train.std).map(|s: f64| s.max(1.0 / 255.0));
            Some(Normalise { mean: value(&train.mean), std })
        }
    }
}

/// Adds what the manifest records of image files, and warns of test images among the training images.
fn add_files(flags: &Flags, found: &Collection, written: &[Written], metrics: &mut Object) {
    let mut set = |name: &str, value: Value| metrics.insert(name.into(), value);
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
            "{leaks} test image{} also among the training images, byte for byte, such as {test}, which is \
             {train}",
            if leaks == 1 { " is" } else { "s are" }
        );
        set("test_images_in_train", json!(leaks));
    }
    let broken = written.iter().flat_map(|w| &w.broken);
    let skipped: Vec<Value> = broken.map(|b| json!({"path": b.name, "why": b.why.to_string()})).collect();
    if !skipped.is_empty() {
        set("skipped", skipped.into());
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use clap::Parser;
    use image::RgbImage;

    use super::*;
    use crate::manifest::Kind;
    use crate::manifest::store::{Claim, Plan};

    /// Builds a data set of three files, of which `broken` is not an image, and `changed` is replaced after it
    /// was hashed. Returns the error.
    fn refused(dir: &Path, broken: &str, changed: Option<&str>, on_error: &str) -> String {
        let [data, out] = ["data", "out"].map(|name| dir.join(name));
        for name in ["train/a/0.png", "train/b/0.png", "test/a/0.png"] {
            let path = data.join(name);
            fs::create_dir_all(path.parent().expect("a directory")).expect("made");
            match name == broken {
                true => fs::write(path, "text").expect("written"),
                false => RgbImage::new(9, 9).save(path).expect("written"),
            }
        }
        let given = ["--dataset", "folder", "--size", "8", "--on-error", on_error, "--data"];
        let args = ["mk-imbalance"].into_iter().chain(given).chain(data.to_str());
        let flags = Flags::try_parse_from(args).expect("flags");
        let origin = Origin::Files(Box::new(Collection::find(&flags).expect("images")));
        changed.into_iter().for_each(|name| fs::write(data.join(name), "other").expect("written"));
        let (params, inputs) = (Object::new(), vec![]);
        let plan = Plan { kind: Kind::Dataset, semantics: 1, params, inputs, dir: out, file: None };
        let Ok(Claim::Work(writer)) = plan.claim(false, || ()) else { panic!("nothing is there yet") };
        let Err(error) = build(&flags, &origin, &writer) else { panic!("an image is broken") };
        error.to_string()
    }

    #[test]
    fn nothing_is_left_if_an_image_must_be_repaired() {
        let changed = Some("train/a/0.png");
        for (broken, changed, on_error, why) in [
            ("train/b/0.png", None, "fail", "1 of 3 images cannot be read: train/b/0.png: is not an image"),
            ("train/b/0.png", None, "skip", "class \"b\" has no training image that can be read; repair"),
            ("test/a/0.png", None, "skip", "no test image can be read; repair"),
            ("test/a/0.png", changed, "skip", "1 of 3 images changed while the data set was made: train/a/0"),
        ] {
            let dir = tempfile::tempdir().expect("a directory");
            let error = refused(dir.path(), broken, changed, on_error);
            assert!(error.starts_with(why), "{error}");
            let left: Vec<PathBuf> = fs::read_dir(dir.path())
                .expect("listed")
                .map(|entry| entry.expect("an entry").path())
                .collect();
            assert_eq!(left, [dir.path().join("data")], "{broken} {on_error}");
        }
    }
}
