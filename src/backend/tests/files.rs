//! Tests that networks are saved and loaded, and that weights of other networks are refused.

use super::{SHAPE, image_of, network, pixels, zeros};
use crate::backend::cpu::infer::{BATCH, Folded};
use crate::methods::loss::{LDAM, Loss};
use crate::net::files::{StateDict, open, save};
use crate::net::{Arch, Params};

#[test]
fn saved_weights_load_unchanged() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("w.safetensors");
    let dict = network().params.training_state().expect("names");
    save(&path, &dict, 7, Some(("note", "x".into()))).expect("saved");
    let (found, notes) = open(&path).expect("opened");
    assert_eq!(found, dict);
    assert_eq!(notes["note"], "x");
    let other = zeros("resnet32");
    other.resume(&found).expect("loaded");
    assert_eq!(other.training_state().expect("names"), dict);
}

#[test]
fn a_normalised_classifier_is_saved_as_in_the_code_of_ldam() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("w.safetensors");
    let network_of_ldam = Arch::RESNET32.network().with_classifier(Loss::new(&LDAM).classifier());
    let cosine = || Params::new(&network_of_ldam, 10).expect("parameters");
    let params = cosine();
    params.init(3).expect("values");
    let dict = params.training_state().expect("names");
    assert_eq!(dict["linear.weight"].shape, [64, 10]);
    assert!(!dict.contains_key("linear.bias") && !dict.contains_key("velocity.linear.bias"));
    for class in 0..10 {
        let column = dict["linear.weight"].data.iter().skip(class).step_by(10);
        let square: f32 = column.map(|w| w * w).sum();
        assert!((square - 1.0).abs() < 1e-5, "unit length: {square}");
    }
    save(&path, &dict, 7, None).expect("saved");
    let (found, _) = open(&path).expect("opened");
    let other = cosine();
    other.resume(&found).expect("loaded");
    assert_eq!(other.training_state().expect("names"), dict);
    // The logits of inference are 30 times the cosines between the weights and the features.
    let state = params.state_dict().expect("names");
    let folded = Folded::new(&params, SHAPE).expect("folded");
    let out = folded.forward(8, BATCH, image_of(&pixels())).expect("inference");
    let weight = &state["linear.weight"].data;
    for (z, f) in out.logits.chunks_exact(10).zip(out.features.chunks_exact(64)) {
        let length = f.iter().map(|f| f * f).sum::<f32>().sqrt();
        for (k, z) in z.iter().enumerate() {
            let dot: f32 = f.iter().zip(weight.iter().skip(k).step_by(10)).map(|(f, w)| f * w).sum();
            assert!((z - 30.0 * dot / length).abs() < 1e-4, "{z} {}", 30.0 * dot / length);
        }
    }
    // Neither network accepts the classifier of the other, or a classifier that has lost its bias.
    let linear = network().params;
    let text = format!("{:#}", linear.load(&state).expect_err("refused"));
    assert!(text.contains("linear.weight has shape [64, 10]"), "{text}");
    let mut lost = linear.state_dict().expect("names");
    assert!(params.load(&lost).is_err());
    lost.remove("linear.bias");
    let text = format!("{:#}", Params::from_state_dict(linear.network(), &lost).err().expect("refused"));
    assert!(text.contains("no tensor \"linear.bias\""), "{text}");
}

#[test]
fn foreign_weights_are_refused() {
    let net = zeros("resnet20");
    let error = |dict: &StateDict| format!("{:#}", net.load(dict).expect_err("refused"));
    let mut dict = net.state_dict().expect("names");
    dict.remove("layer1.0.conv1.weight");
    assert!(error(&dict).contains("no tensor \"layer1.0.conv1.weight\""));
    let deeper = network().params.state_dict().expect("names");
    let refused = Params::from_state_dict(net.network(), &deeper).err().expect("a deeper network");
    assert!(format!("{refused}").contains("layer1.3"), "{refused}");
    let mut dict = net.state_dict().expect("names");
    dict.get_mut("layer2.1.bn1.running_var").expect("a tensor").data[5] = -1e-3;
    let file = tempfile::NamedTempFile::new().expect("a file");
    save(file.path(), &dict, 1, None).expect("saved");
    let refused = format!("{:#}", open(file.path()).expect_err("no variance"));
    assert!(refused.contains("layer2.1.bn1.running_var has negative values"), "{refused}");
}
