//! A classifier that is trained, or computed, on the features that a network has given.

use std::borrow::Cow;

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use rayon::prelude::*;

use super::check_loss;
use super::config::Config;
use super::plan::{Plan, Sample, Step};
use crate::backend::Rates;
use crate::backend::cpu::linear::Linear;
use crate::backend::cpu::neighbours::Neighbours;
use crate::data::features::Features;
use crate::interrupt::{self, Interrupted};
use crate::methods::classifier::{Classifier, means, nearest, tau_normed};
use crate::methods::loss::{Criterion, Targets};
use crate::metrics;
use crate::net::Params;
use crate::net::files::{StateDict, Values};
use crate::tensor::{read, write};

/// The splits of features that a classifier is trained and evaluated on.
pub struct Splits {
    /// The features that it is trained on.
    pub train: Features,
    /// The features on which its accuracy is measured.
    pub judged: Vec<Features>,
    /// The features on which the exponent of τ-norm is chosen.
    pub val: Option<Features>,
}

/// A classifier with its features.
pub struct OnFeatures {
    /// The parameters of the classifier.
    params: Params,
    /// The other tensors of its network.
    rest: StateDict,
    linear: Linear,
    /// The nearest-neighbour classifier, which replaces `linear` once it is computed.
    neighbours: Option<Neighbours>,
    criterion: Criterion,
    classifier: Classifier,
    splits: Splits,
    cls_num_list: Vec<usize>,
    /// The exponent that τ-norm was computed with.
    pub tau_norm: Option<f64>,
}

impl OnFeatures {
    /// Creates a classifier from `params`, which are those of a resumed training if it `goes_on`; `rest` are
    /// the other tensors of its network.
    ///
    /// # Errors
    /// Returns an error if the features do not have the length of the network's, or if there are fewer
    /// training images than neighbours that vote.
    pub fn new(
        config: &Config,
        classifier: Classifier,
        params: Params,
        goes_on: bool,
        rest: StateDict,
        cls_num_list: &[usize],
        splits: Splits,
    ) -> Result<OnFeatures> {
        let len = params.network().features();
        let widths = std::iter::once(&splits.train).chain(&splits.judged).chain(&splits.val);
        for features in widths {
            let found = features.width();
            ensure!(found == len, "the images have {found} features each, but {} has {len}", config.arch);
        }
        if let Classifier::Knn { neighbours } = classifier {
            let images = splits.train.len();
            ensure!(
                neighbours <= images,
                "--neighbours {neighbours}: there are only {images} training images"
            );
        }
        let criterion = config.criterion(cls_num_list);
        let linear = {
            let (values, velocity) = (read(&params.values)?, read(&params.velocity)?);
            let own = params.classifier()..params.classifier() + params.classifier_len();
            let linear = Linear::new(&values[own.clone()], len, criterion.classifier);
            match classifier {
                Classifier::Lws => linear.scaled(goes_on.then_some(&velocity[own])),
                _ => linear.with_velocity(&velocity[own]),
            }
        };
        Ok(OnFeatures {
            params,
            rest,
            linear,
            neighbours: None,
            criterion,
            classifier,
            splits,
            cls_num_list: cls_num_list.to_vec(),
            tau_norm: None,
        })
    }

    /// Trains one epoch, or does the whole computation of a classifier that is not trained. Returns the sum
    /// over the images of the loss of their batch, and the number of correct predictions.
    ///
    /// # Errors
    /// Returns an error if the loss is not finite, and [`Interrupted`] after a signal.
    pub fn epoch(
        &mut self,
        plan: &Plan,
        epoch: u32,
        rates: Rates,
        on_step: &mut dyn FnMut(usize),
    ) -> Result<(f64, f64)> {
        if !self.classifier.is_trained() {
            return self.compute();
        }
        let plan = plan.epoch(epoch);
        let train = &self.splits.train;
        let (mut loss, mut right) = (0.0, 0.0);
        for step in 0..plan.steps() {
            interrupt::check()?;
            let Step { samples, partner, lambda, label_a, label_b, coef_a, coef_b, .. } = plan.step(step);
            let mixed = |(n, sample): (usize, &Sample)| {
                let (own, share) = (train.row(sample.index as usize), lambda[n]);
                if share == 1.0 {
                    return Cow::Borrowed(own);
                }
                let other = train.row(samples[partner[n] as usize].index as usize);
                Cow::Owned(own.iter().zip(other).map(|(a, b)| share * a + (1.0 - share) * b).collect())
            };
            let x: Vec<Cow<[f32]>> = samples.par_iter().take(lambda.len()).enumerate().map(mixed).collect();
            let x: Vec<&[f32]> = x.iter().map(|x| &**x).collect();
            let targets = Targets { label_a: &label_a, label_b: &label_b, coef_a: &coef_a, coef_b: &coef_b };
            let result = self.linear.step(&x, targets, &self.criterion, rates);
            check_loss(result.loss, epoch, step)?;
            loss += result.loss * label_a.len() as f64;
            right += result.right;
            on_step(step + 1);
        }
        Ok((loss, right))
    }

    /// Computes the classifier at once. The loss is that of the result on the training images.
    fn compute(&mut self) -> Result<(f64, f64)> {
        let (train, classes) = (&self.splits.train, self.params.classes());
        let len = train.width();
        if let Classifier::Knn { neighbours } = self.classifier {
            let voters = Neighbours::new(train.all(), train.labels(), len, classes, neighbours);
            let logits = voters.logits(train.all(), true)?;
            self.neighbours = Some(voters);
            return self.judge(&logits);
        }
        let means = || means((0..train.len()).map(|i| (train.row(i), train.labels()[i])), classes, len);
        let (weight, bias) = match self.classifier {
            Classifier::Ncm => nearest(&means(), len),
            Classifier::NcmCosine => (means().iter().map(|m| *m as f32).collect(), vec![0.0; classes]),
            _ => {
                let own = self.linear.flat();
                let normed = |tau| (tau_normed(&own[..classes * len], len, tau), vec![0.0; classes]);
                let tau = match self.classifier {
                    Classifier::TauNorm { tau_norm: Some(tau) } => tau,
                    _ => self.best(&normed)?,
                };
                self.tau_norm = Some(tau);
                normed(tau)
            }
        };
        self.linear = self.made_of(&weight, &bias);
        self.judge(&self.linear.logits(train.all()))
    }

    /// Returns the sum of the training images' losses, and how many are classified correctly.
    fn judge(&self, logits: &[f32]) -> Result<(f64, f64)> {
        let train = &self.splits.train;
        let m = metrics::evaluate(logits, train.labels(), &self.cls_num_list)?;
        let n = train.len() as f64;
        Ok((m.nll * n, m.top1 / 100.0 * n))
    }

    fn made_of(&self, weight: &[f32], bias: &[f32]) -> Linear {
        let flat = [weight, bias].concat();
        Linear::new(&flat, self.splits.train.width(), self.criterion.classifier)
    }

    /// Returns the exponent of 0, 0.05, …, 2 whose classifier has the best mean accuracy over classes on the
    /// validation images, or the smallest of several equally good ones.
    fn best(&self, of: &dyn Fn(f64) -> (Vec<f32>, Vec<f32>)) -> Result<f64> {
        let val = self.splits.val.as_ref().context("--tau-norm auto: needs a validation split")?;
        let mut best = (0.0, f64::NEG_INFINITY);
        for n in 0..=40 {
            let tau = f64::from(n) * 0.05;
            let (weight, bias) = of(tau);
            let logits = self.made_of(&weight, &bias).logits(val.all());
            let recalls = metrics::evaluate(&logits, val.labels(), &self.cls_num_list)?.per_class;
            let found: Vec<f64> = recalls.into_iter().flatten().collect();
            let mean = found.iter().sum::<f64>() / found.len() as f64;
            if mean > best.1 {
                best = ((tau * 100.0).round() / 100.0, mean);
            }
        }
        Ok(best.0)
    }

    /// Returns the tensors of the network with the classifier; for kNN, the features and labels of the
    /// training images.
    ///
    /// # Errors
    /// Returns an error if candle cannot access the tensors.
    pub fn state_dict(&self) -> Result<StateDict> {
        if self.neighbours.is_some() {
            let train = &self.splits.train;
            let features = Values { shape: vec![train.len(), train.width()], data: train.all().to_vec() };
            let labels = train.labels().iter().map(|l| *l as f32).collect();
            let labels = Values { shape: vec![train.len()], data: labels };
            return Ok([("features".into(), features), ("labels".into(), labels)].into());
        }
        self.keep(&self.params.values, &self.linear.flat())?;
        let mut all = self.params.state_dict()?;
        all.extend(self.rest.iter().map(|(name, v)| (name.clone(), v.clone())));
        Ok(all)
    }

    /// Returns the tensors that a training resumes from.
    ///
    /// # Errors
    /// Returns an error if candle cannot access the tensors.
    pub fn training_state(&self) -> Result<StateDict> {
        self.keep(&self.params.values, &self.linear.unscaled())?;
        if self.classifier.is_trained() {
            self.keep(&self.params.velocity, &self.linear.state())?;
        }
        self.params.training_state()
    }

    fn keep(&self, to: &Tensor, flat: &[f32]) -> Result<()> {
        let at = self.params.classifier();
        Ok(write(to, |all| all[at..at + flat.len()].copy_from_slice(flat))?)
    }

    /// Returns the percentage of each judged split that is classified correctly.
    ///
    /// # Errors
    /// Returns [`Interrupted`] after a signal.
    pub fn top1(&self) -> Result<Vec<f64>, Interrupted> {
        let of = |split: &Features| -> Result<f64, Interrupted> {
            let logits = match &self.neighbours {
                Some(voters) => voters.logits(split.all(), false)?,
                None => self.linear.logits(split.all()),
            };
            Ok(metrics::top1(&logits, split.labels(), self.params.classes()))
        };
        self.splits.judged.iter().map(of).collect()
    }
}
