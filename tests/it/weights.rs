//! Tests bare weights in `eval` and `embed`: file formats, the names in them, and what is refused.

use std::fs;
use std::io::{Cursor, Write};
use std::time::Duration;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use zip::write::SimpleFileOptions;

use crate::common::refused;
use crate::fabricate::{resnet20, untrained};

const BARE: &str = "--arch resnet20 --data data -q";

/// Name, shape and bytes of the f32 values of a tensor.
type Tensor = (String, Vec<usize>, Vec<u8>);

/// Returns the weights of the checkpoint of [`untrained`] under names changed by a function.
fn network(rename: impl Fn(&str) -> String) -> Vec<Tensor> {
    let bytes = resnet20(10, 0);
    let all = SafeTensors::deserialize(&bytes).unwrap();
    let mut all: Vec<Tensor> =
        all.tensors().into_iter().map(|(n, v)| (rename(&n), v.shape().to_vec(), v.data().to_vec())).collect();
    all.sort();
    all
}

fn plain() -> Vec<Tensor> {
    network(str::to_owned)
}

/// Returns the network with one more tensor, of ten ones.
fn with(name: &str) -> Vec<Tensor> {
    let mut all = plain();
    all.push((name.to_owned(), vec![10], 1f32.to_le_bytes().repeat(10)));
    all
}

fn safetensors(tensors: &[Tensor]) -> Vec<u8> {
    let views = tensors.iter().map(|(n, s, b)| (n, TensorView::new(Dtype::F32, s.clone(), b).unwrap()));
    safetensors::serialize(views, None).unwrap()
}

/// Returns a file as `torch.save` writes it: the tensors in an `OrderedDict`, which is the entry `under` of a
/// dictionary with an epoch if a name is given.
fn pth(tensors: &[Tensor], under: Option<&str>) -> Vec<u8> {
    let text = |s: &str| [b"X", &(s.len() as u32).to_le_bytes()[..], s.as_bytes()].concat();
    let int = |n: usize| [b"J", &(n as u32).to_le_bytes()[..]].concat();
    let tuple =
        |all: &[usize]| [b"(".to_vec(), all.iter().flat_map(|&n| int(n)).collect(), b"t".to_vec()].concat();
    let mut dict = b"ccollections\nOrderedDict\n)R(".to_vec();
    for (n, (name, shape, bytes)) in tensors.iter().enumerate() {
        let strides: Vec<usize> = (1..=shape.len()).map(|from| shape[from..].iter().product()).collect();
        for part in [
            text(name),
            b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
            text("storage"),
            b"ctorch\nFloatStorage\n".to_vec(),
            text(&n.to_string()),
            text("cuda:0"),
            int(bytes.len() / 4),
            b"tQK\0".to_vec(),
            tuple(shape),
            tuple(&strides),
            b"\x89ccollections\nOrderedDict\n)RtR".to_vec(),
        ] {
            dict.extend(part);
        }
    }
    dict.push(b'u');
    let pickle = match under {
        Some(name) => {
            [b"\x80\x02}(".to_vec(), text("epoch"), b"K\xc8".to_vec(), text(name), dict, b"u.".to_vec()]
                .concat()
        }
        None => [b"\x80\x02".to_vec(), dict, b".".to_vec()].concat(),
    };
    let mut zip = zip::ZipWriter::new(Cursor::new(vec![]));
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut add = |name: &str, bytes: &[u8]| {
        zip.start_file(format!("archive/{name}"), stored).unwrap();
        zip.write_all(bytes).unwrap();
    };
    add("data.pkl", &pickle);
    add("byteorder", b"little");
    for (n, (.., bytes)) in tensors.iter().enumerate() {
        add(&format!("data/{n}"), bytes);
    }
    add("version", b"3\n");
    zip.finish().unwrap().into_inner()
}

#[test]
fn the_form_and_the_name_of_a_file_do_not_change_a_number() {
    let s = untrained();
    let truth = s.one("eval", "run -q")["metrics"].clone();
    let module = || network(|n| format!("module.{n}"));
    for (name, bytes) in [
        ("plain.safetensors", safetensors(&plain())),
        ("weights", safetensors(&module())),
        ("weights.json", safetensors(&network(|n| format!("_orig_mod.{n}")))),
        ("plain.pth", pth(&plain(), None)),
        ("ckpt.best.pth.tar", pth(&module(), Some("state_dict"))),
        ("model.pt", pth(&network(|n| format!("module.module.{n}")), Some("net"))),
        ("model.th", pth(&plain(), Some("model"))),
        ("pytorch_model.bin", pth(&plain(), Some("model_state_dict"))),
        ("last", pth(&plain(), None)),
        ("misnamed.safetensors", pth(&plain(), None)),
    ] {
        fs::write(s.join(name), &bytes).unwrap();
        let m = s.one("eval", &format!("{name} {BARE}"));
        assert_eq!(m["metrics"], truth, "{name}");
        assert_eq!(m["params"]["which"], "file");
        assert_eq!(m["inputs"][0]["blake3"], blake3::hash(&bytes).to_hex().to_string(), "{name}");
    }
    // Directories and text files are read as manifests, whatever their names.
    fs::rename(s.join("run"), s.join("run.pth")).unwrap();
    assert_eq!(s.one("eval", "run.pth -q")["metrics"], truth);
    fs::copy(s.join("run.pth/manifest.json"), s.join("run.pth/m.safetensors")).unwrap();
    assert_eq!(s.one("eval", "run.pth/m.safetensors -q")["metrics"], truth);
}

#[test]
fn logits_are_the_same_bytes_from_either_form() {
    let s = untrained();
    let features = |file: &str, bytes: Vec<u8>, out: &str| {
        fs::write(s.join(file), bytes).unwrap();
        s.one("embed", &format!("{file} {BARE} --out {out}"));
        fs::read(s.join(out).join("features.safetensors")).unwrap()
    };
    let truth = features("w.safetensors", safetensors(&plain()), "a");
    assert!(features("w.pth", pth(&plain(), Some("state_dict")), "b") == truth);
}

#[test]
fn names_that_are_not_those_of_the_network_are_refused() {
    let s = untrained();
    for (name, why) in [
        ("module.linear.bias", "holds linear.bias twice, as \"linear.bias\" and \"module.linear.bias\""),
        ("model.conv1.weight", "holds conv1.weight twice"),
        ("conv1.bias", "has a tensor \"conv1.bias\", which resnet20 does not have"),
        ("linear.weight_g", "has a tensor \"linear.weight_g\", which resnet20 does not have"),
        (
            "layer1.0.bn1.running_std",
            "has a tensor \"layer1.0.bn1.running_std\", which resnet20 does not have",
        ),
        ("module.fc.bias", "\"module.fc.bias\" begins with \"module.\", but other names do not"),
        ("criterion.weight", "has a tensor \"criterion.weight\""),
    ] {
        for (file, bytes) in [("w.safetensors", safetensors(&with(name))), ("w.pth", pth(&with(name), None))]
        {
            fs::write(s.join(file), bytes).unwrap();
            for tool in ["eval", "embed"] {
                refused(s.tool(tool, &format!("{file} {BARE}")).assert(), &format!("{file}: {why}"));
            }
        }
    }
    // An unknown prefix is not stripped like a known one.
    fs::write(s.join("w.pth"), pth(&network(|n| format!("encoder.{n}")), None)).unwrap();
    refused(s.tool("eval", &format!("w.pth {BARE}")).assert(), "has a tensor \"encoder.");
}

#[test]
fn what_is_no_weight_is_skipped_and_said_once() {
    let s = untrained();
    let truth = s.one("eval", "run -q")["metrics"].clone();
    let mut more = with("epoch");
    for name in ["n_averaged", "bn1.num_batches_tracked", "optimizer.state.0.momentum_buffer", "optimizer.lr"]
    {
        more.push((name.into(), vec![1], vec![0; 4]));
    }
    let mut state = plain();
    state.extend(network(|n| format!("velocity.{n}")));
    for (file, bytes, skipped) in [
        ("a.safetensors", safetensors(&more), "epoch, n_averaged, optimizer"),
        ("a.pth", pth(&more, None), "epoch, n_averaged, optimizer"),
        ("b.pth", pth(&plain(), Some("net")), "epoch"),
        // The state that `train` resumes from.
        ("state.safetensors", safetensors(&state), "velocity"),
    ] {
        fs::write(s.join(file), bytes).unwrap();
        let run = s
            .tool("eval", &format!("{file} --arch resnet20 --data data"))
            .assert()
            .success()
            .get_output()
            .clone();
        let said = String::from_utf8(run.stderr).unwrap();
        let line = format!("{file}: ignored entries that are not weights: {skipped}\n");
        assert_eq!((said.matches(&line[..]).count(), said.matches("ignored").count()), (1, 1), "{said}");
        let m: Value = serde_json::from_slice(&run.stdout).unwrap();
        assert_eq!(m["metrics"], truth, "{file}");
    }
}

#[test]
fn files_that_are_not_read_say_what_they_are() {
    let s = untrained();
    let fixture = |name: &str| format!("{}/tests/fixtures/torch/{name}.pth", env!("CARGO_MANIFEST_DIR"));
    let eval = |args: &str| s.tool("eval", args).assert();
    // The format is reported before anything else is asked for.
    refused(eval(&fixture("older")), "torch.save(torch.load(\"old.pth\", weights_only=True), \"new.pth\")");
    fs::copy(fixture("older"), s.join("older")).unwrap();
    refused(eval("older"), "older: is a pickle, the format of PyTorch before version 1.6");
    refused(eval(&fixture("plain")), "plain.pth: bare weights record neither network nor data set");
    for (name, why) in [
        ("module", "module.pth: the pickle refers to the Python object __main__.Small"),
        ("numpy", "numpy.pth: the pickle refers to the Python object numpy"),
        ("beyond", "beyond.pth: linear.bias has the value 1e300, which is out of range of float32"),
        ("twice", "twice.pth: holds linear.bias twice"),
        ("mixed", "mixed.pth: most names begin with \"module.\", but \"linear.bias\" does not"),
        ("plain", "plain.pth: linear.weight has shape [4, 2], not [4, 64]"),
    ] {
        refused(eval(&format!("{} {BARE}", fixture(name))), why);
    }
    fs::write(s.join("text.pt"), "not weights").unwrap();
    refused(
        eval(&format!("text.pt {BARE}")),
        "text.pt: not an intact safetensors file, nor one of PyTorch's",
    );
    fs::write(s.join("empty.pth"), "").unwrap();
    refused(eval(&format!("empty.pth {BARE}")), "empty.pth: not an intact safetensors file");
    refused(eval(&format!("gone.pth {BARE}")), "gone.pth: No such file");
}

#[test]
fn damaged_files_are_one_line() {
    let s = untrained();
    for (file, bytes) in [("w.safetensors", safetensors(&plain())), ("w.pth", pth(&plain(), Some("net")))] {
        for at in [5, 9, 100, 5000, bytes.len() / 2, bytes.len() - 30, bytes.len() - 10] {
            fs::write(s.join(file), &bytes[..at]).unwrap();
            refused(s.tool("eval", &format!("{file} {BARE}")).assert(), file);
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x40;
            fs::write(s.join(file), flipped).unwrap();
            let mut eval = s.tool("eval", &format!("{file} {BARE}"));
            let output = eval.timeout(Duration::from_secs(60)).assert().get_output().clone();
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(
                matches!(output.status.code(), Some(0 | 2)) && said.lines().count() <= 1,
                "{file} {at}: {said}"
            );
        }
    }
}
