//! The choice of training images from a data set: the long-tailed and step profiles, and the draw of the
//! reference code.
//!
//! The subset is that of LDAM-DRW's `IMBALANCECIFAR10` (Cao et al., 2019), which the Remix report also uses:
//! for each class in turn, numpy's legacy generator shuffles the indices of the class, and the first n_k are
//! kept, in shuffled order.
//!
//! The balanced hold-out is taken *before* the profile is applied: every class contributes the same number of
//! images, the last ones of its shuffle, and the profile is applied to the remaining n_max − v. Hence
//! validation is balanced like the test set (the usual protocol, e.g. Ren et al., 2018), the ratio is the
//! requested one, each class's training images are a prefix of the reference's order, and without a hold-out
//! the subset equals that of the reference.

use rand_mt::Mt;

use super::Error;

/// Number of images that each class keeps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Profile {
    /// n_k = int(n_max · r^(−k/(C−1))): a long tail.
    Exp {
        /// Ratio of the largest class to the smallest, r ≥ 1.
        ratio: f64,
    },
    /// The first classes keep n_max, the others int(n_max / r).
    Step {
        /// Ratio of the largest class to the smallest, r ≥ 1.
        ratio: f64,
        /// Share of classes that are small, 0 < F < 1; the number of large ones is int(C · (1 − F)).
        minority_fraction: f64,
    },
    /// All images, in file order.
    None,
}

/// Indices into the source's training images.
#[derive(Debug, PartialEq)]
pub struct Draw {
    /// The training subset, class by class as drawn (in file order for [`Profile::None`]).
    pub train: Vec<u32>,
    /// The hold-out, class by class as drawn; empty if there is none.
    pub val: Vec<u32>,
}

/// Returns the number of training images of each class. `classes` is C, `n_max` is the number of images of the
/// largest class, and `reason` says where that number is from, for the message.
fn cls_num_list(profile: Profile, classes: usize, n_max: usize, reason: &str) -> Result<Vec<usize>, Error> {
    let fail = |what: String| Err(Error::Profile(what));
    let (ratio, large) = match profile {
        Profile::None => return Ok(vec![n_max; classes]),
        Profile::Exp { ratio } => (ratio, None),
        Profile::Step { ratio, minority_fraction: f } => {
            // The margin makes 0.9 of 10 classes leave 1, although 10 · (1 − 0.9) is slightly below 1 in
            // binary.
            let large = (classes as f64 * (1.0 - f) + 1e-9).floor();
            if !(large >= 1.0 && large < classes as f64) {
                return fail(format!(
                    "--minority-fraction {f}: makes all or none of the {classes} classes small; use a value \
                     from {:.2} to {:.2}",
                    1.0 / classes as f64,
                    1.0 - 1.0 / classes as f64
                ));
            }
            (ratio, Some(large as usize))
        }
    };
    if !(ratio >= 1.0 && ratio.is_finite()) {
        return fail(format!(
            "--imb-ratio {ratio}: must be a finite number of 1 or more (size of the largest class divided by \
             that of the smallest, such as 100)"
        ));
    }
    // Same operations on the same doubles as in the reference, so that int() truncates at the same points.
    let smallest = |ratio: f64| (n_max as f64 * (1.0 / ratio)) as usize;
    if smallest(ratio) == 0 {
        let usable = (1..=n_max).rev().find(|&r| smallest(r as f64) > 0).unwrap_or(1);
        return fail(format!(
            "--imb-ratio {ratio}: the smallest class would have no images; {reason}, so the largest usable \
             ratio is {usable}"
        ));
    }
    let factor = 1.0 / ratio;
    let count = |k: usize| match large {
        None => (n_max as f64 * factor.powf(k as f64 / (classes as f64 - 1.0))) as usize,
        Some(large) if k < large => n_max,
        Some(_) => smallest(ratio),
    };
    Ok((0..classes).map(count).collect())
}

/// Returns the number of images that each class contributes to the training subset, and the number that every
/// class contributes to the hold-out, if each of `classes` has `each` images.
///
/// # Errors
/// Returns the errors of [`wanted`], and an error if the hold-out would take no image or all.
pub fn counts(
    profile: Profile,
    val_fraction: f64,
    classes: usize,
    each: usize,
) -> Result<(Vec<usize>, usize), Error> {
    if !(0.0..1.0).contains(&val_fraction) {
        return Err(Error::Profile(format!("--val-fraction {val_fraction}: must be at least 0 and below 1")));
    }
    let held = (each as f64 * val_fraction).round() as usize;
    if (held == 0) != (val_fraction == 0.0) || held >= each {
        return Err(Error::Profile(format!(
            "--val-fraction {val_fraction}: would hold out {held} of the {each} images of each class; use 0 \
             for no validation split, or a value that leaves images in both splits"
        )));
    }
    let n_max = each - held;
    let reason = format!("each class has {}", training_images(n_max));
    Ok((cls_num_list(profile, classes, n_max, &reason)?, held))
}

/// Draws the subset and the hold-out. `labels` are those of the official training set, which must be
/// balanced.
///
/// # Errors
/// Returns the errors of [`counts`].
pub fn draw(
    labels: &[u32],
    classes: usize,
    profile: Profile,
    val_fraction: f64,
    rand_number: u32,
) -> Result<Draw, Error> {
    let each = labels.len() / classes;
    let (counts, held) = counts(profile, val_fraction, classes, each)?;
    Ok(take(labels, &counts, held, profile == Profile::None, rand_number))
}

/// Draws a subset of images whose classes have different sizes.
///
/// `available` is the number of images of each class, as [`count`] returns it, and `wanted` is the number that
/// the profile asks for, as [`wanted()`] returns it. A class with fewer images contributes all of them.
pub fn draw_unbalanced(
    labels: &[u32],
    available: &[usize],
    wanted: &[usize],
    profile: Profile,
    rand_number: u32,
) -> Draw {
    let counts: Vec<usize> = wanted.iter().zip(available).map(|(&n, &have)| n.min(have)).collect();
    if counts == available {
        // All images are kept, so nothing is drawn.
        return Draw { train: (0..).take(labels.len()).collect(), val: vec![] };
    }
    take(labels, &counts, 0, profile == Profile::None, rand_number)
}

/// Returns the number of images that a profile asks of each class, for classes with `available` images. The
/// profile starts at `max_per_class`, or otherwise at the size of the largest class.
///
/// # Errors
/// Returns an error if the ratio is below 1, if the step leaves one side without classes, or if a class would
/// be empty.
pub fn wanted(
    available: &[usize],
    profile: Profile,
    max_per_class: Option<usize>,
) -> Result<Vec<usize>, Error> {
    let (n_max, reason) = match max_per_class {
        Some(most) => (most, format!("--max-per-class is {most}")),
        None => {
            let largest = available.iter().copied().max().unwrap_or(0);
            (largest, format!("the largest class has {}", training_images(largest)))
        }
    };
    cls_num_list(profile, available.len(), n_max, &reason)
}

/// Formats a number of training images.
fn training_images(n: usize) -> String {
    format!("{n} training image{}", if n == 1 { "" } else { "s" })
}

/// Returns the number of images of each class.
pub fn count(labels: &[u32], classes: usize) -> Vec<usize> {
    let mut counts = vec![0; classes];
    labels.iter().for_each(|&label| counts[label as usize] += 1);
    counts
}

/// Shuffles each class, and takes its first `counts` and its last `held` images.
fn take(labels: &[u32], counts: &[usize], held: usize, sorted: bool, rand_number: u32) -> Draw {
    let mut members = vec![vec![]; counts.len()];
    for (i, &label) in labels.iter().enumerate() {
        members[label as usize].push(i as u32);
    }
    let mut generator = Mt::new(rand_number);
    let (mut train, mut val) = (vec![], vec![]);
    for (class, &n) in members.iter_mut().zip(counts) {
        shuffle(class, &mut generator);
        train.extend_from_slice(&class[..n]);
        val.extend_from_slice(&class[class.len() - held..]);
    }
    if sorted {
        train.sort_unstable();
    }
    Draw { train, val }
}

/// Shuffles like `numpy.random.shuffle` of the legacy `RandomState`: from the back, swap with a uniform index
/// found by masked rejection on 32-bit words.
pub(super) fn shuffle(items: &mut [u32], generator: &mut Mt) {
    for i in (1..items.len()).rev() {
        let bound = u32::try_from(i).expect("a data set has fewer than 2^32 images");
        let mask = u32::MAX >> bound.leading_zeros();
        let j = loop {
            let word = generator.next_u32() & mask;
            if word <= bound {
                break word as usize;
            }
        };
        items.swap(i, j);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn exp(ratio: f64) -> Profile {
        Profile::Exp { ratio }
    }

    fn step(ratio: f64, minority_fraction: f64) -> Profile {
        Profile::Step { ratio, minority_fraction }
    }

    /// Returns the sizes of ten classes.
    fn sizes(profile: Profile, n_max: usize) -> Vec<usize> {
        cls_num_list(profile, 10, n_max, "").expect("sizes")
    }

    fn message(profile: Profile, n_max: usize) -> String {
        cls_num_list(profile, 10, n_max, "").expect_err("refused").to_string()
    }

    /// Returns the number of drawn images of each class.
    fn drawn(indices: &[u32], labels: &[u32], classes: usize) -> Vec<usize> {
        count(&indices.iter().map(|&i| labels[i as usize]).collect::<Vec<_>>(), classes)
    }

    /// Compares with subsets drawn by numpy; the script that made them is next to the file.
    #[test]
    fn draws_match_numpy() {
        let vectors: Value =
            serde_json::from_str(include_str!("../../tests/fixtures/numpy_parity.json")).expect("JSON");
        let subsets = vectors["subsets"].as_array().expect("a list");
        assert_eq!(subsets.len(), 200);
        for s in subsets {
            let int = |n: usize| s[n].as_u64().expect("an integer");
            let classes = int(0) as u32;
            let ratio = s[2].as_f64().expect("a number");
            let profile = if s[1] == "exp" { exp(ratio) } else { step(ratio, 0.5) };
            let labels: Vec<u32> = (0..50_000).map(|i| (7 * i + 3) % classes).collect();
            let d = draw(&labels, classes as usize, profile, 0.0, int(3) as u32).expect("drawn");
            let fnv = |h: u64, &i: &u32| (h ^ u64::from(i)).wrapping_mul(0x100_0000_01b3);
            let hash = format!("{:016x}", d.train.iter().fold(0xcbf2_9ce4_8422_2325, fnv));
            let smallest = drawn(&d.train, &labels, classes as usize)[classes as usize - 1];
            assert_eq!(
                (d.train.len() as u64, smallest as u64, Value::from(hash)),
                (int(4), int(5), s[6].clone()),
                "{s}"
            );
        }
    }

    #[test]
    fn counts_match_the_reference_code() {
        let counts = |profile| sizes(profile, 5000);
        assert_eq!(counts(exp(100.0)), [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]);
        assert_eq!(counts(exp(10.0)), [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500]);
        assert_eq!(counts(step(100.0, 0.5)), [5000, 5000, 5000, 5000, 5000, 50, 50, 50, 50, 50]);
        assert_eq!(counts(step(10.0, 0.5)), [5000, 5000, 5000, 5000, 5000, 500, 500, 500, 500, 500]);
    }

    #[test]
    fn step_boundary_follows_the_fraction() {
        let large = |f| sizes(step(100.0, f), 5000).iter().filter(|&&n| n == 5000).count();
        assert_eq!([0.1, 0.25, 0.3, 0.5, 0.7, 0.9].map(large), [9, 7, 7, 5, 3, 1]);
    }

    #[test]
    fn impossible_profiles_are_refused() {
        assert!(message(exp(0.99), 5000).contains("must be a finite number of 1 or more"));
        assert!(message(exp(f64::NAN), 5000).contains("must be a finite number of 1 or more"));
        assert!(message(exp(f64::INFINITY), 5000).contains("must be a finite number of 1 or more"));
        assert!(message(exp(5001.0), 5000).contains("largest usable ratio is 5000"));
        assert!(message(step(600.0, 0.5), 500).contains("largest usable ratio is 500"));
        assert!(message(step(10.0, 1.0), 500).contains("--minority-fraction 1"));
        assert!(message(step(10.0, f64::NAN), 500).contains("--minority-fraction NaN"));
        assert_eq!(sizes(exp(5000.0), 5000)[9], 1);
        let one = wanted(&[1, 1], exp(2.0), None).expect_err("refused").to_string();
        assert!(one.ends_with("has 1 training image, so the largest usable ratio is 1"), "{one}");
        let wanted = |most| wanted(&[25, 21, 5], exp(100.0), most).expect_err("refused").to_string();
        let reason = "the largest class has 25 training images, so the largest usable ratio is 25";
        assert!(wanted(None).contains(reason), "{}", wanted(None));
        assert!(wanted(Some(10)).contains("--max-per-class is 10, so the largest usable ratio is 10"));
        // 49 · (1/49) is below 1 in doubles, so 49 is not usable although 49/49 = 1.
        assert!(message(exp(49.0), 49).contains("largest usable ratio is 48"));
    }

    #[test]
    fn held_out_images_are_balanced_and_come_from_the_end_of_each_class() {
        let labels: Vec<u32> = (0..1000).map(|i| i % 10).collect();
        let whole = draw(&labels, 10, exp(1.0), 0.0, 7).expect("drawn");
        let part = draw(&labels, 10, exp(10.0), 0.2, 7).expect("drawn");
        let kept = drawn(&part.train, &labels, 10);
        assert_eq!(kept, sizes(exp(10.0), 80));
        let mut at = 0;
        for (k, &n) in kept.iter().enumerate() {
            assert_eq!(part.train[at..at + n], whole.train[k * 100..k * 100 + n]);
            assert_eq!(part.val[k * 20..(k + 1) * 20], whole.train[k * 100 + 80..(k + 1) * 100]);
            at += n;
        }
        let none = draw(&labels, 10, Profile::None, 0.0, 7).expect("drawn");
        assert_eq!(none.train, (0..1000).collect::<Vec<_>>());
        for f in [-0.1, 0.001, 1.0, f64::NAN] {
            let e = draw(&labels, 10, Profile::None, f, 0).expect_err("refused").to_string();
            assert!(e.contains("--val-fraction"), "{e}");
        }
    }
}
