//! What the manifest of a data set records about its classes and channels.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::files::Preprocess;
use super::{CHANNELS, Error};
use crate::manifest::{Manifest, json_fault, key};

/// What the manifest of a data set records about its classes and channels.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Info {
    /// Number of classes.
    pub classes: usize,
    /// Names of the classes, by label.
    pub class_names: Vec<String>,
    /// Training images of each class, after imbalance and hold-out.
    pub cls_num_list: Vec<usize>,
    /// Mean of each channel over the training split, 0–1 scale.
    pub mean: Vec<f64>,
    /// Standard deviation of each channel over the training split, 0–1 scale.
    pub std: Vec<f64>,
    /// Normalisation for networks; CIFAR's values if it is missing.
    #[serde(default)]
    pub normalise: Option<Normalise>,
    /// Side of the square that networks see, in pixels, if the stored images are larger.
    #[serde(default)]
    pub crop: Option<usize>,
    /// How image files were preprocessed.
    #[serde(default)]
    pub preprocess: Option<Preprocess>,
    /// Length of the features of an image, if the data set has features instead of pixels.
    #[serde(default)]
    pub feature_len: Option<usize>,
}

impl Info {
    /// Returns an identifier for the names and the order of the classes, for image files and features: the
    /// beginning of a hash. Published data sets need none.
    pub fn names_id(&self) -> Option<String> {
        let is_own = self.preprocess.is_some() || self.feature_len.is_some();
        is_own.then(|| names_id(&self.class_names))
    }

    /// Reads the metrics of a data set's manifest.
    ///
    /// # Errors
    /// Returns an error if metrics are missing or contradict each other, or if the manifest is not that of a
    /// data set.
    pub fn of(m: &Manifest) -> Result<Info, Error> {
        let bad = |why: String| Error::Foreign { path: m.path.clone().unwrap_or_default(), why };
        let info: Info = serde_json::from_value(Value::Object(m.metrics.clone()))
            .map_err(|e| bad(format!("metrics: {}", json_fault(&e))))?;
        let same = [info.class_names.len(), info.cls_num_list.len()] == [info.classes; 2];
        if info.classes == 0 || !same {
            return Err(bad("metrics: classes, class_names and cls_num_list disagree".into()));
        }
        if [info.mean.len(), info.std.len()] != [CHANNELS; 2] {
            return Err(bad(format!("metrics: mean and std must have {CHANNELS} numbers each")));
        }
        if info.normalise.is_some_and(|n| !n.is_sound()) {
            return Err(bad(
                "metrics: normalise must hold finite means and positive standard deviations".into()
            ));
        }
        let sides = [info.crop, info.preprocess.map(|p| p.size), info.preprocess.map(Preprocess::stored)];
        if sides.contains(&Some(0)) {
            return Err(bad("metrics: crop and preprocess must hold positive sizes".into()));
        }
        Ok(info)
    }
}

/// Returns the beginning of a hash of the class names, in their order.
pub fn names_id(class_names: &[String]) -> String {
    let text = Value::from(class_names).to_string();
    key::short(&blake3::hash(text.as_bytes()).to_hex()).to_owned()
}

/// Normalisation of the channels, on the 0–1 scale: `(x − mean)/std`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Normalise {
    /// Subtracted from the pixels.
    pub mean: [f64; CHANNELS],
    /// Divides the pixels.
    pub std: [f64; CHANNELS],
}

impl Normalise {
    /// CIFAR's values, as in the reference recipe.
    pub const CIFAR: Normalise = Normalise { mean: [0.4914, 0.4822, 0.4465], std: [0.2023, 0.1994, 0.2010] };

    /// ImageNet's values, as in torchvision's networks.
    pub const IMAGENET: Normalise = Normalise { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };

    /// Returns whether the means are finite and the standard deviations are finite and positive.
    pub fn is_sound(&self) -> bool {
        self.mean.iter().all(|m| m.is_finite()) && self.std.iter().all(|s| s.is_finite() && *s > 0.0)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::json;

    use super::*;
    use crate::manifest::store::Plan;
    use crate::manifest::{Kind, Object};

    #[test]
    fn metrics_that_no_network_can_use_are_refused() {
        let plan = Plan {
            kind: Kind::Dataset,
            semantics: 1,
            params: Object::new(),
            inputs: vec![],
            dir: PathBuf::new(),
            file: None,
        };
        let of = |name: &str, value: Value| {
            let mut m = plan.manifest();
            let metrics = json!({
                "classes": 2,
                "class_names": ["a", "b"],
                "cls_num_list": [9, 1],
                "mean": [0.5, 0.5, 0.5],
                "std": [0.2, 0.2, 0.2],
            });
            m.metrics = metrics.as_object().cloned().expect("an object");
            m.metrics.insert(name.into(), value);
            Info::of(&m).map_err(|e| e.to_string())
        };
        assert!(of("crop", json!(16)).is_ok_and(|info| info.crop == Some(16)));
        for (name, value, why) in [
            ("crop", json!(0), "crop and preprocess must hold positive sizes"),
            ("preprocess", json!({"size": 0}), "crop and preprocess must hold positive sizes"),
            ("preprocess", json!({"size": 8, "resize": 0}), "crop and preprocess must hold positive sizes"),
            ("cls_num_list", json!([10]), "disagree"),
            ("std", json!([0.2]), "must have 3 numbers each"),
            ("normalise", json!({"mean": [0, 0, 0], "std": [1, 1, 0]}), "positive standard deviations"),
            (
                "normalise",
                json!("imagenet"),
                "metrics: invalid type: string \"imagenet\", expected an object",
            ),
        ] {
            assert!(of(name, value).is_err_and(|e| e.contains(why)), "{name}: {why}");
        }
    }
}
