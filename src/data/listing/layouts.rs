//! The layouts of published data sets: CINIC-10, Tiny-ImageNet-200, iNaturalist 2018.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::list::{MOST, Resolver};
use super::{Entry, Listing, Read, folder, number};
use crate::data::Error;
use crate::manifest::json_fault;

/// Reads CINIC-10: folders of ten classes in `train`, `valid` and `test`.
///
/// # Errors
/// Returns an error if the layout differs.
pub fn cinic10(root: &Path) -> Result<Listing, Error> {
    let has_splits = ["train", "valid", "test"].iter().all(|split| root.join(split).is_dir());
    let listing = if has_splits { folder::read(root)? } else { Listing::default() };
    if listing.class_names.len() != 10 || listing.splits.iter().any(Vec::is_empty) {
        let why = "is not CINIC-10, which has folders of ten classes in train, valid and test".into();
        return Err(Error::Listing { path: root.to_owned(), why });
    }
    Ok(listing)
}

/// Returns whether every class has the published number of images, `each[split]`, in each split.
pub fn is_official(listing: &Listing, each: [usize; 3]) -> bool {
    (0..3).all(|split| listing.counts(split).iter().all(|&n| n == each[split]))
}

/// Reads Tiny-ImageNet-200: `train/WNID/images`, and `val/images` with `val/val_annotations.txt`.
///
/// Labels are the ranks of the sorted WordNet numbers. The test images have no labels and are ignored.
///
/// # Errors
/// Returns an error if the layout differs.
pub fn tiny_imagenet(root: &Path) -> Result<Listing, Error> {
    let mut listing = Listing { root: root.to_owned(), ..Listing::default() };
    let train = root.join("train");
    let annotations = root.join("val/val_annotations.txt");
    if !train.is_dir() || !annotations.is_file() {
        let why = "is not Tiny-ImageNet-200, which has folders of 200 classes in train, and \
                   val/val_annotations.txt";
        return Err(listing.fail(why.into()));
    }
    let names = folder::directories(&train, &mut listing.passed_over)?;
    for (label, name) in (0..).zip(&names) {
        let files = folder::images(root, &format!("train/{name}"), &mut listing.passed_over, Err)?;
        listing.splits[0].extend(files.into_iter().map(|path| Entry { path, label }));
    }
    let text = fs::read_to_string(&annotations).map_err(Error::io(&annotations))?;
    let labels: HashMap<&str, u32> = names.iter().map(|name| &**name).zip(0..).collect();
    for (n, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let bad = |why: String| Error::Listing { path: annotations.clone(), why };
        let mut parts = line.split('\t');
        let (Some(file), Some(wnid)) = (parts.next(), parts.next()) else {
            return Err(bad(format!("line {} does not consist of a file, a tab and a class", n + 1)));
        };
        let label = labels.get(wnid.trim());
        let label = *label
            .ok_or_else(|| bad(format!("line {} names the class {wnid}, which is not in train", n + 1)))?;
        listing.splits[1].push(Entry { path: format!("val/images/{file}"), label });
    }
    if listing.splits[1].is_empty() {
        return Err(Error::Listing { path: annotations, why: "lists no images".into() });
    }
    // Sort by class, as with folders; within a class, keep the order of the file.
    listing.splits[1].sort_by_key(|entry| entry.label);
    Resolver::default().check(root, &annotations, &mut listing.splits[1])?;
    listing.read.push(Read::new("list", &annotations, text.as_bytes()));
    listing.class_names = names;
    Ok(listing)
}

/// A file of iNaturalist 2018; its other fields are not needed.
#[derive(Deserialize)]
struct Coco {
    images: Vec<Image>,
    #[serde(default)]
    annotations: Vec<Annotation>,
    #[serde(default)]
    categories: Vec<Category>,
}

#[derive(Deserialize)]
struct Image {
    id: u64,
    file_name: String,
}

#[derive(Deserialize)]
struct Annotation {
    image_id: u64,
    category_id: u32,
}

#[derive(Deserialize)]
struct Category {
    id: u32,
    name: String,
}

/// Reads image files in the order of JSON files of iNaturalist 2018, with the category's number as the label.
///
/// # Errors
/// Returns an error if a file is not of this format, or if an image has no label or does not exist.
pub fn inaturalist(root: &Path, files: [Option<&Path>; 2]) -> Result<Listing, Error> {
    let mut listing = Listing { root: root.to_owned(), is_numbered: true, ..Listing::default() };
    let mut names: HashMap<u32, String> = HashMap::new();
    let mut resolver = Resolver::default();
    for (split, file) in files.into_iter().enumerate().filter_map(|(n, file)| Some((n, file?))) {
        let bad = |why: String| Error::Listing { path: file.to_owned(), why };
        let bytes = fs::read(file).map_err(Error::io(file))?;
        let coco: Coco = serde_json::from_slice(&bytes).map_err(|e| {
            let why = json_fault(&e);
            bad(format!("is not a JSON file of images, annotations and categories: {why}"))
        })?;
        let mut labels = HashMap::with_capacity(coco.annotations.len());
        for a in &coco.annotations {
            if labels.insert(a.image_id, a.category_id).is_some_and(|other| other != a.category_id) {
                return Err(bad(format!("gives image {} two categories", a.image_id)));
            }
        }
        for image in coco.images {
            let label = labels.get(&image.id).copied();
            let label = label.ok_or_else(|| bad(format!("gives image {} no category", image.id)))?;
            if label >= MOST {
                let id = image.id;
                return Err(bad(format!(
                    "gives image {id} the category {label}, but categories must be below {MOST}"
                )));
            }
            listing.splits[split].push(Entry { path: image.file_name, label });
        }
        resolver.check(root, file, &mut listing.splits[split])?;
        for category in coco.categories.into_iter().filter(|c| c.id < MOST) {
            let name = names.entry(category.id).or_insert_with(|| category.name.clone());
            if *name != category.name {
                return Err(bad(format!(
                    "calls category {} {:?}, but it is also called {name:?}",
                    category.id, category.name
                )));
            }
        }
        listing.read.push(Read::new("list", file, &bytes));
    }
    let labels = listing.splits.iter().flatten().map(|e| e.label).chain(names.keys().copied());
    let most = labels.max().map_or(0, |label| label as usize + 1);
    // Names that are shared by categories do not identify them.
    let is_telling = number(names.values().map(|n| &**n)).len() == names.len();
    let name = |label: u32| {
        let own = names.get(&label).filter(|_| is_telling).cloned();
        own.unwrap_or_else(|| label.to_string())
    };
    listing.class_names = (0..most as u32).map(name).collect();
    Ok(listing)
}
