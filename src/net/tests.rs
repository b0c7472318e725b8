//! Compares network descriptions with the papers' tables and with PyTorch's modules.

use super::*;

fn network(name: &str) -> Network {
    name.parse::<Arch>().expect("known").network()
}

/// Number of parameters of a network with this number of classes, as PyTorch counts them.
fn parameters(net: &Network, classes: usize) -> usize {
    let convs = net.convs().map(|c| c.kernel * c.kernel * c.cin * c.cout + 2 * c.cout);
    convs.sum::<usize>() + classes * (net.features() + 1)
}

#[test]
fn parameter_counts_match_published_ones() {
    // sum(p.numel() for p in m.parameters()): resnet_s of LDAM's code, pytorch-cifar, torchvision.models.
    for (name, classes, count) in [
        ("resnet20", 10, 269_722),
        ("resnet32", 10, 464_154),
        ("resnet110", 10, 1_727_962),
        ("resnet18-cifar", 10, 11_173_962),
        ("resnet34-cifar", 10, 21_282_122),
        ("resnet18", 1000, 11_689_512),
        ("resnet34", 1000, 21_797_672),
        ("resnet50", 1000, 25_557_032),
    ] {
        assert_eq!(parameters(&network(name), classes), count, "{name}");
    }
}

#[test]
fn names_and_sizes_of_layers() {
    let net = network("resnet50");
    let names: Vec<&str> = net.convs().map(|c| &c.name[..]).collect();
    assert_eq!(names.len(), 53);
    assert_eq!(
        names[..6],
        [
            "conv1",
            "layer1.0.conv1",
            "layer1.0.conv2",
            "layer1.0.conv3",
            "layer1.0.downsample.0",
            "layer1.1.conv1"
        ]
    );
    let geometries = net.geometries([224, 200, 3]);
    let of = |name: &str| geometries[names.iter().position(|n| *n == name).expect(name)];
    let size = |g: Geometry| [g.height, g.width, g.out_height(), g.out_width()];
    assert_eq!(size(of("conv1")), [224, 200, 112, 100]);
    assert_eq!(size(of("layer1.0.downsample.0")), [56, 50, 56, 50]);
    assert_eq!(size(of("layer2.0.conv1")), [56, 50, 56, 50]);
    assert_eq!(size(of("layer2.0.conv2")), [56, 50, 28, 25]);
    assert_eq!(size(of("layer2.0.downsample.0")), [56, 50, 28, 25]);
    assert_eq!(size(of("layer4.2.conv3")), [7, 7, 7, 7]);
    assert_eq!((net.features(), net.stages.len(), &net.classifier.name[..]), (2048, 4, "fc"));
    assert!(
        net.convs().any(|c| c.norm == "layer1.0.downsample.1")
            && net.convs().any(|c| c.norm == "layer4.2.bn3")
    );
    let small = network("resnet18-cifar");
    assert!(small.convs().any(|c| c.name == "layer2.0.shortcut.0" && c.norm == "layer2.0.shortcut.1"));
    assert!(!small.convs().any(|c| c.name.starts_with("layer1.0.shortcut")));
}

#[test]
fn the_reason_why_a_classifier_does_not_fit_is_right() {
    let params = Params::new(&network("resnet20"), 3).expect("memory");
    let reason = |shape: [usize; 2]| {
        let mut dict = params.state_dict().expect("names");
        let data = vec![0.0; shape.iter().product()];
        dict.insert("linear.weight".into(), files::Values { shape: shape.into(), data });
        params.other_classifier(&dict)
    };
    assert_eq!(reason([3, 64]), None);
    assert_eq!(reason([4, 64]), Some("that of the file has a different number of classes"));
    assert_eq!(reason([3, 128]), Some("that of the file has a different number of features"));
}

#[test]
fn names_are_parsed_and_displayed() {
    for name in Arch::names() {
        assert_eq!(name.parse::<Arch>().expect(name).to_string(), name);
    }
    assert_eq!(Arch::RESNET32.to_string(), "resnet32");
    assert_eq!("features-512".parse::<Arch>(), Ok(Arch::Features(512)));
    for bad in ["features-0", "features-", "features-18446744073709551615"] {
        assert!(bad.parse::<Arch>().is_err(), "{bad}");
    }
    assert!("vgg".parse::<Arch>().expect_err("unknown").contains("resnet20, resnet32"));
}
