//! Running the network of a checkpoint over images, or its classifier over features.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::{Choice, Subject, Weights};
use crate::backend::cpu::infer::Folded;
use crate::backend::cpu::linear::Linear;
use crate::backend::cpu::neighbours::Neighbours;
use crate::backend::device::Device;
use crate::backend::{Inference, Precision, cuda, levels};
use crate::cli::terminal;
use crate::data::features::Features;
use crate::data::shard::Split;
use crate::interrupt::Interrupted;
use crate::manifest::{Kind, Object};
use crate::methods::classifier::Classifier;
use crate::methods::mix::{self, Mix};
use crate::methods::presets::preset;
use crate::methods::rule::{self, Rule};
use crate::net::files::{self, open_for};
use crate::simd::value::Value;
use crate::tensor::read;
use crate::train::config::{Augment, Config};
use crate::train::engine;
use crate::train::plan::Plan;

impl Subject {
    /// Runs the network over the split, or the classifier over features, after checking that weights and
    /// files are the published ones. Also returns the entries for `run` of the manifest. If the data set
    /// already consists of features, they are copied to the result only if `features` is set.
    ///
    /// # Errors
    /// Returns an error if files are missing or damaged, if the weights do not fit the architecture, or if a
    /// GPU cannot be used, and [`Interrupted`] after a signal.
    pub fn infer(&self, flags: &Choice, device: &str, features: bool) -> Result<(Rows, Inference, Object)> {
        let weights = self.file()?;
        if self.dataset.kind == Kind::Embedding {
            return self.classify(&weights, &flags.split, features);
        }
        let split = Split::open(&self.dataset, &flags.split)?;
        let levels = levels(&self.normalise.mean, &self.normalise.std);
        let network = self.arch.network();
        let mut run = Object::new();
        let waiting =
            terminal::note(&format!("{} {} images through {}", split.len(), flags.split, self.name));
        let device = Device::find_for(device, &network, &[(split.shape(), self.info.classes)])?;
        let params = open_for(&weights, &network, self.info.classes)?;
        let out = match device {
            Device::Cpu => {
                run.insert("instruction_set".into(), f32::isa().name().into());
                Folded::new(&params, split.shape())?.run(&split, &levels)?
            }
            Device::Cuda(index) => {
                let device = cuda::Device::open(index, Precision::F32)?;
                run.insert("device".into(), device.describe().into());
                cuda::infer::infer(&device, &params, &split, &levels)?
            }
        };
        drop(waiting);
        let source_index = (0..split.len()).map(|i| split.source_index(i)).collect();
        Ok((Rows { labels: split.labels().to_vec(), source_index }, out, run))
    }

    /// Returns the file of the weights, after checking that it is the published one.
    fn file(&self) -> Result<PathBuf> {
        match &self.weights {
            Weights::Checkpoint(m) => Ok(m.checked(&self.which)?.swap_remove(0)),
            Weights::File(file) => Ok(file.clone()),
        }
    }

    /// Runs the network `passes` times over the training images, augmented as in the first epochs of its own
    /// training. For bare weights, the images are cropped and flipped.
    ///
    /// # Errors
    /// Fails under the same conditions as [`Subject::infer`], or if the checkpoint was trained without
    /// augmentation.
    pub fn augmented(&self, passes: u32) -> Result<impl Iterator<Item = Result<Inference, Interrupted>>> {
        let trained = match &self.weights {
            Weights::Checkpoint(m) => serde_json::from_value(serde_json::Value::Object(m.params.clone()))
                .with_context(|| format!("{}: params", self.name))?,
            Weights::File(_) => Config::new(preset("erm")?),
        };
        let config = Config { mix: Mix::new(&mix::NONE), rule: Rule::new(&rule::NONE), ..trained };
        ensure!(
            config.augment != Augment::None || config.changes_images(),
            "--passes: {} was trained without augmentation, so all passes would be the same",
            self.name
        );
        let split = Split::open(&self.dataset, "train")?;
        let params = open_for(&self.file()?, &self.arch.network(), self.info.classes)?;
        let net = Folded::new(&params, split.shape())?;
        let levels = levels(&self.normalise.mean, &self.normalise.std);
        let plan = Plan::new(&config, split.labels(), split.shape(), &self.info.cls_num_list)?;
        let plan = plan.cropping(split.stored());
        let name = self.name.clone();
        Ok((1..=passes).map(move |pass| {
            let _waiting = terminal::note(&format!("augmented pass {pass} of {passes} through {name}"));
            engine::augmented(&net, &split, &levels, &plan.epoch(pass))
        }))
    }

    /// Returns the classifier on features that the checkpoint is, if it is one.
    fn classifier(&self) -> Option<Classifier> {
        match &self.weights {
            Weights::Checkpoint(m) => Classifier::of(&m.params),
            Weights::File(_) => None,
        }
    }

    /// Computes the logits of a classifier on features.
    fn classify(&self, weights: &Path, split: &str, copied: bool) -> Result<(Rows, Inference, Object)> {
        let features = Features::open(&self.dataset, split)?;
        let (classes, width) = (self.info.classes, features.width());
        let fits = |len: usize| {
            let file = weights.display();
            ensure!(width == len, "{file}: its classifier takes {len} features, but the images have {width}");
            Ok(())
        };
        let (len, logits) = match self.classifier() {
            Some(Classifier::Knn { neighbours }) => {
                let (rows, labels) = voters(weights, classes)?;
                let len = rows.len() / labels.len();
                fits(len)?;
                let voters = Neighbours::new(&rows, &labels, len, classes, neighbours);
                // An image has no vote for itself.
                let are_voters = features.all() == rows && features.labels() == labels;
                (len, voters.logits(features.all(), are_voters)?)
            }
            _ => {
                let params = open_for(weights, &self.arch.network(), classes)?;
                let len = params.network().features();
                fits(len)?;
                let values = read(&params.values)?;
                let flat = &values[params.classifier()..][..params.classifier_len()];
                (len, Linear::new(flat, len, params.network().classifier.kind).logits(features.all()))
            }
        };
        let rows =
            Rows { labels: features.labels().to_vec(), source_index: features.source_index().to_vec() };
        let mut run = Object::new();
        run.insert("instruction_set".into(), f32::isa().name().into());
        let features = if copied { features.all().to_vec() } else { vec![] };
        let out = Inference { logits, features, classes, feature_len: len };
        Ok((rows, out, run))
    }
}

/// Reads the features and labels of the images that vote.
fn voters(file: &Path, classes: usize) -> Result<(Vec<f32>, Vec<u32>)> {
    let path = || file.display().to_string();
    let mut all = files::weights(file)?;
    let mut take = |name: &str| all.remove(name).with_context(|| format!("{}: has no {name}", path()));
    let (features, labels) = (take("features")?, take("labels")?);
    let fits = features.shape.len() == 2 && !features.data.is_empty() && labels.shape == features.shape[..1];
    ensure!(
        fits,
        "{}: the shapes of features {:?} and labels {:?} do not match",
        path(),
        features.shape,
        labels.shape
    );
    let labels: Vec<u32> = labels.data.into_iter().map(|label| label as u32).collect();
    ensure!(
        labels.iter().all(|l| (*l as usize) < classes),
        "{}: has labels that are not among the {classes} classes",
        path()
    );
    Ok((features.data, labels))
}

/// The images of a split that a network or classifier was run over.
pub struct Rows {
    /// Their labels.
    pub labels: Vec<u32>,
    /// The number that tells each image apart from the others of its source.
    pub source_index: Vec<u32>,
}
