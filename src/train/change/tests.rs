//! Tests of the draws of augmentation: their ranges, and that they depend on the seed alone.

use super::*;
use crate::methods::presets::preset;
use crate::rng::{Purpose, stream};

fn config() -> Config {
    Config::new(preset("erm").expect("a method"))
}

fn drawn(config: &Config, n: u64) -> Vec<Op> {
    draw(config, [40, 60], [32, 32], &mut stream(1, Purpose::Change, 1, n))
}

#[test]
fn crops_have_the_sizes_and_aspect_ratios_of_torchvision() {
    let config = Config { augment: Augment::ResizedCropFlip, ..config() };
    let mut areas = vec![];
    for n in 0..4000 {
        let [Op::ResizedCrop { top, left, height, width }] = drawn(&config, n)[..] else { panic!("a crop") };
        assert!(top + height <= 40 && left + width <= 60 && height > 0 && width > 0);
        let (h, w) = (f64::from(height), f64::from(width));
        // Rounding moves small sides by half a pixel.
        assert!((0.68..1.46).contains(&(w / h)), "{w}×{h}");
        areas.push(w * h / 2400.0);
    }
    areas.sort_by(f64::total_cmp);
    // Areas are 8 to 100 %, but the largest cannot have such aspect ratios: 40×53 is 88 %.
    assert!(areas[0] > 0.07 && areas[0] < 0.1 && areas[3999] < 0.91, "{} {}", areas[0], areas[3999]);
    // np.median of 100,000 draws of torchvision's RandomResizedCrop.get_params for an image of 60×40: 0.387.
    assert!((areas[2000] - 0.387).abs() < 0.02, "{}", areas[2000]);
    let [Op::ResizedCrop { top, left, height, width }] =
        [resized_crop([10, 400], &mut stream(0, Purpose::Change, 1, 3))]
    else {
        panic!("a crop")
    };
    assert_eq!((top, left, height, width), (0, 193, 10, 13), "the centre of what is too long");
}

#[test]
fn colours_vary_in_their_ranges_and_in_any_order() {
    let config = Config { color_jitter: Some([0.4, 0.2, 0.0]), ..config() };
    let mut orders = std::collections::BTreeSet::new();
    for n in 0..200 {
        let ops = drawn(&config, n);
        assert_eq!(ops.len(), 3);
        let mut order = String::new();
        for op in ops {
            let (name, factor, range) = match op {
                Op::Brightness(x) => ('b', x, 0.4),
                Op::Contrast(x) => ('c', x, 0.2),
                Op::Saturation(x) => ('s', x, 0.0),
                other => panic!("{other:?}"),
            };
            assert!((1.0 - factor).abs() <= range + 1e-6, "{op:?}");
            order.push(name);
        }
        orders.insert(order);
    }
    assert_eq!(orders.len(), 6);
}

#[test]
fn solarize_inverts_what_torchvisions_inverts() {
    // The lowest value that torchvision.transforms.functional.solarize changes with the thresholds of
    // RandAugment(num_magnitude_bins=31)._augmentation_space(31, (32, 32)).
    let lowest = [
        255, 247, 238, 230, 221, 213, 204, 196, 187, 179, 170, 162, 153, 145, 136, 128, 119, 111, 102, 94,
        85, 77, 68, 60, 51, 43, 34, 26, 17, 9, 0,
    ];
    for (magnitude, lowest) in (0..).zip(lowest) {
        let config = Config { rand_augment: Some([1, magnitude]), ..config() };
        let mut drawn = (0..200).flat_map(|n| drawn(&config, n)).filter(|op| matches!(op, Op::Solarize(_)));
        let first = drawn.next().expect("one of fourteen operations");
        assert_eq!(first, Op::Solarize(lowest), "{magnitude}");
    }
}

#[test]
fn rand_augment_has_fourteen_operations() {
    let config = Config { rand_augment: Some([1, 15]), ..config() };
    let mut kinds = std::collections::BTreeMap::<String, usize>::new();
    for n in 0..2800 {
        let kind = drawn(&config, n).first().map_or("nothing".into(), |op| format!("{op:?}"));
        *kinds.entry(kind.split('(').next().unwrap_or_default().to_owned()).or_default() += 1;
    }
    // Five of the fourteen operations are affine, and share a name.
    assert_eq!(kinds.len(), 10, "{kinds:?}");
    for (kind, count) in kinds {
        let expected = if kind == "Affine" { 1000.0 } else { 200.0 };
        assert!((count as f64 - expected).abs() < 5.0 * f64::sqrt(expected), "{kind}: {count}");
    }
    let strongest = Config { rand_augment: Some([3, 30]), ..config };
    let all: Vec<Op> = (0..500).flat_map(|n| drawn(&strongest, n)).collect();
    assert!(all.contains(&Op::Posterize(4)) && all.contains(&Op::Solarize(0)));
    assert!(all.iter().any(|op| matches!(op, Op::Brightness(x) if (x - 1.9).abs() < 1e-6)));
    assert_eq!(drawn(&strongest, 7), drawn(&strongest, 7));
}
