//! `embed --images`: features, logits and predictions of image files that are in no data set.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Value, json};

use super::{FEATURES, Flags, TOP, encode, produced};
use crate::backend::cpu::infer::{self, Folded};
use crate::backend::{Inference, levels};
use crate::cli::checkpoints::check_out;
use crate::cli::files::{check_skipped, hash_files};
use crate::cli::models::{Model, models};
use crate::cli::{only_on_cpu, run_plan, terminal};
use crate::data::files::Reading;
use crate::data::files::decode::{self, MAX_PIXELS, is_image};
use crate::data::files::tree::{LIST, Tree};
use crate::data::listing::PassedOver;
use crate::data::listing::folder::{self, LINE_BREAK, NOT_UTF8};
use crate::data::shard::centre_rows;
use crate::data::{CHANNELS, Error, Normalise, Unreadable, names_id};
use crate::interrupt;
use crate::manifest::store::{Done, Plan, Produced, Writer, write_atomic};
use crate::manifest::{Input, Kind, Object, in_utf8, key, object, store};
use crate::metrics;
use crate::net::files;
use crate::simd::value::Value as _;

/// Version of the output, to which that of decoding is added; raised like [`super::SEMANTICS`]. 3: lists with
/// repeated lines have keys of their own.
const SEMANTICS: u32 = 3;

/// File name of the table of predictions.
const PREDICTIONS: &str = "predictions.csv";

/// Images to predict.
struct Found {
    /// The directory that paths are relative to.
    root: PathBuf,
    /// The paths, in the order of the table.
    paths: Vec<String>,
    /// Paths that are left out because of their names, each with the reason.
    unlisted: Vec<[String; 2]>,
    tree: Tree,
}

/// Predicts the images that `--images` names, with each checkpoint.
///
/// # Errors
/// Returns an error if there are no images or no checkpoint or if the work fails, and
/// [`CheckFailed`](crate::cli::CheckFailed) if some images cannot be read.
pub fn run(flags: &Flags, images: &Path) -> Result<()> {
    only_on_cpu(&flags.common.device, "--images")?;
    let checkpoints = &flags.input.checkpoints;
    let mut inputs = checkpoints.iter().chain(&flags.input.data);
    let is_stdin_taken = checkpoints.is_empty() || inputs.any(|path| path.as_os_str() == "-");
    if images == Path::new("-") && is_stdin_taken {
        bail!("--images -: paths are read from stdin, so neither checkpoints nor --data can be");
    }
    let models = models(&flags.input, "embed")?;
    check_out(flags.common.out.as_deref(), models.len())?;
    let found = find(images)?;
    let predicted = |model: &Model| {
        run_plan(&plan(model, flags, &found), &flags.common, |w| work(w, model, flags, &found))
    };
    check_skipped(&models.iter().map(predicted).collect::<Result<Vec<_>>>()?)
}

/// Finds the images of a directory, of a file of paths or of stdin, or a single image.
fn find(images: &Path) -> Result<Found> {
    const EXPECTED: &str = "pass an image, a directory of images or a list of their paths";
    let shown = format!("--images {}", images.display());
    if images != Path::new("-") {
        fs::metadata(images).map_err(|e| match e.kind() {
            ErrorKind::NotFound => anyhow!("{shown}: there is no such file or directory; {EXPECTED}"),
            _ => anyhow!("{shown}: {e}; {EXPECTED}"),
        })?;
    }
    let mut passed_over = PassedOver::default();
    let mut unlisted = vec![];
    let (root, paths) = if images.is_dir() {
        let paths = folder::images(images, "", &mut passed_over, |e| match e {
            Error::Listing { path, why } => {
                let path = path.strip_prefix(images).unwrap_or(&path);
                unlisted.push([path.to_string_lossy().into_owned(), why]);
                Ok(())
            }
            e => Err(e),
        });
        (images.to_owned(), paths?)
    } else if images != Path::new("-") && images.to_str().is_some_and(is_image) {
        in_utf8(images)?;
        (PathBuf::from("."), vec![images.to_string_lossy().into_owned()])
    } else {
        let mut bytes = vec![];
        let read = match images == Path::new("-") {
            true => io::stdin().read_to_end(&mut bytes),
            false => fs::File::open(images).and_then(|mut file| file.read_to_end(&mut bytes)),
        };
        read.with_context(|| shown.clone())?;
        ensure!(
            !bytes.contains(&0),
            "{shown}: its name is not that of an image, and its content is not a list of paths"
        );
        let (paths, odd) = paths_of(&bytes);
        unlisted = odd;
        // A text that is no list is told from a list of images that are gone.
        if let Some(first) = paths.first()
            && !paths.iter().any(|path| is_image(path) || Path::new(path).exists())
        {
            bail!("{shown}: is not a list of images: there is no file {first:?}; {EXPECTED}");
        }
        (PathBuf::from("."), paths)
    };
    // The order in which a directory is read is that of the file system.
    unlisted.sort_unstable();
    if let (true, Some([path, why])) = (paths.is_empty(), unlisted.first()) {
        bail!("{shown}: {path:?} {why}");
    }
    ensure!(!paths.is_empty(), "{shown}: there are no images");
    passed_over.notices().iter().for_each(|notice| log::info!("{notice}"));
    let files: BTreeSet<&String> = paths.iter().collect();
    let tree = hash_files(&root, files.into_iter().cloned().collect())?;
    Ok(Found { root, paths, unlisted, tree })
}

/// Splits a list into its paths and the lines that cannot be paths of a table, each with the reason.
fn paths_of(list: &[u8]) -> (Vec<String>, Vec<[String; 2]>) {
    let (mut paths, mut odd) = (vec![], vec![]);
    for line in list.strip_prefix(b"\xef\xbb\xbf").unwrap_or(list).split(|byte| *byte == b'\n') {
        let path = String::from_utf8_lossy(line).trim_end_matches('\r').to_owned();
        if str::from_utf8(line).is_err() {
            odd.push([path, NOT_UTF8.to_owned()]);
        } else if path.contains('\r') {
            odd.push([path, LINE_BREAK.to_owned()]);
        } else if !path.is_empty() {
            paths.push(path);
        }
    }
    (paths, odd)
}

fn plan(model: &Model, flags: &Flags, found: &Found) -> Plan {
    let mut params = object(json!({
        "which": model.which,
        "arch": model.arch.to_string(),
        "preprocess": model.preprocess,
    }));
    if model.normalise != Normalise::CIFAR {
        params.insert("mean".into(), json!(model.normalise.mean));
        params.insert("std".into(), json!(model.normalise.std));
    }
    params.insert("top".into(), json!(flags.top.unwrap_or(TOP)));
    // There may be many names, and they are in the result, so a hash of them suffices.
    params.insert("class_names".into(), names_id(&model.class_names).into());
    if let Some(most) = flags.max_pixels.filter(|most| *most != MAX_PIXELS) {
        params.insert("max_pixels".into(), most.into());
    }
    if !found.unlisted.is_empty() {
        params.insert("unlisted".into(), json!(found.unlisted));
    }
    if let Some(order) = order_of(&found.paths) {
        params.insert("order".into(), order.into());
    }
    let images = Input::new("images", store::absolute(&found.root), found.tree.blake3());
    let inputs = vec![model.input.clone(), images];
    let usual = |key: &str| {
        let name = format!("{}-images-{}-{}", model.name, model.which, key::short(key));
        Path::new("embeddings").join(name)
    };
    let dir = |key: &str| flags.common.out.clone().unwrap_or_else(|| usual(key));
    Plan::new(Kind::Embedding, SEMANTICS + decode::SEMANTICS, params, inputs, dir)
}

/// Returns a hash of the paths of the rows, unless the files' hash determines them: it does not cover their
/// order and repetitions.
fn order_of(paths: &[String]) -> Option<String> {
    (!paths.is_sorted_by(|a, b| a < b)).then(|| names_id(paths))
}

fn work(writer: &Writer, model: &Model, flags: &Flags, found: &Found) -> Result<Done> {
    writer.begin(&[FEATURES, PREDICTIONS, LIST])?;
    let (out, skipped) = predict(model, flags, found)?;
    let broken: HashSet<usize> = skipped.iter().map(|(n, _)| *n).collect();
    let kept: Vec<usize> = (0..found.paths.len()).filter(|n| !broken.contains(n)).collect();
    if let (true, Some((n, why))) = (kept.is_empty(), skipped.first()) {
        let path = &found.paths[*n];
        match skipped.len() {
            1 => bail!("{path}: {why}"),
            count => bail!("none of the {count} images can be read: {path}: {why}"),
        }
    }
    let out = Inference {
        logits: rows(&out.logits, out.classes, &kept),
        features: rows(&out.features, out.feature_len, &kept),
        ..out
    };
    let mut numbers = object(json!({
        "images": kept.len(),
        "classes": out.classes,
        "feature_len": out.feature_len,
        "class_names": model.class_names,
    }));
    let paths: Vec<&str> = kept.iter().map(|&n| &*found.paths[n]).collect();
    let table = table(&out, &paths, &model.class_names, flags.top.unwrap_or(TOP) as usize)?;
    let index = |&n: &usize| found.tree.row(&found.paths[n]).expect("the tree has all paths") as u32;
    let features = encode(out, kept.iter().map(index).collect(), None)?;
    writer.withdraw()?;
    let files = [(FEATURES, features), (PREDICTIONS, table), (LIST, found.tree.lines().into_bytes())];
    for (name, bytes) in files {
        write_atomic(&writer.dir().join(name), |f| f.write_all(&bytes))?;
    }
    let read = skipped.iter().map(|(n, why)| (&found.paths[*n], &**why));
    let unlisted = found.unlisted.iter().map(|[path, why]| (path, &**why));
    let skipped: Vec<Value> =
        read.chain(unlisted).map(|(path, why)| json!({"path": path, "why": why})).collect();
    if !skipped.is_empty() {
        numbers.insert("skipped".into(), skipped.into());
    }
    let mut run = Object::new();
    run.insert("instruction_set".into(), f32::isa().name().into());
    let outputs = vec![
        produced(kept.len()),
        Produced { role: "predictions", name: PREDICTIONS.into(), rows: Some(kept.len() as u64) },
        Produced { role: "files", name: LIST.into(), rows: Some(found.tree.files.len() as u64) },
    ];
    Ok(Done { outputs, metrics: numbers, run })
}

/// Computes the logits and features of all images. Also returns the indices of those that could not be read,
/// with the reasons.
fn predict(model: &Model, flags: &Flags, found: &Found) -> Result<(Inference, Vec<(usize, String)>)> {
    let params = files::open_for(&model.weights, &model.arch.network(), model.class_names.len())?;
    let max_pixels = flags.max_pixels.unwrap_or(MAX_PIXELS);
    let reading = Reading { preprocess: model.preprocess, max_pixels };
    let (size, stored) = (model.preprocess.size, model.preprocess.stored());
    let net = Folded::new(&params, [size, size, CHANNELS])?;
    let levels = levels(&model.normalise.mean, &model.normalise.std);
    let broken = Mutex::new(vec![]);
    let progress = terminal::progress(found.paths.len(), &format!("images through {}", model.name));
    let image = |n: usize, pixels: &mut [f32]| {
        if interrupt::requested() {
            return;
        }
        let mut bytes = vec![0; stored * stored * CHANNELS];
        let path = &found.paths[n];
        let row = found.tree.row(path).expect("the tree has all paths");
        match reading.read(&found.root.join(path), &found.tree.files[row].1, &mut bytes) {
            Ok(()) => {
                let rows = centre_rows(&bytes, [stored, stored, CHANNELS], [size, size, CHANNELS]);
                infer::normalise(rows, &levels, pixels);
            }
            Err(why) => {
                pixels.fill(0.0);
                broken.lock().expect("no thread panics while it holds the list").push((n, why));
            }
        }
        progress.step();
    };
    let out = net.forward(found.paths.len(), infer::BATCH, image)?;
    drop(progress);
    interrupt::check()?;
    let mut broken = broken.into_inner().expect("no thread panicked");
    broken.sort_unstable_by_key(|(n, _)| *n);
    if let Some((n, why)) = broken.iter().find(|(_, why)| matches!(why, Unreadable::Changed)) {
        bail!("{}: {why}", found.paths[*n]);
    }
    Ok((out, broken.into_iter().map(|(n, why)| (n, why.to_string())).collect()))
}

/// Returns some rows of a matrix.
fn rows(values: &[f32], width: usize, kept: &[usize]) -> Vec<f32> {
    kept.iter().flat_map(|n| &values[n * width..(n + 1) * width]).copied().collect()
}

/// Formats the CSV table `path,class,probability,class_2,probability_2,…`.
fn table(out: &Inference, paths: &[&str], class_names: &[String], top: usize) -> Result<Vec<u8>> {
    let top = top.min(out.classes);
    let mut writer = csv::Writer::from_writer(vec![]);
    let suffix = |n: usize| if n == 0 { String::new() } else { format!("_{}", n + 1) };
    let columns = (0..top).flat_map(|n| ["class", "probability"].map(|name| format!("{name}{}", suffix(n))));
    writer.write_record(std::iter::once("path".to_owned()).chain(columns))?;
    for (path, logits) in paths.iter().zip(out.logits.chunks_exact(out.classes)) {
        let shares = metrics::softmax(logits);
        let mut order: Vec<usize> = (0..out.classes).collect();
        // Of classes with equal logits the first one comes first, as everywhere.
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        let cells = order[..top]
            .iter()
            .flat_map(|&class| [class_names[class].clone(), format!("{:.6}", shares[class])]);
        writer.write_record(std::iter::once((*path).to_owned()).chain(cells))?;
    }
    writer.into_inner().context("a table in memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ordinary_lists_have_a_key_without_their_order() {
        let order = |list: &str| order_of(&list.split(',').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!([order("a"), order("a,b")], [None, None]);
        let others = [order("b,a"), order("a,a,b"), order("a,b,b")];
        assert!(others.iter().all(Option::is_some));
        assert_eq!(BTreeSet::from(others).len(), 3, "each has its own");
    }

    #[test]
    fn lists_are_split_into_paths_and_odd_lines() {
        let (paths, odd) = paths_of(b"\xef\xbb\xbfa.png\r\n\nb c.png\nd\re.png\n\xff.png\r\n");
        assert_eq!(paths, ["a.png", "b c.png"]);
        let expected = [["d\re.png", LINE_BREAK], ["\u{fffd}.png", NOT_UTF8]];
        assert_eq!(odd, expected.map(|pair| pair.map(str::to_owned)));
    }
}
