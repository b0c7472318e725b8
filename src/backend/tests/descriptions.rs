//! Tests which descriptions of networks are refused, and by which message.

use crate::backend::{Plan, check};
use crate::net::{Arch, Network, Shortcut};

#[test]
fn inconsistent_descriptions_are_refused_with_the_layers_name() {
    for name in Arch::names() {
        assert_eq!(check(&name.parse::<Arch>().expect("known").network()), Ok(()));
    }
    let change = |change: fn(&mut Network)| {
        let mut network = Arch::RESNET32.network();
        change(&mut network);
        check(&network).expect_err("refused")
    };
    assert!(change(|n| n.stages.clear()).contains("no blocks"));
    assert!(change(|n| n.stages[0][0].convs.truncate(1)).contains("a block of 1 convolutions"));
    assert!(change(|n| n.stages[0][0].convs.clear()).contains("a block of 0 convolutions; engines"));
    assert!(change(|n| n.stages[0][0].shortcut = Shortcut::Padded).contains("layer1.0.conv1"));
    assert!(change(|n| n.stages[1][0].shortcut = Shortcut::Identity).contains("layer2.0.conv1"));
    assert!(change(|n| n.stages[1][1].convs[1].cout = 64).contains("layer2.1.conv1"));
    assert!(change(|n| n.stages[1][1].convs[0].cout = 64).contains("layer2.1.conv2 takes 32 channels"));
    assert!(change(|n| n.stages[1][0].convs[0].stride = 1).contains("layer2.0.conv1"));
    assert!(change(|n| n.stages[1][1].convs[0].kernel = 7).contains("a 7×7 convolution with stride 1"));
    assert!(change(|n| n.stem.kernel = 4).contains("a 4×4 convolution"));
    let refused = Plan::new(&Arch::RESNET32.network(), [30, 32, 1]).expect_err("refused");
    assert!(refused.contains("images have 1 channels"), "{refused}");
}

/// Tests which networks, images and classes the GPU has kernels for; this needs no GPU.
#[test]
fn networks_without_gpu_kernels_are_refused() {
    use crate::backend::cuda::supports;
    for (name, why) in [
        ("resnet50", "a max-pool"),
        ("resnet18-cifar", "conv1, a 3×3 convolution of 3 to 64 channels with stride 1"),
    ] {
        let found = supports(&name.parse::<Arch>().expect("known").network(), [32, 32, 3], 10);
        assert_eq!(found, Err(format!("the GPU has no kernels for {name}, which has {why}")));
    }
    let change = |change: fn(&mut Network)| {
        let mut network = Arch::RESNET32.network();
        assert_eq!(supports(&network, [32, 32, 3], 10), Ok(()));
        change(&mut network);
        supports(&network, [32, 32, 3], 10).expect_err("refused")
    };
    // Each of these networks would be computed incorrectly.
    assert!(change(|n| n.stages[2].truncate(1)).contains("a stage with 1 block"));
    assert!(change(|n| n.stages[1][0].shortcut = Shortcut::Identity).contains("layer2.0.conv1"));
    assert!(change(|n| n.stages[0][1].convs[1].cout = 64).contains("layer1.1.conv2"));
    let sized =
        |shape, classes| supports(&Arch::RESNET32.network(), shape, classes).err().unwrap_or_default();
    assert_eq!(sized([64, 96, 3], 1000), "");
    assert!(sized([90, 64, 3], 10).contains("sides that are multiples of 4"));
    assert!(sized([64, 90, 3], 10).contains("sides that are multiples of 4"));
    assert!(sized([64, 260, 3], 10).contains("W ≤ 256"));
    assert!(sized([64, 64, 3], 100_000).contains("100000 classes"));
}
