//! What a network is: convolutions, shortcuts, pooling and a classifier, with the names that they have in
//! files; and its parameters.
//!
//! A [`Network`] is data, without tensors. The [`zoo`] has one short function for each family; engines
//! execute whatever they are given, or say before any work what they lack for it. The values are in
//! [`Params`].

mod entries;
pub mod files;
pub mod params;
mod torch;
mod unpickle;
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
    /// What it is called.
    pub name: String,
    /// The first convolution, with its batch norm and ReLU. With 0 input channels there is no network but the
    /// classifier, and `cout` is the number of features.
    pub stem: Conv,
    /// Whether a 3×3 max-pool with stride 2 and padding 1 follows the stem.
    pub pool: bool,
    /// Blocks whose outputs have one size. Between stages hidden states can be mixed.
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
    /// Height and width of the kernel: odd.
    pub kernel: usize,
    /// Distance between neighbouring positions of the kernel.
    pub stride: usize,
    /// Channels of the input.
    pub cin: usize,
    /// Channels of the output.
    pub cout: usize,
}

/// `relu(norm(conv(… relu(norm(conv(x))) …)) + shortcut(x))`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Two or three; each but the last is followed by a ReLU.
    pub convs: Vec<Conv>,
    /// What is added before the last ReLU.
    pub shortcut: Shortcut,
}

/// What a block adds to its last batch norm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shortcut {
    /// Its input.
    Identity,
    /// Every second pixel of its input, with zeros for the channels that are new, half of them in front (He
    /// et al. 2016, option A).
    Padded,
    /// A 1×1 convolution of its input, and a batch norm.
    Projected(Conv),
}

/// The layer from features to logits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classifier {
    /// In files: `NAME.weight` and, of a linear one, `NAME.bias`.
    pub name: String,
    /// What it computes.
    pub kind: ClassifierKind,
}

/// Sizes of a convolution on images of some size.
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
    /// 1 or 2.
    pub stride: usize,
}

impl Geometry {
    /// Output height.
    pub fn out_height(&self) -> usize {
        (self.height - 1) / self.stride + 1
    }

    /// Output width.
    pub fn out_width(&self) -> usize {
        (self.width - 1) / self.stride + 1
    }

    /// Values of one input image.
    pub fn in_len(&self) -> usize {
        self.height * self.width * self.cin
    }

    /// Values of one output image.
    pub fn out_len(&self) -> usize {
        self.out_height() * self.out_width() * self.cout
    }

    /// Places of the kernel.
    pub fn taps(&self) -> usize {
        self.kernel * self.kernel
    }

    /// Width of the zeros around the image.
    pub fn padding(&self) -> usize {
        self.kernel / 2
    }

    /// Values of the weight (kernel, kernel, cin, cout).
    pub fn weight_len(&self) -> usize {
        self.taps() * self.cin * self.cout
    }
}

impl Network {
    /// All convolutions, in the order of their parameters: the stem, then those of each block, its projection
    /// last.
    pub fn convs(&self) -> impl Iterator<Item = &Conv> {
        // Features from elsewhere have no layers.
        std::iter::once(&self.stem).filter(|stem| stem.cin > 0).chain(self.blocks().flat_map(|block| {
            let projection = match &block.shortcut {
                Shortcut::Projected(conv) => Some(conv),
                Shortcut::Identity | Shortcut::Padded => None,
            };
            block.convs.iter().chain(projection)
        }))
    }

    /// All blocks in their order.
    pub fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.stages.iter().flatten()
    }

    /// Length of the features, the mean of the last block's output over its pixels.
    pub fn features(&self) -> usize {
        self.blocks().last().and_then(|b| b.convs.last()).map_or(self.stem.cout, |conv| conv.cout)
    }

    /// The sizes of all convolutions, in the order of [`Network::convs`], for images of
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

    /// The classifier alone, on features that are there.
    #[must_use]
    pub fn without_layers(&self) -> Network {
        let stem = Conv { cin: 0, cout: self.features(), ..self.stem.clone() };
        let (name, classifier) = (self.name.clone(), self.classifier.clone());
        Network { name, stem, pool: false, stages: vec![], classifier }
    }

    /// The network with another kind of classifier.
    pub fn with_classifier(mut self, kind: ClassifierKind) -> Network {
        self.classifier.kind = kind;
        self
    }
}

impl Conv {
    /// Values of the weight.
    pub fn weight_len(&self) -> usize {
        self.kernel * self.kernel * self.cin * self.cout
    }

    /// Shape of the weight in files.
    pub fn shape(&self) -> [usize; 4] {
        [self.cout, self.cin, self.kernel, self.kernel]
    }
}

#[cfg(test)]
mod files_tests;
#[cfg(test)]
mod tests;
