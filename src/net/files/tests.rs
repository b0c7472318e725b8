//! Tests of weight files: formats, names and types that are read, and files that are refused.
//! `tests/fixtures/torch` has files written by PyTorch itself, with `scripts/pytorch/make_torch_files.py`,
//! whose docstring specifies the weights.

mod damaged;

use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView, serialize};

use super::{Form, StateDict, Values, open, parse};
use crate::net::entries::Contents;
use crate::net::{Arch, Params};

const SHAPES: [(&str, &[usize]); 7] = [
    ("bn1.bias", &[2]),
    ("bn1.running_mean", &[2]),
    ("bn1.running_var", &[2]),
    ("bn1.weight", &[2]),
    ("conv1.weight", &[2, 3, 3, 3]),
    ("linear.bias", &[4]),
    ("linear.weight", &[4, 2]),
];

fn value(name: &str, n: usize, i: usize) -> f32 {
    let value = (((7 * i + n) % 31) as f32 - 15.0) / 8.0;
    if name.ends_with("running_var") { value.abs() } else { value }
}

/// The network of the fixtures.
fn small() -> StateDict {
    let tensor = |&(name, shape): &(&str, &[usize])| {
        let n = shape.iter().product();
        let data = (0..n).map(|i| value(name, n, i)).collect();
        (name.to_owned(), Values { shape: shape.to_vec(), data })
    };
    SHAPES.iter().map(tensor).collect()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/torch/{name}.pth"))
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(fixture(name)).expect("the fixture")
}

fn contents(bytes: &[u8]) -> Contents<'_> {
    parse(bytes).expect("intact").0
}

/// Returns the weights in the bytes of a file, or the error message.
fn weights(bytes: &[u8]) -> Result<StateDict, String> {
    parse(bytes).and_then(|(contents, _)| contents.state_dict()).map_err(|e| format!("{e:#}"))
}

fn refused(bytes: &[u8]) -> String {
    weights(bytes).expect_err("refused")
}

/// Encodes numbers as little-endian values of a type.
fn encoded(data: &[f32], dtype: Dtype) -> Vec<u8> {
    let each = |x: &f32| match dtype {
        Dtype::F16 => f16::from_f32(*x).to_le_bytes().to_vec(),
        Dtype::BF16 => bf16::from_f32(*x).to_le_bytes().to_vec(),
        Dtype::F64 => f64::from(*x).to_le_bytes().to_vec(),
        Dtype::I32 => (*x as i32).to_le_bytes().to_vec(),
        _ => x.to_le_bytes().to_vec(),
    };
    data.iter().flat_map(each).collect()
}

/// Builds a safetensors file of tensors of one type.
fn safetensors(tensors: &[(String, Values)], dtype: Dtype) -> Vec<u8> {
    let encode = |(name, v): &(String, Values)| (name.clone(), v.shape.clone(), encoded(&v.data, dtype));
    let all: Vec<_> = tensors.iter().map(encode).collect();
    let view = |shape: &Vec<usize>, bytes| TensorView::new(dtype, shape.clone(), bytes).expect("sizes");
    serialize(all.iter().map(|(name, shape, bytes)| (name, view(shape, bytes))), None).expect("serialised")
}

/// Returns the network's tensors with changed names, and further tensors of one element.
fn changed(rename: impl Fn(&str) -> String, more: &[&str]) -> Vec<(String, Values)> {
    let one = |name: &&str| (name.to_string(), Values { shape: vec![1], data: vec![1.0] });
    small().into_iter().map(|(name, v)| (rename(&name), v)).chain(more.iter().map(one)).collect()
}

#[test]
fn all_pytorch_files_give_the_same_weights() {
    for name in [
        "plain",
        "parallel",
        "averaged",
        "nested",
        "net",
        "model",
        "half",
        "bfloat16",
        "double",
        "parameters",
        "strided",
    ] {
        let (found, notes) = open(&fixture(name)).unwrap_or_else(|e| panic!("{e:#}"));
        assert_eq!(found, small(), "{name}");
        assert!(notes.is_empty());
    }
}

#[test]
fn safetensors_of_any_floating_point_type_give_the_same_weights() {
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F64] {
        for prefix in
            ["", "module.", "module.module.", "_orig_mod.", "model.", "state_dict.", "net.module._orig_mod."]
        {
            let file = safetensors(&changed(|n| format!("{prefix}{n}"), &[]), dtype);
            assert_eq!(weights(&file), Ok(small()), "{dtype:?} {prefix}");
        }
    }
}

#[test]
fn other_entries_are_skipped_and_listed() {
    let skipped = |bytes: &[u8]| contents(bytes).skipped.into_iter().collect::<Vec<_>>().join(" ");
    assert_eq!(skipped(&bytes("plain")), "");
    assert_eq!(skipped(&bytes("averaged")), "n_averaged");
    assert_eq!(skipped(&bytes("nested")), "arch best_acc1 epoch optimizer rng_state scheduler");
    assert_eq!(skipped(&bytes("net")), "acc epoch");
    // These names occur in safetensors. They do not prevent a prefix from being shared by all weights.
    let more =
        ["epoch", "module.n_averaged", "optimizer.state.0.momentum_buffer", "module.bn1.num_batches_tracked"];
    let file = safetensors(&changed(|n| format!("module.{n}"), &more), Dtype::F32);
    assert_eq!(skipped(&file), "epoch n_averaged optimizer");
    assert_eq!(weights(&file), Ok(small()));
    // Their types and values do not matter.
    let file = safetensors(&[("epoch".into(), Values { shape: vec![], data: vec![f32::NAN] })], Dtype::F32);
    assert!(refused(&file).contains("holds no weights"));
}

#[test]
fn ambiguous_names_and_prefixes_are_refused() {
    let with = |more: &[&str]| refused(&safetensors(&changed(str::to_owned, more), Dtype::F32));
    let twice = "holds linear.bias twice, as \"linear.bias\" and \"module.linear.bias\"";
    for _ in 0..20 {
        assert!(with(&["module.linear.bias"]).contains(twice));
    }
    assert!(refused(&bytes("twice")).contains(twice));
    assert!(with(&["net.model.bn1.bias"]).contains("holds bn1.bias twice"));
    let odd = with(&["module.fc.bias"]);
    assert!(odd.contains("\"module.fc.bias\" begins with \"module.\", but other names do not"), "{odd}");
    let most = refused(&bytes("mixed"));
    assert!(most.contains("most names begin with \"module.\", but \"linear.bias\" does not"), "{most}");
    let other =
        refused(&safetensors(&changed(|n| format!("state_dict.{n}"), &["ema.linear.bias"]), Dtype::F32));
    assert!(other.contains("\"ema.linear.bias\" does not"), "{other}");
    let models = refused(&safetensors(&changed(|n| format!("model.{n}"), &["net.fc.bias"]), Dtype::F32));
    assert!(models.contains("most names begin with \"model.\", but \"net.fc.bias\" does not"), "{models}");
}

#[test]
fn invalid_values_are_refused() {
    let said = refused(&bytes("beyond"));
    assert!(said.contains("linear.bias has the value 1e300, which is out of range of float32"), "{said}");
    let change = |name: &str, to: f32, dtype| {
        let mut all = changed(|n| format!("module.{n}"), &[]);
        let tensor = all.iter_mut().find(|(n, _)| n.ends_with(name)).expect("there");
        tensor.1.data[1] = to;
        refused(&safetensors(&all, dtype))
    };
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F64] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let said = change("linear.bias", bad, dtype);
            assert!(said.contains("linear.bias has values that are not finite"), "{dtype:?} {bad}: {said}");
        }
        let said = change("bn1.running_var", -0.5, dtype);
        assert!(said.contains("bn1.running_var has negative values"), "{dtype:?}: {said}");
    }
    let said = refused(&safetensors(&changed(str::to_owned, &[]), Dtype::I32));
    assert!(said.contains("bn1.bias has type I32; save the weights as float32"), "{said}");
    // A double rounds to the nearest f32, as in the compiler; values slightly above the largest f32 round to
    // it.
    let file = |x: f64| {
        let bytes = x.to_le_bytes();
        serialize([("a.weight", TensorView::new(Dtype::F64, vec![1], &bytes).expect("sizes"))], None)
            .expect("made")
    };
    for x in [0.1, -1.0 / 3.0, 1e-46, f64::from(f32::MAX) * (1.0 + 1e-9)] {
        assert_eq!(weights(&file(x)).expect("read")["a.weight"].data, [x as f32]);
    }
    assert!(refused(&file(f64::from(f32::MAX) * 1.0001)).contains("out of range of float32"));
}

#[test]
fn python_objects_and_older_formats_are_refused_with_a_remedy() {
    let said = refused(&bytes("older"));
    assert!(said.contains("torch.save(torch.load(\"old.pth\", weights_only=True), \"new.pth\")"), "{said}");
    let said = refused(&bytes("module"));
    assert!(
        said.contains("refers to the Python object __main__.Small")
            && said.contains("torch.save(model.state_dict()"),
        "{said}"
    );
    let said = refused(&bytes("numpy"));
    assert!(said.contains("multiarray.scalar") && said.contains("torch.save(model.state_dict()"), "{said}");
    let mut tar = vec![0; 1024];
    tar[257..262].copy_from_slice(b"ustar");
    assert!(refused(&tar).contains("a tar archive"));
}

#[test]
fn formats_are_recognised_by_their_first_bytes() {
    let of = |bytes: &[u8]| Form::of(bytes, bytes.len() as u64);
    assert_eq!(of(&bytes("plain")), Some(Form::Zip));
    assert_eq!(of(&bytes("older")), Some(Form::Pickle));
    assert_eq!(of(&safetensors(&changed(str::to_owned, &[]), Dtype::F32)), Some(Form::Safetensors));
    for other in [
        &b"{\"schema\": \"remix.manifest/1\", \"kind\": \"checkpoint\"}"[..],
        b"{{{{{{{{{",
        b"\x7fELF",
        b"PK",
        b"",
    ] {
        assert_eq!(of(other), None, "{other:?}");
    }
}

#[test]
fn tensors_that_the_network_does_not_have_are_refused() {
    let network = Arch::RESNET32.network();
    let dict = Params::new(&network, 10).and_then(|p| p.state_dict().map_err(candle_core::Error::msg));
    let dict = dict.expect("names");
    assert!(Params::from_state_dict(&network, &dict).is_ok());
    for name in [
        "conv1.bias",
        "linear.weight_g",
        "linear.weight_v",
        "linear",
        "bn1",
        "bn1.running_mean2",
        "layer1.0.conv1.bias",
        "layer1.0.bn1.weight_orig",
        "layer3.4.shortcut.0.weight",
        "fc.bias",
        "velocity.linear.bias",
    ] {
        let mut dict = dict.clone();
        dict.insert(name.into(), Values { shape: vec![10], data: vec![0.0; 10] });
        let said = format!("{:#}", Params::from_state_dict(&network, &dict).err().expect(name));
        assert!(said.contains(&format!("has a tensor {name:?}, which resnet32 does not have")), "{said}");
    }
}

/// Tests safetensors headers whose length begins with the same bytes as a pickle.
#[test]
fn safetensors_headers_are_not_taken_for_pickles() {
    for length in [640u64, 896, 1152, 1408] {
        let head = [&length.to_le_bytes()[..], b"{\"a\":1}"].concat();
        assert_eq!(Form::of(&head, 4096), Some(Form::Safetensors), "{length}");
    }
    assert_eq!(Form::of(b"\x80\x02}q\x00.", 6), Some(Form::Pickle));
}

#[test]
fn duplicate_names_in_a_header_are_refused() {
    let entry = r#""linear.bias":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    let header = format!("{{{entry},{entry}}}");
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 4]].concat();
    assert!(refused(&file).contains("holds linear.bias twice"), "{}", refused(&file));
}
