//! Networks: their convolutions, shortcuts, pooling and classifier, with the names that these have in files;
//! and their parameters.
//!
//! A [`Network`] is data, without tensors. The [`zoo`] has one short function for each family of networks. An
//! engine runs any network that it is given, or reports before any work what it does not support. The values
//! of the parameters are in [`Params`].

mod entries;
pub mod files;
pub mod params;
mod torch;
pub mod zoo;

pub use crate::methods::loss::ClassifierKind;
pub use params::Params;
pub use zoo::Arch;

/// The ε of all batch norms, PyTorch's default: they divide by √(σ² + ε).
pub const EPS: f64 = 1e-5;

/// Weight of a new batch in a batch norm's running statistics, PyTorch's default.
pub const MOMENTUM: f64 = 0.1;

/// A residual network: stem, stages of blocks, mean over all pixels, classifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Name of the architecture.
    pub name: String,
    /// The first convolution, with its batch norm and ReLU. If it has 0 input channels, the network consists
    /// of the classifier alone, and `cout` is the number of features.
    pub stem: Conv,
    /// Whether a 3×3 max-pool with stride 2 and padding 1 follows the stem.
    pub pool: bool,
    /// Stages of blocks; the outputs within a stage have one size. Hidden states can be mixed between stages.
    pub stages: Vec<Vec<Block>>,
    /// The last layer.
    pub classifier: Classifier,
}

/// A convolution without bias, padded by half of its kernel, and its batch norm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conv {
    /// In files: `NAME.weight`, (out, in, height, width).
    pub name: String,
    /// In files: `NORM.weight`, `NORM.bias`, `NORM.running_mean`, `NORM.running_var`.
    pub norm: String,
    /// Height and width of the kernel; odd.
    pub kernel: usize,
    /// Distance between neighbouring positions of the kernel.
    pub stride: usize,
    /// Channels of the input.
    pub cin: usize,
    /// Channels of the output.
    pub cout: usize,
}

/// A residual block: `relu(norm(conv(… relu(norm(conv(x))) …)) + shortcut(x))`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Two or three convolutions; each but the last is followed by a ReLU.
    pub convs: Vec<Conv>,
    /// The shortcut, which is added before the last ReLU.
    pub shortcut: Shortcut,
}

/// What a block adds to the output of its last batch norm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shortcut {
    /// The block's input.
    Identity,
    /// Every second pixel of the input. New channels are filled with zeros, half of them in front of the old
    /// ones (He et al. 2016, option A).
    Padded,
    /// A 1×1 convolution of the input, followed by a batch norm.
    Projected(Conv),
}

/// The layer from features to logits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classifier {
    /// In files: `NAME.weight` and, if linear, `NAME.bias`.
    pub name: String,
    /// What the classifier computes.
    pub kind: ClassifierKind,
}

/// The sizes of a convolution for images of a given size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Input height.
    pub height: usize,
    /// Input width.
    pub width: usize,
    /// Input channels.
    pub cin: usize,
    /// Output channels.
    pub cout: usize,
    /// Height and width of the kernel.
    pub kernel: usize,
    /// Stride, 1 or 2.
    pub stride: usize,
}

impl Geometry {
    /// Returns the output height.
    pub fn out_height(&self) -> usize {
        (self.height - 1) / self.stride + 1
    }

    /// Returns the output width.
    pub fn out_width(&self) -> usize {
        (self.width - 1) / self.stride + 1
    }

    /// Returns the number of values of an input image.
    pub fn in_len(&self) -> usize {
        self.height * self.width * self.cin
    }

    /// Returns the height, width and channels of an output image.
    pub fn out_shape(&self) -> [usize; 3] {
        [self.out_height(), self.out_width(), self.cout]
    }

    /// Returns the number of values of an output image.
    pub fn out_len(&self) -> usize {
        self.out_height() * self.out_width() * self.cout
    }

    /// Returns the number of taps of the kernel.
    pub fn taps(&self) -> usize {
        self.kernel * self.kernel
    }

    /// Returns the width of the zero padding around the image.
    pub fn padding(&self) -> usize {
        self.kernel / 2
    }

    /// Returns the number of values of the weight, (kernel, kernel, cin, cout).
    pub fn weight_len(&self) -> usize {
        self.taps() * self.cin * self.cout
    }
}

impl Network {
    /// Returns all convolutions in the order of their parameters: the stem, then those of each block with its
    /// projection last.
    pub fn convs(&self) -> impl Iterator<Item = &Conv> {
        // A classifier on given features has no convolutions.
        std::iter::once(&self.stem).filter(|stem| stem.cin > 0).chain(self.blocks().flat_map(|block| {
            let projection = match &block.shortcut {
                Shortcut::Projected(conv) => Some(conv),
                Shortcut::Identity | Shortcut::Padded => None,
            };
            block.convs.iter().chain(projection)
        }))
    }

    /// Returns all blocks in order.
    pub fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.stages.iter().flatten()
    }

    /// Returns the length of the features, which are the mean of the last block's output over its pixels.
    pub fn features(&self) -> usize {
        self.blocks().last().and_then(|b| b.convs.last()).map_or(self.stem.cout, |conv| conv.cout)
    }

    /// Returns the sizes of all convolutions, in the order of [`Network::convs`], for images of
    /// `[height, width, channels]`.
    pub fn geometries(&self, [height, width, _]: [usize; 3]) -> Vec<Geometry> {
        let mut all = Vec::new();
        let mut add = |conv: &Conv, [height, width]: [usize; 2]| {
            let &Conv { kernel, stride, cin, cout, .. } = conv;
            let geo = Geometry { height, width, cin, cout, kernel, stride };
            all.push(geo);
            [geo.out_height(), geo.out_width()]
        };
        let mut size = add(&self.stem, [height, width]);
        if self.pool {
            size = size.map(|side| (side - 1) / 2 + 1);
        }
        for block in self.blocks() {
            let before = size;
            for conv in &block.convs {
                size = add(conv, size);
            }
            if let Shortcut::Projected(conv) = &block.shortcut {
                add(conv, before);
            }
        }
        all
    }

    /// Returns the classifier alone, as a network whose inputs are features.
    #[must_use]
    pub fn without_layers(&self) -> Network {
        let stem = Conv { cin: 0, cout: self.features(), ..self.stem.clone() };
        let (name, classifier) = (self.name.clone(), self.classifier.clone());
        Network { name, stem, pool: false, stages: vec![], classifier }
    }

    /// Returns the network with another kind of classifier.
    pub fn with_classifier(mut self, kind: ClassifierKind) -> Network {
        self.classifier.kind = kind;
        self
    }
}

impl Conv {
    /// Returns the number of values of the weight.
    pub fn weight_len(&self) -> usize {
        self.kernel * self.kernel * self.cin * self.cout
    }

    /// Returns the shape of the weight in files.
    pub fn shape(&self) -> [usize; 4] {
        [self.cout, self.cin, self.kernel, self.kernel]
    }
}

#[cfg(test)]
mod tests;
