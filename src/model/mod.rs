//! Networks: their architecture, training step, inference and files.

mod entries;
pub mod infer;
pub mod resnet;
mod torch;
mod unpickle;
pub mod weights;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ops::conv::Geometry;

pub use infer::{Inference, infer};

/// A CIFAR ResNet (He et al. 2016, section 4.2): three stages of 16, 32 and 64 channels at 32², 16² and 8².
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Arch {
    depth: usize,
}

/// Depths that the literature uses.
const DEPTHS: [usize; 5] = [20, 32, 44, 56, 110];

impl TryFrom<String> for Arch {
    type Error = String;

    fn try_from(s: String) -> Result<Self, String> {
        s.parse()
    }
}

impl From<Arch> for String {
    fn from(arch: Arch) -> String {
        arch.to_string()
    }
}

impl FromStr for Arch {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let depth = s.strip_prefix("resnet").and_then(|d| d.parse().ok());
        match depth.filter(|d| DEPTHS.contains(d)) {
            Some(depth) => Ok(Arch { depth }),
            None => Err(format!("no architecture {s:?}; there are {}", Arch::names().join(", "))),
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "resnet{}", self.depth)
    }
}

impl Arch {
    /// ResNet-32, the network of the papers.
    pub const RESNET32: Arch = Arch { depth: 32 };

    /// All names.
    pub fn names() -> Vec<String> {
        DEPTHS.iter().map(|d| format!("resnet{d}")).collect()
    }

    /// Length of the pooled features.
    pub fn feature_len(self) -> usize {
        64
    }

    /// The convolutions for images of `[height, width, channels]`, stem first, then two a block.
    pub fn convs(self, [height, width, channels]: [usize; 3]) -> Vec<Named> {
        let mut all = vec![Named {
            conv: "conv1".into(),
            norm: "bn1".into(),
            geo: Geometry { height, width, cin: channels, cout: 16, stride: 1 },
        }];
        let (mut height, mut width, mut cin) = (height, width, 16);
        for stage in 0..3 {
            for block in 0..(self.depth - 2) / 6 {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                let cout = 16 << stage;
                let first = Geometry { height, width, cin, cout, stride };
                (height, width, cin) = (first.out_height(), first.out_width(), cout);
                let second = Geometry { height, width, cin, cout, stride: 1 };
                for (n, geo) in [(1, first), (2, second)] {
                    let place = format!("layer{}.{block}", stage + 1);
                    all.push(Named { conv: format!("{place}.conv{n}"), norm: format!("{place}.bn{n}"), geo });
                }
            }
        }
        all
    }
}

/// A convolution with PyTorch's names for it and for its batch norm.
#[derive(Clone, Debug)]
pub struct Named {
    /// Such as `layer1.0.conv1`.
    pub conv: String,
    /// Such as `layer1.0.bn1`.
    pub norm: String,
    /// Its sizes.
    pub geo: Geometry,
}

#[cfg(test)]
mod files_tests;
#[cfg(test)]
mod tests;
