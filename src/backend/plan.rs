//! The plan of a network, derived from its description and the size of its images: the sizes of all layers,
//! which values are stored, and which gradient buffers are shared.

use std::ops::Range;

use super::Shortcut;
use crate::net::{Conv, Geometry, Network, Shortcut as Kind};

/// The plan of a network for images of one size.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Sizes of the layers, in the order of [`Network::convs`].
    pub layers: Vec<Geometry>,
    /// The blocks.
    pub blocks: Vec<Block>,
    /// For each gradient buffer, its number of values per image.
    pub gradients: Vec<usize>,
    /// For each group of blocks that pass gradients on in place, its two buffers, each as large as a block's
    /// output.
    pub(super) groups: Vec<[usize; 2]>,
    /// The buffer that blocks of three convolutions need in addition.
    pub(super) third: usize,
    /// The buffer for the stem's gradient, which is used if the stem's output is pooled.
    pub(super) stem: usize,
    /// Whether a max-pool follows the stem.
    pub pools: bool,
}

/// A block of a [`Plan`].
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// The number of its first layer.
    pub first: usize,
    /// The number of its last layer, not counting a projection.
    pub last: usize,
    /// What is added to the last layer's output; for a projection, the number of its layer.
    pub shortcut: Shortcut<(), usize>,
    /// The number of its stage, from 0.
    pub stage: usize,
    /// The group that its output belongs to.
    pub(super) group: usize,
}

/// A mix point inside the network: the hidden states that are mixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mixed {
    /// The block whose input is mixed.
    pub block: usize,
    /// The last layer before that block.
    pub layer: usize,
}

impl Plan {
    /// Makes the plan of a network for images of `[height, width, channels]`.
    ///
    /// # Errors
    /// Returns a message if the description is inconsistent, asks for something that no engine supports, or
    /// does not fit the images.
    pub fn new(network: &Network, shape: [usize; 3]) -> Result<Plan, String> {
        let [height, width, channels] = shape;
        if channels != network.stem.cin {
            let (name, cin) = (&network.name, network.stem.cin);
            return Err(format!("images have {channels} channels, but {name} takes {cin}"));
        }
        if height == 0 || width == 0 {
            return Err(format!("images of {height}×{width} have no pixels"));
        }
        check(network)?;
        let layers = network.geometries(shape);
        let (mut blocks, mut first, mut group) = (Vec::new(), 1, 0);
        for (stage, all) in network.stages.iter().enumerate() {
            for block in all {
                let last = first + block.convs.len() - 1;
                let shortcut = match block.shortcut {
                    Kind::Identity => Shortcut::Identity(()),
                    Kind::Padded => Shortcut::Padded(()),
                    Kind::Projected(_) => Shortcut::Projected(last + 1),
                };
                group += usize::from(block.shortcut != Kind::Identity);
                blocks.push(Block { first, last, shortcut, stage, group });
                first = last + 1 + usize::from(matches!(shortcut, Shortcut::Projected(_)));
            }
        }
        let mut plan = Plan {
            layers,
            blocks,
            gradients: vec![0; 2 * group + 4],
            groups: (0..=group).map(|n| [2 * n, 2 * n + 1]).collect(),
            third: 2 * group + 2,
            stem: 2 * group + 3,
            pools: network.pool,
        };
        plan.size_gradients();
        Ok(plan)
    }

    /// Sets the length of each gradient buffer to that of the largest gradient that it holds.
    fn size_gradients(&mut self) {
        let mut lens = vec![0; self.gradients.len()];
        let mut hold = |buffers: &[usize], len: usize| {
            buffers.iter().for_each(|&b| lens[b] = lens[b].max(len));
        };
        for (n, block) in self.blocks.iter().enumerate() {
            hold(&self.groups[self.group_before(n)], self.stored(n).in_len());
            hold(&self.groups[block.group], self.layers[block.last].out_len());
            // Inside a block, the two buffers of its group take turns, or one of them and the third buffer.
            for layer in block.first..block.last {
                hold(&self.groups[block.group], self.layers[layer].out_len());
                if block.last - block.first > 1 {
                    hold(&[self.third], self.layers[layer].out_len());
                }
            }
        }
        if self.pools {
            hold(&[self.stem], self.layers[0].out_len());
        }
        self.gradients = lens;
    }

    /// Returns the number of stages.
    pub fn stages(&self) -> usize {
        self.blocks.last().map_or(0, |b| b.stage + 1)
    }

    /// Returns the blocks of a stage.
    pub fn blocks_of(&self, stage: usize) -> Range<usize> {
        let first = self.blocks.partition_point(|b| b.stage < stage);
        first..self.blocks.partition_point(|b| b.stage <= stage)
    }

    /// Returns the block that a layer other than the stem belongs to.
    pub fn block_of(&self, layer: usize) -> &Block {
        &self.blocks[self.blocks.partition_point(|b| b.first <= layer) - 1]
    }

    /// Returns the sizes of the first layer of a block, whose input is stored as that of the block.
    pub fn stored(&self, block: usize) -> Geometry {
        self.layers[self.blocks[block].first]
    }

    /// Returns the sizes of the last layer of the last block.
    pub fn top_layer(&self) -> Geometry {
        self.layers[self.blocks.last().map_or(0, |b| b.last)]
    }

    /// Returns whether a layer is a projection, which shares the gradient of its output with the last layer
    /// of its block.
    pub fn is_projection(&self, layer: usize) -> bool {
        self.blocks.iter().any(|b| b.shortcut == Shortcut::Projected(layer))
    }

    /// Returns the mix point at the output of a stage, counted from 1. There is none at the output of the
    /// last stage.
    pub fn mixed(&self, stage: usize) -> Option<Mixed> {
        let block = self.blocks.iter().position(|b| b.stage == stage).filter(|block| *block > 0)?;
        Some(Mixed { block, layer: self.before(block) })
    }

    /// Returns the largest number of values per image among the hidden states that can be mixed.
    pub fn largest_mixed(&self) -> usize {
        (1..self.stages())
            .filter_map(|s| self.mixed(s))
            .map(|m| self.stored(m.block).in_len())
            .max()
            .unwrap_or(0)
    }

    /// Returns the last layer of the previous block, or the stem.
    pub(super) fn before(&self, block: usize) -> usize {
        block.checked_sub(1).map_or(0, |n| self.blocks[n].last)
    }

    /// Returns the group that a block's input belongs to.
    pub(super) fn group_before(&self, block: usize) -> usize {
        block.checked_sub(1).map_or(0, |n| self.blocks[n].group)
    }

    /// Returns the buffer that the head writes its gradient to.
    pub(super) fn top(&self) -> usize {
        self.groups.last().map_or(0, |group| group[0])
    }
}

/// Checks that a network's description is consistent and asks only for what engines support, whatever the
/// size of the images.
///
/// # Errors
/// Returns a message that says what does not fit.
pub fn check(network: &Network) -> Result<(), String> {
    let name = &network.name;
    if network.convs().next().is_none() {
        return Err(format!("{name}: this is a classifier on imported features; it cannot process images"));
    }
    let mut channels = network.stem.cout;
    for (n, Conv { name: conv, kernel, stride, .. }) in network.convs().enumerate() {
        let kernels: &[usize] = if n == 0 { &[1, 3, 5, 7] } else { &[1, 3] };
        if !kernels.contains(kernel) || !(1..=2).contains(stride) {
            return Err(format!(
                "{name} has {conv}, a {kernel}×{kernel} convolution with stride {stride}, which no engine supports"
            ));
        }
    }
    if network.blocks().next().is_none() {
        return Err(format!("{name} has no blocks"));
    }
    for block in network.blocks() {
        let n = block.convs.len();
        if !(2..=3).contains(&n) {
            let first =
                block.convs.first().map_or_else(String::new, |c| format!(", which begins with {}", c.name));
            return Err(format!(
                "{name} has a block of {n} convolutions{first}; engines support two or three"
            ));
        }
        let first_name = &block.convs[0].name;
        let last = &block.convs[n - 1];
        let mut inner = channels;
        for conv in &block.convs {
            if conv.cin != inner {
                return Err(format!(
                    "{name}: {} takes {} channels, but its input has {inner}",
                    conv.name, conv.cin
                ));
            }
            inner = conv.cout;
        }
        let stride: usize = block.convs.iter().map(|conv| conv.stride).product();
        let fits = match &block.shortcut {
            Kind::Identity => stride == 1 && channels == last.cout,
            Kind::Padded => stride == 2 && channels <= last.cout && (last.cout - channels).is_multiple_of(2),
            Kind::Projected(conv) => {
                conv.stride == stride && conv.kernel == 1 && [conv.cin, conv.cout] == [channels, last.cout]
            }
        };
        if !fits {
            return Err(format!(
                "{name}: the shortcut of the block that begins with {first_name} does not match the block's output"
            ));
        }
        channels = last.cout;
    }
    Ok(())
}
