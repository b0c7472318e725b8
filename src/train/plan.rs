//! What every training step works on: which images, how augmented, mixed with whom, and what each label
//! counts.
//!
//! A step is a pure function of (configuration, labels, epoch, step), so a prefetch thread, another device or
//! a resumed run makes the same one. No pixels here: the loader follows the plan.

use rand::RngCore;

use super::change;
use super::config::{Augment, CROP_PADDING, Config};
use crate::data::augment::Op;
use crate::data::shard::centre;
use crate::methods::mix::{Mix, Partner, Patch};
use crate::methods::rule::{Draw, RwNorm};
use crate::methods::sampler::Sampler;
use crate::rng::{Purpose, below, shuffle, stream};

/// One training image and how it is augmented.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Position in the training split; of features, the row of one of its passes.
    pub index: u32,
    /// Rows by which the crop lies below the image's own place, or below the centre of a larger one.
    pub dy: i16,
    /// Columns by which the crop lies right of there.
    pub dx: i16,
    /// Whether the crop is mirrored, left to right.
    pub flip: bool,
    /// What is done to the stored image first; where these resize it, the crop is all of it.
    pub ops: Vec<Op>,
}

/// One batch. All vectors have one entry per image of the batch; `samples` may be longer and then ends with
/// partners from outside the batch.
///
/// The input of sample s is `lambda[s]`·image(s) + (1 − `lambda[s]`)·image(`partner[s]`), both augmented;
/// where `patch[s]` is not empty, image(s) with that rectangle of image(`partner[s]`). Where `place` is not 0
/// it is image(s), and what leaves that stage of the network is mixed in the same way. Its loss is
/// `coef_a[s]`·ℓ(s, `label_a[s]`) + `coef_b[s]`·ℓ(s, `label_b[s]`); the batch's loss is the plain sum over s,
/// for class weights and the division by the batch are in the coefficients.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The images, and behind them those that they are mixed with, where these are not of the batch.
    pub samples: Vec<Sample>,
    /// Where the batch is mixed, see [`Mix::places`].
    pub place: usize,
    /// Position in `samples` of the image that each is mixed with.
    pub partner: Vec<u32>,
    /// λ, the share of the sample's own image.
    pub lambda: Vec<f32>,
    /// Where the partner is seen, if the images are not blended.
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

/// Labels that no training can be planned on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A class has no image to learn it from.
    #[error("class {class} has no training images; make the data set with a smaller ratio")]
    EmptyClass {
        /// The class.
        class: usize,
    },
    /// A label beyond the classes.
    #[error("image {index} has label {label}, but there are {classes} classes; make the data set again")]
    Label {
        /// The image's position.
        index: usize,
        /// Its label.
        label: u32,
        /// Number of classes.
        classes: usize,
    },
    /// The manifest's class counts are not those of the labels.
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
    /// No class or more images than 32 bits can number.
    #[error("{images} training images in {classes} classes; there must be some, and fewer than 2³²")]
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
    /// Height and width of what the network sees.
    size: [usize; 2],
    /// How many more rows and columns stored images have than the network sees.
    spare: [usize; 2],
    /// How often the training split was passed through a network, where it is features.
    passes: u32,
    labels: Vec<u32>,
    cls_num_list: Vec<usize>,
    sampler: Option<Sampler>,
    /// Draws who images are mixed with, where that is not another one of the batch.
    partners: Option<Sampler>,
    weights: Option<(Vec<f64>, RwNorm)>,
}

impl Plan {
    /// A plan for a validated configuration over the training labels; images are of `shape` `[H, W, C]`,
    /// `cls_num_list` is the manifest's count a class.
    ///
    /// # Errors
    /// Labels and counts that do not agree, or a class without images.
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
            spare: [0; 2],
            passes: 1,
            labels: labels.to_vec(),
            cls_num_list: cls_num_list.to_vec(),
            partners: (config.mix.kind.partner == Partner::OfAnyClass)
                .then(|| Sampler::new(&Draw::Inverse, labels, cls_num_list)),
            sampler: config.rule.draw().map(|draw| Sampler::new(&draw, labels, cls_num_list)),
            weights: config.rule.reweight().map(|r| (r.weights(cls_num_list), r.rw_norm)),
        })
    }

    /// The same plan, but crops are taken from stored images that are larger, of `[H, W, C]`.
    pub fn cropping(self, stored: [usize; 3]) -> Plan {
        Plan { spare: [0, 1].map(|axis| stored[axis] - self.size[axis]), ..self }
    }

    /// The same plan, but an image has the features of several passes, one after the other, of which one is
    /// drawn.
    pub fn repeating(self, passes: u32) -> Plan {
        Plan { passes, ..self }
    }

    /// Height and width of stored images.
    fn stored(&self) -> [usize; 2] {
        [0, 1].map(|axis| self.size[axis] + self.spare[axis])
    }

    /// Training images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none, which cannot be.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Steps of an epoch; the last one may be a smaller batch.
    pub fn steps(&self) -> usize {
        self.labels.len().div_ceil(self.config.batch_size)
    }

    /// Images of a step, from 0.
    pub fn images(&self, step: usize) -> usize {
        let from = step * self.config.batch_size;
        self.labels.len().min(from + self.config.batch_size) - from
    }

    /// Epochs of the run.
    pub fn epochs(&self) -> u32 {
        self.config.epochs
    }

    /// The plan of one epoch, from 1: chooses the images and their order.
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
    order: Vec<u32>,
    weights: Option<&'p (Vec<f64>, RwNorm)>,
}

impl EpochPlan<'_> {
    /// Steps of the epoch; the last one may be a smaller batch.
    pub fn steps(&self) -> usize {
        self.plan.steps()
    }

    /// The images of the epoch, in order, with repetition where the rule re-samples.
    pub fn order(&self) -> &[u32] {
        &self.order
    }

    /// One step, from 0 to `steps() - 1`.
    pub fn step(&self, i: usize) -> Step {
        let Plan { config, labels, cls_num_list, passes, .. } = self.plan;
        let batch = &self.order[i * config.batch_size..][..self.plan.images(i)];
        let rng = |purpose| stream(config.seed, purpose, self.epoch.into(), i as u64);

        let (lambda, patch) = config.mix.draw(&mut rng(Purpose::Lambda), batch.len(), self.plan.size);
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
        let mut words = rng(Purpose::Augment);
        let sample = |(n, &index): (usize, &u32)| {
            let word = words.next_u32();
            let mut sample = augment(config, self.plan.spare, index, word);
            let pass = (u64::from(word) * u64::from(*passes)) >> 32;
            sample.index += pass as u32 * labels.len() as u32;
            if config.changes_images() {
                let step = (i as u64) << 32 | n as u64;
                let mut rng = stream(config.seed, Purpose::Change, self.epoch.into(), step);
                sample.ops = change::draw(config, self.plan.stored(), self.plan.size, &mut rng);
            }
            sample
        };
        let samples = seen.iter().enumerate().map(sample).collect();
        let place = match config.mix.places() {
            1 => 0,
            places => below(&mut rng(Purpose::Place), places),
        };
        let label = |at: u32| labels[seen[at as usize] as usize];
        let label_a: Vec<u32> = (0..batch.len() as u32).map(label).collect();
        let label_b: Vec<u32> = partner.iter().map(|&p| label(p)).collect();
        let (coef_a, coef_b) =
            coefficients(&config.mix, cls_num_list, self.weights, &lambda, &label_a, &label_b);
        Step { samples, place, partner, lambda, patch, label_a, label_b, coef_a, coef_b }
    }
}

/// The coefficients of a batch's labels, given its λ and the classes' `counts`; without weights every class
/// counts 1. Computed in f64, rounded to f32 once.
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

/// The crop and flip that one random word stands for: of an image of the network's size, padded by 4,
/// ⌊162·word/2³²⌋ numbers the 9 × 9 crops times two; a larger one has as many crops as it has spare rows and
/// columns, and one more each.
fn augment(config: &Config, spare: [usize; 2], index: u32, word: u32) -> Sample {
    // How many offsets there are, and which of them leaves the crop where it is.
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
#[path = "plan_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "reference_tests.rs"]
mod reference;
