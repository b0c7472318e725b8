//! The images that an experiment trained on.

use serde_json::Value;

use crate::manifest::{Input, Object};

/// The images of a data set, over all splits. The same images may be stored in shards of another size or come
/// from the other of the two official formats.
#[derive(Clone, Debug)]
pub struct Images {
    /// How they were chosen.
    pub(super) params: Object,
    /// Hashes of the images of each split; earlier versions did not record them.
    splits: Option<Value>,
    /// Hashes of the source files.
    files: Vec<String>,
}

impl Images {
    /// Returns the images of a data set that is an input.
    pub fn of(dataset: &Input) -> Images {
        let params = dataset.params.iter().filter(|(n, _)| *n != "shard_bytes");
        Images {
            params: params.map(|(n, v)| (n.clone(), v.clone())).collect(),
            splits: dataset.facts.get("images").cloned(),
            files: dataset.inputs.iter().map(|i| i.blake3.clone()).collect(),
        }
    }

    /// Returns whether both are the same images, regardless of the params that chose them. If one of the two
    /// does not record the hashes of its images, the source files are compared instead.
    pub(super) fn are(&self, other: &Images) -> bool {
        match (&self.splits, &other.splits) {
            (Some(own), Some(others)) => own == others,
            _ => self.files == other.files,
        }
    }

    /// Returns whether two data sets hold the same images and were made with the same params.
    pub fn are_those_of(&self, other: &Images) -> bool {
        self.params == other.params && self.are(other)
    }

    /// Returns a hash that identifies the images: the hash of the training images from the data set's
    /// manifest or, if it has none, a hash of all source files.
    pub(super) fn hash(&self) -> String {
        match self.splits.as_ref().and_then(|splits| splits["train"].as_str()) {
            Some(train) => train.to_owned(),
            None => blake3::hash(self.files.concat().as_bytes()).to_hex().to_string(),
        }
    }
}
