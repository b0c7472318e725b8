//! The losses: the parameters that each of them gives to the classifier's operation.
//!
//! Each sample has two labels, with a coefficient each. Mixing, class weights and the batch's normalisation
//! are all contained in the coefficients (see `train::plan`), and what distinguishes the losses is in a
//! [`Criterion`], so one formula serves every method:
//!
//! ```text
//! L       = Σ_s  coef_a[s] · ℓ(z_s, a_s) + coef_b[s] · ℓ(z_s, b_s)
//! ℓ(z, k) = (1 − p_k)^γ · (−log p_k),     p = softmax(u)
//! u_c     = scale_c · z_c + offset_c − [c = k] · margin_k
//!
//! ∂ℓ/∂z_c = h · (p_c − [c = k]) · scale_c,   h = (1 − p_k)^γ − γ · p_k · (1 − p_k)^(γ−1) · log p_k
//! ```
//!
//! With a label smoothed by ε, and without γ, the loss is (1 − ε)·ℓ(z, k) plus ε times the mean of ℓ over all
//! classes.
//!
//! The logits z are `W·f + b` or, for a normalised classifier, [`SCALE`] times the cosine of the features and
//! a class's weights.

mod focal;
mod las;
mod ldam;
mod prior;
#[cfg(test)]
mod reference;
mod temperature;

pub use self::focal::FOCAL;
pub use self::las::LAS;
pub use self::ldam::LDAM;
pub use self::prior::{BALANCED_SOFTMAX, LOGIT_ADJUSTMENT};
#[cfg(test)]
pub(crate) use self::reference::reference;
pub use self::temperature::{CDT, VS};
use super::choice::{Choice, Entry, Kind};

/// Factor of the cosines in a normalised classifier: the s of LDAM.
pub const SCALE: f32 = 30.0;

/// What a classifier computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClassifierKind {
    /// `W·f + b`; the weight is (classes, features) in files.
    Linear,
    /// A multiple of the cosine of the features and a class's weights; the weight is (features, classes) in
    /// files, as in LDAM's code.
    Cosine,
}

/// A loss with the values of its options.
pub type Loss = Choice<LossKind>;

/// A kind of loss: an entry of the table of methods.
#[derive(Debug)]
pub struct LossKind {
    entry: Entry,
    /// The kind of classifier that the loss is made for.
    pub classifier: ClassifierKind,
    /// Whether the loss is only for classifiers on features.
    pub on_features: bool,
    /// Turns the criterion of cross-entropy into that of this loss, given each class's number of training
    /// images, all positive.
    criterion: fn(&Loss, &[usize], &mut Criterion),
}

impl Kind for LossKind {
    const PART: &'static str = "loss";
    const ALL: &'static [&'static LossKind] =
        &[&CE, &FOCAL, &BALANCED_SOFTMAX, &LOGIT_ADJUSTMENT, &LDAM, &VS, &CDT, &LAS];

    fn entry(&'static self) -> &'static Entry {
        &self.entry
    }
}

/// Cross-entropy of the softmax.
pub static CE: LossKind = LossKind {
    entry: Entry { name: "ce", title: "ERM", about: "Cross-entropy", source: "", options: &[] },
    classifier: ClassifierKind::Linear,
    on_features: false,
    criterion: |_, _, _| {},
};

impl Choice<LossKind> {
    /// Returns the kind of classifier that the loss is made for.
    pub fn classifier(&self) -> ClassifierKind {
        self.kind.classifier
    }

    /// Returns the criterion for classes with these numbers of training images, all positive.
    pub fn criterion(&self, counts: &[usize]) -> Criterion {
        let plain = Criterion::cross_entropy(counts.len());
        let mut criterion = Criterion { classifier: self.classifier(), ..plain };
        (self.kind.criterion)(self, counts, &mut criterion);
        criterion
    }
}

/// Applies `f` to each class's number of training images.
fn of_each(counts: &[usize], f: impl Fn(f64) -> f64) -> Vec<f32> {
    counts.iter().map(|&n| f(n as f64) as f32).collect()
}

/// Returns whether a number is between 0 and `most`, inclusive.
fn up_to(x: f64, most: f64) -> bool {
    (0.0..=most).contains(&x)
}

/// A loss in numbers: the input of the classification head's operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Criterion {
    /// Factor of each class's logit; empty if all are 1.
    pub scales: Vec<f32>,
    /// Offset that is added to each class's logit.
    pub offsets: Vec<f32>,
    /// Margin that is subtracted from the logit of a label, by class.
    pub margins: Vec<f32>,
    /// γ of the focal loss; 0 for none.
    pub gamma: f32,
    /// Share of each label that is spread over all classes; empty for none.
    pub smoothing: Vec<f32>,
    /// The kind of classifier that the loss is made for.
    pub classifier: ClassifierKind,
}

impl Criterion {
    /// Returns the criterion of plain cross-entropy.
    pub fn cross_entropy(classes: usize) -> Criterion {
        let classifier = ClassifierKind::Linear;
        let nothing = || vec![0.0; classes];
        let (scales, smoothing) = (vec![], vec![]);
        Criterion { scales, offsets: nothing(), margins: nothing(), gamma: 0.0, smoothing, classifier }
    }

    /// Returns whether labels have margins; then a sample's two labels do not share a softmax.
    pub fn has_margins(&self) -> bool {
        self.margins.iter().any(|&m| m != 0.0)
    }
}

/// Two labels and their coefficients for each of N samples; all four slices are of length N.
#[derive(Clone, Copy, Debug)]
pub struct Targets<'a> {
    /// First label, below the number of classes.
    pub label_a: &'a [u32],
    /// Second label, below the number of classes.
    pub label_b: &'a [u32],
    /// Coefficient of the first label's loss.
    pub coef_a: &'a [f32],
    /// Coefficient of the second label's loss.
    pub coef_b: &'a [f32],
}

#[cfg(test)]
mod tests;
