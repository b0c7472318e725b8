//! Tests of the choice of checkpoints.

use clap::Parser;

use super::*;

fn choice(line: &str) -> Choice {
    let args = std::iter::once("eval").chain(line.split_whitespace());
    crate::cli::eval::Flags::try_parse_from(args).expect("sound flags").input
}

#[test]
fn a_best_epoch_of_bare_weights_is_refused() {
    let e = find(&choice("w.pth --arch resnet20 --checkpoint best"), "eval").err();
    let text = e.expect("refused").to_string();
    assert_eq!(text, "w.pth: is a file of weights, and --checkpoint best is for checkpoints; omit it");
}

#[test]
fn what_is_neither_weights_nor_a_manifest_is_called_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("notes.txt");
    fs::write(&file, "a thesis").expect("written");
    let text = |flags: &str| {
        let e = find(&choice(&format!("{} {flags}", file.display())), "embed").err();
        e.expect("refused").to_string()
    };
    assert!(text("--arch resnet20").contains("notes.txt: is neither a file of weights"));
    assert!(text("").contains("notes.txt: not a manifest"));
}

#[test]
fn only_one_checkpoint_goes_into_out() {
    assert!(check_out(None, 2).is_ok() && check_out(Some(Path::new("x")), 1).is_ok());
    let e = check_out(Some(Path::new("x")), 2).expect_err("refused").to_string();
    assert!(e.starts_with("--out x: is for one checkpoint, but 2 were given"), "{e}");
}

#[test]
fn a_gpu_is_refused_where_it_would_do_nothing() {
    for (device, kind) in [("auto", Kind::Embedding), ("cpu", Kind::Embedding), ("cuda", Kind::Dataset)] {
        assert!(check_device(device, kind).is_ok(), "{device} {kind:?}");
    }
    let e = check_device("cuda:1", Kind::Embedding).expect_err("refused").to_string();
    assert_eq!(e, "--device cuda:1: a classifier on features is computed on the CPU; omit --device");
}
