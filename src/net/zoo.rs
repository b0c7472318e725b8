//! The networks that have names; one function builds each family.
//!
//! Tensors, and thus files, have the names of the code that made each family known.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Block, Classifier, ClassifierKind, Conv, Network, Shortcut};

/// A network by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Arch {
    /// A network of the zoo, by its index.
    Zoo(usize),
    /// No network: a classifier on given features of this length, for example `features-512`.
    Features(usize),
}

/// Prefix of the names of classifiers on features.
const FEATURES: &str = "features-";

/// A function that builds a network.
type Make = fn() -> Network;

const ZOO: [(&str, Make); 11] = [
    ("resnet20", || cifar_resnet(20)),
    ("resnet32", || cifar_resnet(32)),
    ("resnet44", || cifar_resnet(44)),
    ("resnet56", || cifar_resnet(56)),
    ("resnet110", || cifar_resnet(110)),
    ("resnet18-cifar", || cifar_wide([2, 2, 2, 2])),
    ("resnet34-cifar", || cifar_wide([3, 4, 6, 3])),
    ("resnet10", || imagenet([1, 1, 1, 1], BlockKind::Basic)),
    ("resnet18", || imagenet([2, 2, 2, 2], BlockKind::Basic)),
    ("resnet34", || imagenet([3, 4, 6, 3], BlockKind::Basic)),
    ("resnet50", || imagenet([3, 4, 6, 3], BlockKind::Bottleneck)),
];

/// Builds a ResNet for CIFAR (He et al. 2016, section 4.2): three stages of 16, 32 and 64 channels, shortcuts
/// without parameters, and the names of Idelbayev's code, which LDAM's `resnet_s` keeps.
fn cifar_resnet(depth: usize) -> Network {
    let blocks = (depth - 2) / 6;
    Network {
        name: String::new(),
        stem: conv("conv1", "bn1", 3, 1, [3, 16]),
        pool: false,
        stages: [16, 32, 64]
            .into_iter()
            .enumerate()
            .map(|(n, c)| {
                stage(n, blocks, BlockKind::Basic, [if n == 0 { 16 } else { c / 2 }, c], |_, stride, _| {
                    match stride {
                        1 => Shortcut::Identity,
                        _ => Shortcut::Padded,
                    }
                })
            })
            .collect(),
        classifier: linear("linear"),
    }
}

/// Builds a ResNet-18 or 34 for small images, as in the widely used `pytorch-cifar`: a 3×3 stem, 64 to 512
/// channels, projected shortcuts.
fn cifar_wide(blocks: [usize; 4]) -> Network {
    Network {
        name: String::new(),
        stem: conv("conv1", "bn1", 3, 1, [3, 64]),
        pool: false,
        stages: wide_stages(blocks, BlockKind::Basic, "shortcut"),
        classifier: linear("linear"),
    }
}

/// Builds a ResNet for large images, as in torchvision (which has no ResNet-10): a 7×7 stem and a max-pool
/// before the stages; bottlenecks have their stride in the 3×3 convolution.
fn imagenet(blocks: [usize; 4], kind: BlockKind) -> Network {
    Network {
        name: String::new(),
        stem: conv("conv1", "bn1", 7, 2, [3, 64]),
        pool: true,
        stages: wide_stages(blocks, kind, "downsample"),
        classifier: linear("fc"),
    }
}

/// Builds four stages of 64, 128, 256 and 512 channels (four times as many after bottlenecks), with projected
/// shortcuts where the size changes.
fn wide_stages(blocks: [usize; 4], kind: BlockKind, projection: &'static str) -> Vec<Vec<Block>> {
    let widths = [64, 128, 256, 512];
    (0..4)
        .map(|n| {
            let cin = if n == 0 { 64 } else { kind.out(widths[n - 1]) };
            stage(n, blocks[n], kind, [cin, widths[n]], |block, stride, [cin, cout]| {
                match (stride, cin == cout) {
                    (1, true) => Shortcut::Identity,
                    _ => {
                        let name = format!("{block}.{projection}");
                        Shortcut::Projected(conv(
                            &format!("{name}.0"),
                            &format!("{name}.1"),
                            1,
                            stride,
                            [cin, cout],
                        ))
                    }
                }
            })
        })
        .collect()
}

/// The convolutions of a block.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum BlockKind {
    /// Two 3×3 convolutions.
    Basic,
    /// 1×1, 3×3, and 1×1 with four times the channels.
    Bottleneck,
}

impl BlockKind {
    /// Returns the number of channels after a block of the given width.
    fn out(self, width: usize) -> usize {
        if self == BlockKind::Basic { width } else { 4 * width }
    }
}

/// Builds the blocks of a stage, from `cin` channels to those of `width`.
///
/// Stages are numbered from 0; the first block has stride 2 in all stages but the first. `shortcut` receives
/// the block's name in files, its stride, and its input and output channels.
pub(crate) fn stage(
    number: usize,
    blocks: usize,
    kind: BlockKind,
    [cin, width]: [usize; 2],
    shortcut: impl Fn(&str, usize, [usize; 2]) -> Shortcut,
) -> Vec<Block> {
    let cout = kind.out(width);
    let block = |n: usize| {
        let name = format!("layer{}.{n}", number + 1);
        let (stride, cin) = if n > 0 { (1, cout) } else { (if number > 0 { 2 } else { 1 }, cin) };
        let layers: &[(usize, usize, [usize; 2])] = match kind {
            BlockKind::Basic => &[(3, stride, [cin, width]), (3, 1, [width, width])],
            BlockKind::Bottleneck => {
                &[(1, 1, [cin, width]), (3, stride, [width, width]), (1, 1, [width, cout])]
            }
        };
        let layers = layers.iter().enumerate().map(|(n, &(kernel, stride, channels))| {
            let n = n + 1;
            conv(&format!("{name}.conv{n}"), &format!("{name}.bn{n}"), kernel, stride, channels)
        });
        Block { convs: layers.collect(), shortcut: shortcut(&name, stride, [cin, cout]) }
    };
    (0..blocks).map(block).collect()
}

/// Creates a convolution with its names.
pub(crate) fn conv(name: &str, norm: &str, kernel: usize, stride: usize, [cin, cout]: [usize; 2]) -> Conv {
    Conv { name: name.into(), norm: norm.into(), kernel, stride, cin, cout }
}

/// Creates a linear classifier with its name.
pub(crate) fn linear(name: &str) -> Classifier {
    Classifier { name: name.into(), kind: ClassifierKind::Linear }
}

impl Arch {
    /// ResNet-32, the network of the papers.
    pub const RESNET32: Arch = Arch::Zoo(1);

    /// Returns the names of all networks.
    pub fn names() -> impl Iterator<Item = &'static str> {
        ZOO.iter().map(|(name, _)| *name)
    }

    /// Returns the description of the network.
    pub fn network(self) -> Network {
        let network = match self {
            Arch::Zoo(n) => ZOO[n].1(),
            // No layers but the classifier.
            Arch::Features(len) => Network {
                name: String::new(),
                stem: conv("", "", 1, 1, [0, len]),
                pool: false,
                stages: vec![],
                classifier: linear("linear"),
            },
        };
        Network { name: self.to_string(), ..network }
    }
}

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
        // The length has 32 bits, so that no size that is computed from it overflows.
        let features = s.strip_prefix(FEATURES).and_then(|len| len.parse::<u32>().ok());
        if let Some(len) = features.filter(|len| *len > 0) {
            return Ok(Arch::Features(len as usize));
        }
        let known = ZOO.iter().position(|(name, _)| *name == s).map(Arch::Zoo);
        known.ok_or_else(|| {
            format!("no architecture {s:?}; choose one of {}", Arch::names().collect::<Vec<_>>().join(", "))
        })
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Arch::Zoo(n) => f.write_str(ZOO[*n].0),
            Arch::Features(len) => write!(f, "{FEATURES}{len}"),
        }
    }
}
