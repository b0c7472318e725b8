//! Tests of weight files: formats, names and types that are read, and files that are refused.
//! `tests/fixtures/torch` has files written by PyTorch itself, with `scripts/pytorch/make_torch_files.py`,
//! whose docstring specifies the weights.

use std::io::{Cursor, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView, serialize};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::{Form, StateDict, Values, open, parse, save};
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
fn files_of_pytorch_give_the_same_weights_however_they_are_saved() {
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
fn what_is_no_weight_is_skipped_and_noted() {
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
fn names_that_are_not_those_of_one_network_are_refused() {
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
fn numbers_that_are_no_weights_are_refused() {
    let said = refused(&bytes("beyond"));
    assert!(said.contains("linear.bias has the value 1e300, which is out of range of float32"), "{said}");
    let change = |name: &str, to: f32, dtype| {
        let mut all = changed(|n| format!("module.{n}"), &[]);
        let place = all.iter_mut().find(|(n, _)| n.ends_with(name)).expect("there");
        place.1.data[1] = to;
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
fn python_objects_and_older_forms_are_refused_with_a_way_out() {
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
fn forms_are_told_by_the_first_bytes() {
    let of = |bytes: &[u8]| Form::of(&bytes[..bytes.len().min(Form::HEAD)], bytes.len() as u64);
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
fn whole_names_are_compared_with_those_of_the_architecture() {
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

#[test]
fn the_state_of_a_training_keeps_its_velocities() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let mut dict = small();
    dict.extend(small().into_iter().map(|(name, v)| (format!("velocity.{name}"), v)));
    save(file.path(), &dict, 3, Some(("reached", "3".into()))).expect("saved");
    let (found, notes) = open(file.path()).expect("opened");
    assert_eq!((found, &notes["reached"][..]), (dict, "3"));
}

/// Builds a file as `torch.save` does, with any pickle and members.
fn zipped(members: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(vec![]));
    for (name, bytes) in members {
        let options = SimpleFileOptions::default().compression_method(method);
        zip.start_file(format!("archive/{name}"), options).expect("a member");
        zip.write_all(bytes).expect("written");
    }
    zip.finish().expect("a zip file").into_inner()
}

/// Returns the members of a fixture, without the directory in their names.
fn members(name: &str) -> Vec<(String, Vec<u8>)> {
    let mut zip = ZipArchive::new(Cursor::new(bytes(name))).expect("a zip file");
    let count = zip.len();
    let read = |n: usize| {
        let mut member = zip.by_index(n).expect("a member");
        let mut bytes = vec![];
        member.read_to_end(&mut bytes).expect("intact");
        let name = member.name().expect("UTF-8").split_once('/').expect("in a directory").1.to_owned();
        (name, bytes)
    };
    (0..count).map(read).filter(|(name, _)| !name.starts_with('.')).collect()
}

/// Builds a pickle of `{"w": tensor}`, where the tensor has a float storage and these numbers.
fn pickled(key: &str, len: i32, offset: i32, shape: &[i32], strides: &[i32]) -> Vec<u8> {
    let text = |s: &str| [b"X", &(s.len() as u32).to_le_bytes()[..], s.as_bytes()].concat();
    let int = |n: i32| [b"J", &n.to_le_bytes()[..]].concat();
    let tuple =
        |all: &[i32]| [b"(".to_vec(), all.iter().flat_map(|&n| int(n)).collect(), b"t".to_vec()].concat();
    [
        b"\x80\x02}".to_vec(),
        text("w"),
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text(key),
        text("cpu"),
        int(len),
        b"tQ".to_vec(),
        int(offset),
        tuple(shape),
        tuple(strides),
        b"\x89ccollections\nOrderedDict\n)RtRs.".to_vec(),
    ]
    .concat()
}

#[test]
fn sizes_are_believed_only_where_the_bytes_are_there() {
    let numbers: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let file =
        |pickle: &[u8]| zipped(&[("data.pkl", pickle), ("data/0", &numbers)], CompressionMethod::Stored);
    let read = |pickle: &[u8]| weights(&file(pickle));
    let tensor = |shape: &[i32], strides: &[i32]| read(&pickled("0", 6, 0, shape, strides));
    let data = |dict: Result<StateDict, String>| dict.map(|d| d["w"].data.clone());
    assert_eq!(data(tensor(&[2, 3], &[3, 1])), Ok(vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]));
    assert_eq!(data(tensor(&[3, 2], &[1, 3])), Ok(vec![0.0, 3.0, 1.0, 4.0, 2.0, 5.0]));
    assert_eq!(data(tensor(&[2, 2], &[0, 5])), Ok(vec![0.0, 5.0, 0.0, 5.0]));
    assert_eq!(data(tensor(&[], &[])), Ok(vec![0.0]));
    assert_eq!(data(tensor(&[0, 3], &[3, 1])), Ok(vec![]));
    assert_eq!(data(read(&pickled("0", 6, 4, &[2], &[1]))), Ok(vec![4.0, 5.0]));
    for (len, offset, shape, strides) in [
        (6, 0, &[7][..], &[1][..]),
        (6, 0, &[2, 3], &[4, 1]),
        (6, 5, &[2], &[1]),
        (6, 7, &[0], &[1]),
        (6, -1, &[2], &[1]),
        (6, 0, &[-2], &[1]),
        (6, 0, &[2], &[-1]),
        (6, 0, &[2, 3], &[1]),
        (-1, 0, &[0], &[1]),
        (6, 0, &[i32::MAX, i32::MAX, i32::MAX], &[0, 0, 0]),
        (6, i32::MAX, &[2, i32::MAX, i32::MAX], &[i32::MAX, i32::MAX, i32::MAX]),
        (6, 0, &[1; 9], &[1; 9]),
        (5, 0, &[2], &[1]),
        (7, 0, &[7], &[1]),
    ] {
        let said = read(&pickled("0", len, offset, shape, strides)).expect_err("refused");
        assert!(
            said.contains("not an intact file of PyTorch's torch.save"),
            "{len} {offset} {shape:?}: {said}"
        );
    }
    // In the first file, every element exists, but all of them are the same one.
    for said in [tensor(&[i32::MAX], &[0]), read(&pickled("0", i32::MAX, 0, &[i32::MAX], &[1]))] {
        let said = said.expect_err("refused");
        assert!(said.contains("larger than the file"), "{said}");
    }
    for key in ["1", "../0", "", "0\0"] {
        assert!(read(&pickled(key, 6, 0, &[2], &[1])).is_err(), "{key}");
    }
}

#[test]
fn zip_files_that_are_no_checkpoints_are_refused() {
    let pickle = pickled("0", 1, 0, &[1], &[1]);
    let (pickle, number) = (("data.pkl", &pickle[..]), ("data/0", &[0; 4][..]));
    let said = |members: &[(&str, &[u8])], method| refused(&zipped(members, method));
    let stored = CompressionMethod::Stored;
    assert!(weights(&zipped(&[pickle, number], stored)).is_ok());
    assert!(said(&[number], stored).contains("without the data.pkl"));
    assert!(said(&[pickle], stored).contains("archive/data/0"));
    assert!(said(&[pickle, number, ("constants.pkl", b"N.")], stored).contains("a TorchScript module"));
    assert!(said(&[pickle, number, ("byteorder", b"big")], stored).contains("big-endian byte order"));
    assert!(weights(&zipped(&[pickle, number, ("byteorder", b"little")], stored)).is_ok());
    assert!(said(&[("data.pkl", b"\x80\x02]."), number], stored).contains("holds no dictionary"));
    let long = ["x"; 300].concat();
    let deep = [b"\x80\x02}X\x2c\x01\0\0", long.as_bytes(), b"}X\x01\0\0\0aNss."].concat();
    assert!(said(&[("data.pkl", &deep)], stored).contains("name is too long"));
    // A name that occurs twice in the central directory.
    let mut twice = zipped(&[pickle, number, ("data/1", &[0, 0, 128, 63])], stored);
    let name = b"archive/data/1";
    let places: Vec<usize> =
        (0..twice.len() - name.len()).filter(|&at| twice[at..].starts_with(name)).collect();
    for at in places {
        twice[at + name.len() - 1] = b'0';
    }
    assert!(refused(&twice).contains("two members of the same name"));
}

/// Pseudo-random numbers that depend on a seed alone (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % n as u64) as usize
    }

    /// Returns the bytes truncated, with a flipped bit, with a part copied elsewhere, or with an extreme
    /// number in them.
    fn mutated(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        let at = self.below(bytes.len());
        match self.below(4) {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 1 << self.below(8),
            2 => {
                let from = self.below(bytes.len());
                let part = bytes[from..bytes.len().min(from + 1 + self.below(64))].to_vec();
                let end = bytes.len().min(at + self.below(64));
                bytes.splice(at..end, part);
            }
            _ => {
                let extreme =
                    [[0; 8], [0xff; 8], i64::MAX.to_le_bytes(), i64::MIN.to_le_bytes()][self.below(4)];
                let n = [1, 2, 4, 8][self.below(4)].min(bytes.len() - at);
                bytes[at..at + n].copy_from_slice(&extreme[8 - n..]);
            }
        }
        bytes
    }
}

/// Reads damaged bytes, and checks that the result, if any, is no larger than they are.
fn survives(bytes: &[u8]) -> Option<StateDict> {
    let started = Instant::now();
    let found = weights(bytes);
    assert!(started.elapsed() < Duration::from_secs(5), "{found:?}");
    let numbers = found.iter().flat_map(|dict| dict.values()).map(|v| v.data.len()).sum::<usize>();
    assert!(numbers <= bytes.len(), "{numbers} numbers of {} bytes", bytes.len());
    found.ok()
}

#[test]
fn no_damage_makes_a_reader_panic() {
    let mut random = Random(1);
    let files = [
        safetensors(&changed(|n| format!("module.{n}"), &["epoch"]), Dtype::F32),
        safetensors(&changed(str::to_owned, &[]), Dtype::F16),
    ];
    for file in &files {
        for _ in 0..3000 {
            survives(&random.mutated(file));
        }
    }
    let mut whole = 0;
    for name in ["plain", "nested", "strided", "half"] {
        let file = bytes(name);
        for _ in 0..1500 {
            // Every member has a checksum: whatever can be read is what was saved.
            if let Some(found) = survives(&random.mutated(&file)) {
                assert_eq!(found, small(), "{name}");
                whole += 1;
            }
        }
    }
    assert!((100..3000).contains(&whole), "{whole} of 6000: there are bytes that mean nothing, but not many");
}

#[test]
fn no_damage_to_the_pickle_makes_a_reader_panic() {
    let mut random = Random(2);
    let mut read = 0;
    for name in ["plain", "strided", "parameters"] {
        let members = members(name);
        for _ in 0..2000 {
            let mutated = |(name, bytes): &(String, Vec<u8>)| match &name[..] {
                "data.pkl" => (name.clone(), random.mutated(bytes)),
                _ => (name.clone(), bytes.clone()),
            };
            let members: Vec<_> = members.iter().map(mutated).collect();
            let members: Vec<(&str, &[u8])> = members.iter().map(|(n, b)| (&n[..], &b[..])).collect();
            read += usize::from(survives(&zipped(&members, CompressionMethod::Stored)).is_some());
        }
    }
    assert!((60..5000).contains(&read), "{read} of 6000: the mutations reach beyond the first bytes");
}

/// Tests safetensors headers whose length begins with the same bytes as a pickle.
#[test]
fn a_header_of_any_length_is_no_pickle() {
    for length in [640u64, 896, 1152, 1408] {
        let head = [&length.to_le_bytes()[..], b"{\"a\":1}"].concat();
        assert_eq!(Form::of(&head, 4096), Some(Form::Safetensors), "{length}");
    }
    assert_eq!(Form::of(b"\x80\x02}q\x00.", 6), Some(Form::Pickle));
}

/// Builds a zip file in PyTorch's layout, with zip64 records and without extra fields, with a number of empty
/// storages.
fn as_pytorch_packs(stem: &str, storages: usize) -> Vec<u8> {
    let pickle = b"\x80\x02}q\x00.".to_vec();
    let mut members =
        vec![(format!("{stem}/data.pkl"), pickle), (format!("{stem}/byteorder"), b"little".to_vec())];
    members.extend((0..storages).map(|n| (format!("{stem}/data/{n}"), vec![0; 64])));
    let (mut file, mut directory) = (vec![], vec![]);
    for (name, data) in &members {
        let mut crc = flate2::Crc::new();
        crc.update(data);
        let (crc, size, at) = (crc.sum().to_le_bytes(), (data.len() as u32).to_le_bytes(), file.len() as u32);
        // Stored, without a time; checksum, both sizes, length of the name, no extra field.
        let common =
            [&[0; 10][2..], &crc, &size, &size, &(name.len() as u16).to_le_bytes(), &[0; 2]].concat();
        file.extend([b"PK\x03\x04\x14\0", &common[..], name.as_bytes(), data].concat());
        let places = [&[0; 10][..], &at.to_le_bytes()].concat();
        directory.extend([b"PK\x01\x02\x14\0\x14\0", &common[..], &places, name.as_bytes()].concat());
    }
    let (count, size, at) = (members.len() as u64, directory.len() as u64, file.len() as u64);
    let end = at + size;
    file.extend(directory);
    file.extend([b"PK\x06\x06", &44u64.to_le_bytes()[..], &[0x1e, 3, 45, 0], &[0; 8]].concat());
    file.extend([count, count, size, at].iter().flat_map(|n| n.to_le_bytes()));
    file.extend([b"PK\x06\x07\0\0\0\0", &end.to_le_bytes()[..], &[1, 0, 0, 0]].concat());
    file.extend(
        [b"PK\x05\x06\0\0\0\0", &(count as u16).to_le_bytes()[..], &(count as u16).to_le_bytes()].concat(),
    );
    file.extend([&(size as u32).to_le_bytes()[..], &(at as u32).to_le_bytes(), &[0; 2]].concat());
    file
}

/// The length of a file's name, which occurs many times in the file, determines where its records lie.
#[test]
fn zip_files_are_read_whatever_their_name_is() {
    for length in 1..=64 {
        for storages in [40, 120] {
            let file = as_pytorch_packs(&"a".repeat(length), storages);
            if let Err(said) = weights(&file) {
                assert!(
                    !said.contains("intact") && !said.contains("Zip"),
                    "{length} letters, {storages}: {said}"
                );
            }
        }
    }
}

#[test]
fn a_name_that_stands_twice_in_a_header_is_refused() {
    let entry = r#""linear.bias":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    let header = format!("{{{entry},{entry}}}");
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 4]].concat();
    assert!(refused(&file).contains("holds linear.bias twice"), "{}", refused(&file));
}
