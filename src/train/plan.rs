//! The plan of every training step: which images it works on, how they are augmented, which ones they are
//! mixed with, and the coefficients of their labels.
//!
//! A step is a pure function of (configuration, labels, epoch, step), so a prefetch thread, another device
//! and a resumed run all make the same one. There are no pixels here: the loader follows the plan.

use rand::RngCore;

use super::change;
use super::config::{Augment, CROP_PADDING, Config};
use crate::data::augment::Op;
use crate::data::shard::centre;
use crate::methods::mix::{Mix, Partner, Patch};
use crate::methods::rule::{Resample, RwNorm};
use crate::methods::sampler::Sampler;
use crate::rng::{Purpose, below, shuffle, stream};

/// One training image and how it is augmented.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Position in the training split; for features of several passes, the row among those of all passes.
    pub index: u32,
    /// Rows by which the crop is below the image's own position, or below the centre of a larger image.
    pub dy: i16,
    /// Columns by which the crop is to the right of that position.
    pub dx: i16,
    /// Whether the crop is mirrored left to right.
    pub flip: bool,
    /// Operations applied to the stored image first. If they resize it, the crop is the whole image.
    pub ops: Vec<Op>,
}

/// One batch. All vectors have one entry per image of the batch; only `samples` may be longer and then ends
/// with partners from outside the batch.
///
/// The input of sample s is `lambda[s]`·image(s) + (1 − `lambda[s]`)·image(`partner[s]`), both augmented; if
/// `patch[s]` is not empty, it is image(s) with that rectangle of image(`partner[s]`). If `mix_point` is not
/// 0, the input is image(s), and the output of that stage of the network is mixed in the same way. The loss
/// of the sample is `coef_a[s]`·ℓ(s, `label_a[s]`) + `coef_b[s]`·ℓ(s, `label_b[s]`); the loss of the batch is
/// the plain sum over s, because the class weights and the divisor are in the coefficients.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The images of the batch, followed by those that they are mixed with where these are not in the batch.
    pub samples: Vec<Sample>,
    /// Where in the network the batch is mixed; see [`Mix::mix_points`].
    pub mix_point: usize,
    /// Position in `samples` of the image that each image is mixed with.
    pub partner: Vec<u32>,
    /// λ, the share of the sample's own image.
    pub lambda: Vec<f32>,
    /// The rectangle where the partner is seen, if the images are not blended.
    pub patch: Vec<Patch>,
    /// The image's own label.
    pub label_a: Vec<u32>,
    /// The partner's label.
    pub label_b: Vec<u32>,
    /// λ_y·w\[label_a\]/D, where D is the batch size or the sum of the batch's weights.
    pub coef_a: Vec<f32>,
    /// (1−λ_y)·w\[label_b\]/D.
    pub coef_b: Vec<f32>,
}

/// An error in the labels, on which no training can be planned.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A class has no training images.
    #[error("class {class} has no training images; make the data set with a smaller ratio")]
    EmptyClass {
        /// The class.
        class: usize,
    },
    /// A label is not one of the classes.
    #[error("image {index} has label {label}, but there are {classes} classes; make the data set again")]
    Label {
        /// The image's position.
        index: usize,
        /// Its label.
        label: u32,
        /// Number of classes.
        classes: usize,
    },
    /// The class counts of the manifest differ from those of the labels.
    #[error(
        "class {class} has {found} training images, but its manifest says {listed}; make the data set again"
    )]
    Counts {
        /// The class.
        class: usize,
        /// Images in the manifest's `cls_num_list`.
        listed: usize,
        /// Images with this label.
        found: usize,
    },
    /// There are no classes or no images, or more images than 32 bits can number.
    #[error(
        "there are {images} training images in {classes} classes; there must be at least one, and fewer than 2³²"
    )]
    Size {
        /// Number of images.
        images: usize,
        /// Number of classes.
        classes: usize,
    },
}

/// The plan of a whole run.
#[derive(Clone, Debug)]
pub struct Plan {
    config: Config,
    /// Height and width of the network's input.
    size: [usize; 2],
    /// Height and width of stored images.
    stored: [usize; 2],
    /// How often the training split was passed through a network, if it consists of features.
    passes: u32,
    labels: Vec<u32>,
    cls_num_list: Vec<usize>,
    sampler: Option<Sampler>,
    /// Draws the partners of images, where these are not from the batch.
    partners: Option<Sampler>,
    weights: Option<(Vec<f64>, RwNorm)>,
}

impl Plan {
    /// Creates a plan for a validated configuration over the training labels. Images have the shape
    /// `[H, W, C]`; `cls_num_list` is the manifest's count per class.
    ///
    /// # Errors
    /// Returns an error if labels and counts do not agree, or if a class has no images.
    pub fn new(
        config: &Config,
        labels: &[u32],
        [height, width, _]: [usize; 3],
        cls_num_list: &[usize],
    ) -> Result<Plan, Error> {
        let classes = cls_num_list.len();
        if classes == 0 || labels.is_empty() || u32::try_from(labels.len()).is_err() {
            return Err(Error::Size { images: labels.len(), classes });
        }
        let mut found = vec![0; classes];
        for (index, &label) in labels.iter().enumerate() {
            *found.get_mut(label as usize).ok_or(Error::Label { index, label, classes })? += 1;
        }
        for (class, (&listed, found)) in cls_num_list.iter().zip(found).enumerate() {
            if listed != found {
                return Err(Error::Counts { class, listed, found });
            }
            if found == 0 {
                return Err(Error::EmptyClass { class });
            }
        }
        Ok(Plan {
            config: config.clone(),
            size: [height, width],
            stored: [height, width],
            passes: 1,
            labels: labels.to_vec(),
            cls_num_list: cls_num_list.to_vec(),
            partners: match config.mix.kind.partner {
                Partner::OfBatch => None,
                Partner::OfAnyClass => Some(Sampler::new(&Resample::Inverse, labels, cls_num_list)),
            },
            sampler: config.rule.resample().map(|rule| Sampler::new(&rule, labels, cls_num_list)),
            weights: config.rule.reweight().map(|r| (r.weights(cls_num_list), r.rw_norm)),
        })
    }

    /// Returns the same plan with crops taken from larger stored images of shape `[H, W, C]`.
    pub fn cropping(self, [height, width, _]: [usize; 3]) -> Plan {
        Plan { stored: [height, width], ..self }
    }

    /// Returns the same plan for images that have the features of several passes, one pass after the other;
    /// one of them is drawn for each image.
    pub fn repeating(self, passes: u32) -> Plan {
        Plan { passes, ..self }
    }

    /// Returns the number of images of an epoch, which is the number of training images.
    pub fn images_per_epoch(&self) -> usize {
        self.labels.len()
    }

    /// Returns the number of steps of an epoch; the last one may be a smaller batch.
    pub fn steps(&self) -> usize {
        self.labels.len().div_ceil(self.config.batch_size)
    }

    /// Returns the number of images of a step, counted from 0.
    pub fn images(&self, step: usize) -> usize {
        let from = step * self.config.batch_size;
        self.labels.len().min(from + self.config.batch_size) - from
    }

    /// Returns the number of epochs of the run.
    pub fn epochs(&self) -> u32 {
        self.config.epochs
    }

    /// Returns the plan of one epoch, counted from 1: chooses the images and their order.
    pub fn epoch(&self, epoch: u32) -> EpochPlan<'_> {
        let active = epoch >= self.config.rule_from();
        let mut rng = stream(self.config.seed, Purpose::Order, epoch.into(), 0);
        let order = match self.sampler.as_ref().filter(|_| active) {
            Some(sampler) => self.labels.iter().map(|_| sampler.sample(&mut rng)).collect(),
            None => {
                let mut order: Vec<u32> = (0..).take(self.labels.len()).collect();
                shuffle(&mut rng, &mut order);
                order
            }
        };
        let weights = self.weights.as_ref().filter(|_| active);
        EpochPlan { plan: self, epoch, order, weights }
    }
}

/// The plan of one epoch.
#[derive(Clone, Debug)]
pub struct EpochPlan<'p> {
    plan: &'p Plan,
    epoch: u32,
    /// The images in order, with repetitions if the rule re-samples.
    order: Vec<u32>,
    weights: Option<&'p (Vec<f64>, RwNorm)>,
}

impl EpochPlan<'_> {
    /// Returns the number of steps of the epoch; the last one may be a smaller batch.
    pub fn steps(&self) -> usize {
        self.plan.steps()
    }

    /// Returns one step, from 0 to `steps() - 1`.
    pub fn step(&self, i: usize) -> Step {
        let Plan { config, size, stored, labels, cls_num_list, passes, .. } = self.plan;
        let batch = &self.order[i * config.batch_size..][..self.plan.images(i)];
        let rng = |purpose| stream(config.seed, purpose, self.epoch.into(), i as u64);

        let (lambda, patch) = config.mix.draw(&mut rng(Purpose::Lambda), batch.len(), *size);
        // Partners from outside the batch are appended to it.
        let (mut seen, mut partner): (Vec<u32>, Vec<u32>) =
            (batch.to_vec(), (0..).take(batch.len()).collect());
        match &self.plan.partners {
            Some(_) if lambda.iter().all(|l| *l == 1.0) => {}
            Some(sampler) => {
                let mut rng = rng(Purpose::Pair);
                seen.extend(batch.iter().map(|_| sampler.sample(&mut rng)));
                partner.iter_mut().for_each(|p| *p += batch.len() as u32);
            }
            None if config.mix.is_none() => {}
            None => shuffle(&mut rng(Purpose::Pair), &mut partner),
        }
        // The rows and columns that stored images have beyond those of the network's input.
        let spare = [0, 1].map(|axis| stored[axis] - size[axis]);
        let mut words = rng(Purpose::Augment);
        let sample = |(n, &index): (usize, &u32)| {
            let word = words.next_u32();
            let mut sample = augment(config, spare, index, word);
            let pass = (u64::from(word) * u64::from(*passes)) >> 32;
            sample.index += pass as u32 * labels.len() as u32;
            if config.changes_images() {
                let step = (i as u64) << 32 | n as u64;
                let mut rng = stream(config.seed, Purpose::Change, self.epoch.into(), step);
                sample.ops = change::draw(config, *stored, *size, &mut rng);
            }
            sample
        };
        let samples = seen.iter().enumerate().map(sample).collect();
        let mix_point = match config.mix.mix_points() {
            1 => 0,
            points => below(&mut rng(Purpose::MixPoint), points),
        };
        let label = |at: u32| labels[seen[at as usize] as usize];
        let label_a: Vec<u32> = (0..batch.len() as u32).map(label).collect();
        let label_b: Vec<u32> = partner.iter().map(|&p| label(p)).collect();
        let (coef_a, coef_b) =
            coefficients(&config.mix, cls_num_list, self.weights, &lambda, &label_a, &label_b);
        Step { samples, mix_point, partner, lambda, patch, label_a, label_b, coef_a, coef_b }
    }
}

/// Computes the coefficients of a batch's labels from its λ and the classes' `counts`. Without weights every
/// class counts 1. Computed in f64, rounded to f32 once.
fn coefficients(
    mix: &Mix,
    counts: &[usize],
    weights: Option<&(Vec<f64>, RwNorm)>,
    lambda: &[f32],
    label_a: &[u32],
    label_b: &[u32],
) -> (Vec<f32>, Vec<f32>) {
    let weight = |class: usize| weights.map_or(1.0, |(w, _)| w[class]);
    let shares: Vec<(f64, f64)> = lambda
        .iter()
        .zip(label_a.iter().zip(label_b))
        .map(|(&lambda, (&a, &b))| {
            let (a, b) = (a as usize, b as usize);
            let lambda_y = f64::from(mix.lambda_y(lambda, counts[a], counts[b]));
            (lambda_y * weight(a), (1.0 - lambda_y) * weight(b))
        })
        .collect();
    let divisor = match weights {
        Some((_, RwNorm::WeightSum)) => shares.iter().map(|(a, b)| a + b).sum(),
        _ => shares.len() as f64,
    };
    shares.iter().map(|(a, b)| ((a / divisor) as f32, (b / divisor) as f32)).unzip()
}

/// Returns the crop and flip that one random word stands for. For an image of the network's size, padded by
/// 4, ⌊162·word/2³²⌋ numbers the 9 × 9 crops times two. A larger image has one more crop position per axis
/// than it has spare rows or columns.
fn augment(config: &Config, spare: [usize; 2], index: u32, word: u32) -> Sample {
    // The number of offsets, and the index of the one that does not move the crop.
    let padding = usize::from(config.crop_padding.unwrap_or(CROP_PADDING));
    let [(rows, top), (columns, left)] = match config.augment {
        Augment::CropFlip => spare.map(|spare| match spare {
            0 => (2 * padding + 1, padding),
            _ => (spare + 1, centre(spare)),
        }),
        Augment::ResizedCropFlip => [(1, 0); 2],
        Augment::None => return Sample { index, dy: 0, dx: 0, flip: false, ops: vec![] },
    };
    let n = (u64::from(word) * (rows * columns * 2) as u64) >> 32;
    let offset = |n: u64, count: usize, own: usize| (n % count as u64) as i16 - own as i16;
    let (dx, dy) = (offset(n / 2, columns, left), offset(n / 2 / columns as u64, rows, top));
    Sample { index, dy, dx, flip: n % 2 == 1, ops: vec![] }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod reference;
