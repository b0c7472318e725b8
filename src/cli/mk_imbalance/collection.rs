//! Image files as the source of a data set: found, assigned to classes and splits, chosen and hashed before
//! any of them is decoded.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::flags::{self, Flags, Name};
use crate::cli::files::hash_files;
use crate::cli::safe_name;
use crate::data::files::{Files, Reading, tree::Tree};
use crate::data::imbalance::{self, Draw};
use crate::data::listing::{self, Cut, Entry, Listing, Order, Read, SPLITS, folder, layouts, list, some};
use crate::manifest::{Input, Object, in_utf8, store};

/// The files of a data set, and which of them are its images.
pub struct Collection {
    /// All labelled files.
    pub listing: Listing,
    /// The hashes of the files.
    pub tree: Tree,
    /// How each file is read and preprocessed.
    pub reading: Reading,
    /// The training images that are kept.
    pub draw: Draw,
    /// Whether the splits are as large as the published ones.
    pub official: Option<bool>,
    /// Which splits were cut from the training images.
    cut: [bool; 3],
    /// Other files whose content affects the result.
    read: Vec<Read>,
}

impl Collection {
    /// Finds the files that the flags ask for, and logs what users should know about them.
    ///
    /// # Errors
    /// Returns an error if files are not as they should be, or if they cannot provide the profile.
    pub fn find(flags: &Flags) -> Result<Collection> {
        let reading = flags.reading()?;
        let root = flags.data.as_deref().context("--data PATH is required: the directory of the images")?;
        if !root.is_dir() {
            let why = if root.exists() { "is a file, no directory" } else { "there is no such directory" };
            bail!("{}: {why}; --data must be the directory of the images", root.display());
        }
        let mut listing = read_listing(flags, root)?;
        // Before any error that these notices may explain.
        listing.passed_over.notices().iter().for_each(|notice| log::info!("{notice}"));
        let mut read = std::mem::take(&mut listing.read);
        listing.settle_splits();
        listing.check_paths()?;
        // Before classes are numbered or named, so that neither changes which images are held out.
        let cut = cut(&mut listing, flags)?;
        order_classes(&mut listing, flags, &mut read)?;
        let unnatural = listing.unnatural().map(|pair| pair.map(str::to_owned));
        let unnatural = unnatural.filter(|_| flags.class_order.is_none() && !listing.is_numbered);
        rename_classes(&mut listing, flags, &mut read)?;
        let (dropped, lost) = drop_classes(&mut listing, flags)?;
        let official = match flags.dataset {
            Name::Cinic10 => Some(layouts::is_official(&listing, [9_000; 3])),
            Name::TinyImagenet => {
                Some(listing.class_names.len() == 200 && layouts::is_official(&listing, [500, 0, 50]))
            }
            _ => None,
        };
        let draw = draw(&listing, flags)?;
        tell(&listing, &dropped, lost, unnatural, official);
        let paths: Vec<String> = listing.splits.iter().flatten().map(|e| e.path.clone()).collect();
        let tree = hash_files(root, paths)?;
        Ok(Collection { listing, tree, reading, draw, official, cut, read })
    }

    /// Returns the inputs of the data set: all images as one, and each other file that affects the result.
    ///
    /// # Errors
    /// Returns an error if a path is not UTF-8.
    pub fn inputs(&self) -> Result<Vec<Input>> {
        let path = store::absolute(&self.listing.root);
        in_utf8(&path)?;
        let mut inputs = vec![Input::new("images", path, self.tree.blake3())];
        for Read { role, path, blake3 } in &self.read {
            let path = store::absolute(path);
            in_utf8(&path)?;
            inputs.push(Input::new(role, path, blake3.clone()));
        }
        Ok(inputs)
    }

    /// Adds the parameters that, besides the files, can change the result.
    pub fn params(&self, flags: &Flags, params: &mut Object) {
        let mut set = |name: &str, value: serde_json::Value| params.insert(name.into(), value);
        let preprocess = self.reading.preprocess;
        set("size", json!(preprocess.size));
        if let Some(resize) = preprocess.resize {
            set("resize", json!(resize));
        }
        if preprocess.squash {
            set("squash", json!(true));
        }
        if let Some(order) = flags.class_order.as_deref().filter(|order| *order != "lexical") {
            let is_file = self.read.iter().any(|file| file.role == "class-order");
            set("class_order", json!(if is_file { "file" } else { order }));
        }
        if flags.drop_empty {
            set("drop_empty", json!(true));
        }
        let cut = flags.cut();
        if self.cut[2] {
            set("test_fraction", json!(cut.test));
        }
        if self.cut[1] || self.cut[2] {
            set("split_seed", json!(cut.seed));
        }
        if let Some(most) = flags.max_per_class {
            set("max_per_class", json!(most));
        }
        if flags.on_error() == super::flags::OnError::Skip {
            set("on_error", json!("skip"));
            set("max_pixels", json!(self.reading.max_pixels));
        }
    }

    /// Returns the name of the images' directory, without characters that a file name should not have.
    pub fn name(&self) -> Option<String> {
        let root = self.listing.root.canonicalize().unwrap_or_else(|_| self.listing.root.clone());
        safe_name(&root.file_name()?.to_string_lossy())
    }

    /// Returns the images of a split.
    pub fn files(&self, split: usize) -> Files<'_> {
        let entries = &self.listing.splits[split];
        let row = |e: &Entry| self.tree.row(&e.path).expect("the tree has all files") as u32;
        Files {
            root: &self.listing.root,
            tree: &self.tree,
            rows: entries.iter().map(row).collect(),
            labels: entries.iter().map(|e| e.label).collect(),
            reading: self.reading,
        }
    }

    /// Returns how many test images are, byte for byte, among the training images, and the first such pair.
    pub fn leaks(&self) -> (usize, Option<[&str; 2]>) {
        let hash = |e: &Entry| self.tree.hash_of(&e.path);
        let drawn = self.draw.train.iter().map(|&i| &self.listing.splits[0][i as usize]);
        let known: HashMap<&str, &str> = drawn.filter_map(|e| Some((hash(e)?, &*e.path))).collect();
        let test = self.listing.splits[2].iter();
        let both: Vec<[&str; 2]> = test.filter_map(|e| Some([*known.get(hash(e)?)?, &*e.path])).collect();
        (both.len(), both.first().copied())
    }
}

/// Reads which files there are, and their classes and splits.
fn read_listing(flags: &Flags, root: &Path) -> Result<Listing> {
    let lists = [&flags.train_list, &flags.val_list, &flags.test_list].map(|file| file.as_deref());
    let json = [&flags.train_json, &flags.val_json].map(|file| file.as_deref());
    Ok(match flags.dataset {
        Name::List => list::read(root, lists)?,
        Name::Inaturalist => layouts::inaturalist(root, json)?,
        Name::Cinic10 => layouts::cinic10(root)?,
        Name::TinyImagenet => layouts::tiny_imagenet(root)?,
        Name::Folder => folder::read(root)?,
        Name::Cifar10 | Name::Cifar100 | Name::Synthetic => {
            bail!("--dataset {}: is not a collection of image files", flags::name(flags.dataset))
        }
    })
}

/// Numbers the classes as `--class-order` asks, and adds its file to those that were `read`.
fn order_classes(listing: &mut Listing, flags: &Flags, read: &mut Vec<Read>) -> Result<()> {
    let order = match flags.class_order.as_deref() {
        None => return Ok(()),
        Some("lexical") => Order::Lexical,
        Some("natural") => Order::Natural,
        Some("frequency") => Order::Frequency,
        Some(file) if !Path::new(file).exists() => {
            bail!("--class-order {file}: is not lexical, natural or frequency, and there is no such file")
        }
        Some(file) => {
            let (names, file) =
                listing::read_names("class-order", Path::new(file)).context("--class-order")?;
            read.push(file);
            Order::Names(names)
        }
    };
    Ok(listing.order(&order)?)
}

/// Gives the classes the names of `--class-names`, and adds its file to those that were `read`.
fn rename_classes(listing: &mut Listing, flags: &Flags, read: &mut Vec<Read>) -> Result<()> {
    let Some(file) = &flags.class_names else { return Ok(()) };
    let (names, named) = listing::read_names("class-names", file).context("--class-names")?;
    read.push(named);
    let mut sorted = [listing.class_names.clone(), names.clone()];
    sorted.iter_mut().for_each(|names| names.sort_unstable());
    if sorted[0] == sorted[1] && names != listing.class_names {
        log::warn!(
            "--class-names {}: has the names of the classes in another order, so classes get each other's \
             names; --class-order changes their order instead",
            file.display()
        );
    }
    Ok(listing.rename(names)?)
}

/// Leaves out classes without training images. Returns their names, and the number of test images that were
/// left out with them.
fn drop_classes(listing: &mut Listing, flags: &Flags) -> Result<(Vec<String>, usize)> {
    let tests = listing.splits[2].len();
    let dropped = listing.check_classes(flags.drop_empty)?;
    let lost = tests - listing.splits[2].len();
    if lost > 0 && lost == tests {
        bail!(
            "{}: no test images are left: all belong to classes without training images ({}); check that \
             training and test images have the same class names",
            listing.root.display(),
            some(&dropped)
        );
    }
    Ok((dropped, lost))
}

/// Cuts the missing splits from the training images. Returns which ones were cut.
fn cut(listing: &mut Listing, flags: &Flags) -> Result<[bool; 3]> {
    let is_there = |split: usize| !listing.splits[split].is_empty();
    let cuts = [false, flags.val_fraction > 0.0 && !is_there(1), !is_there(2)];
    for (flag, asked, split) in
        [("test-fraction", flags.test_fraction.is_some(), 2), ("val-fraction", flags.val_fraction > 0.0, 1)]
    {
        if asked && is_there(split) {
            bail!("--{flag}: does nothing here; there is already a {} split", SPLITS[split]);
        }
    }
    if flags.split_seed.is_some() && !cuts.contains(&true) {
        bail!("--split-seed: does nothing here; no split is drawn");
    }
    let Cut { test, val, .. } = flags.cut();
    if cuts[2] && val + test >= 1.0 {
        bail!(
            "--val-fraction {val} and --test-fraction {test}: must add up to less than 1, so that images are \
             left to train on"
        );
    }
    let before = listing.splits[0].len();
    let small = listing.cut(flags.cut());
    // Nothing can be held out of a single image; an error explains that better.
    for split in [2, 1].into_iter().filter(|split| cuts[*split] && before > 1) {
        let (name, n) = (SPLITS[split], listing.splits[split].len());
        let are = if n == 1 { "is" } else { "are" };
        let (flag, share) = if split == 2 { ("--test-fraction", test) } else { ("--val-fraction", val) };
        log::info!(
            "there is no {name} split: {n} of the {before} images {are} held out for it, by class ({flag} {share})"
        );
    }
    if !small.is_empty() {
        let classes = listing::classes(small.len());
        log::warn!(
            "{classes} too small to have images in every split; their images go to the training split \
             first: {}",
            some(&small)
        );
    }
    // If there are no images at all, another error explains it better.
    if listing.splits[2].is_empty() && before > 0 {
        bail!("{}: no class has more than one image, so none is left to test on", listing.root.display());
    }
    Ok(cuts)
}

fn draw(listing: &Listing, flags: &Flags) -> Result<Draw> {
    let labels: Vec<u32> = listing.splits[0].iter().map(|e| e.label).collect();
    let most = flags.max_per_class.map(|n| n as usize);
    let profile = flags.profile();
    let available = imbalance::count(&labels, listing.class_names.len());
    let wanted = imbalance::wanted(&available, profile, most)?;
    let draw = imbalance::draw_unbalanced(&labels, &available, &wanted, profile, flags.rand_number());
    let is_none = profile == imbalance::Profile::None;
    let short = wanted.iter().zip(&available).enumerate().filter(|(_, (n, have))| n > have && !is_none);
    let short: Vec<String> =
        short.map(|(label, (n, have))| format!("{} ({have} of {n})", listing.class_names[label])).collect();
    if !short.is_empty() {
        let classes = listing::classes(short.len());
        log::warn!(
            "all images are taken of {classes} with fewer than the profile asks for: {}",
            some(&short)
        );
    }
    Ok(draw)
}

/// Logs what users should know about the files.
fn tell(
    listing: &Listing,
    dropped: &[String],
    lost: usize,
    unnatural: Option<[String; 2]>,
    official: Option<bool>,
) {
    if !dropped.is_empty() {
        let classes = listing::classes(dropped.len());
        log::info!("left out {classes} without training images: {}", some(dropped));
    }
    if lost > 0 {
        log::warn!("also left out {lost} test image{} of these classes", if lost == 1 { "" } else { "s" });
    }
    if let Some([first, second]) = unnatural {
        log::info!(
            "classes are in lexical order, {first:?} before {second:?}; --class-order natural sorts them by \
             the numbers in their names"
        );
    }
    let untested: Vec<&String> = listing
        .class_names
        .iter()
        .zip(listing.counts(2))
        .filter(|(_, tests)| *tests == 0)
        .map(|(name, _)| name)
        .collect();
    if !untested.is_empty() {
        log::warn!("{} without test images: {}", listing::classes(untested.len()), some(&untested));
    }
    if official == Some(false) {
        log::warn!("the numbers of images differ from the published ones; the manifest records this");
    }
}
