//! What the tools share that read image files.

use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use super::{CheckFailed, terminal};
use crate::data::files::tree::Tree;
use crate::interrupt;
use crate::manifest::Manifest;

/// Hashes files below a directory, with a display of the progress.
///
/// # Errors
/// Returns [`interrupt::Interrupted`] after a signal.
pub fn hash_files(root: &Path, paths: Vec<String>) -> Result<Tree> {
    let progress = terminal::progress(paths.len(), "hashing files");
    let tree = Tree::of(root, paths, || progress.step());
    drop(progress);
    interrupt::check()?;
    Ok(tree)
}

/// Reports the images that results list as skipped.
///
/// # Errors
/// Returns [`CheckFailed`] if there are any.
pub fn check_skipped(results: &[Manifest]) -> Result<()> {
    let listed = results.iter().filter_map(|m| m.metrics.get("skipped")?.as_array()).flatten();
    let skipped: Vec<&Value> = listed.collect();
    let Some(first) = skipped.first() else { return Ok(()) };
    let text = |name: &str| first[name].as_str().unwrap_or_default();
    let (n, path, why) = (skipped.len(), text("path"), text("why"));
    let (s, were, them) = if n == 1 { ("", "was", "it") } else { ("s", "were", "them") };
    Err(CheckFailed(format!(
        "{n} image{s} could not be read and {were} left out, such as {path:?}: {why}; metrics.skipped of the \
         manifest lists {them}"
    ))
    .into())
}
