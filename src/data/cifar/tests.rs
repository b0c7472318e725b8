//! Tests with small files in the official formats, intact and broken.

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;
use crate::data::Images;
use crate::data::PIXELS;

const TRAIN: usize = 20;

/// CIFAR-10 with 20 images per training file and 10 test images.
const SMALL10: Dataset = Dataset { train_rows: TRAIN, test_rows: 10, ..CIFAR10 };
/// CIFAR-100 with 200 training images and 100 test images.
const SMALL100: Dataset = Dataset { train_rows: 200, test_rows: 100, ..CIFAR100 };

/// Returns the rows of file `n`: labels and pixels.
fn rows(d: &Dataset, n: usize) -> Vec<(u8, Vec<u8>)> {
    let count = if n == d.forms[0].files.len() - 2 { d.test_rows } else { d.train_rows };
    let pixel = |i: usize, at: usize| (i * 31 + at * 7 + n * 101 + (at >> 8)) as u8;
    (0..count)
        .map(|i| (((i * 3 + n) % d.classes) as u8, (0..PIXELS).map(|at| pixel(i, at)).collect()))
        .collect()
}

fn names(d: &Dataset) -> Vec<String> {
    (0..d.classes).map(|k| format!("class_{k}")).collect()
}

fn binary(d: &Dataset, n: usize) -> Vec<u8> {
    let coarse = vec![0; d.lead - 1];
    rows(d, n)
        .into_iter()
        .flat_map(|(label, pixels)| [coarse.clone(), vec![label], pixels].concat())
        .collect()
}

fn list(items: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    [b"]q\x07(".to_vec(), items.flatten().collect(), b"e".to_vec()].concat()
}

fn string(text: &str) -> Vec<u8> {
    [&[b'U', text.len() as u8], text.as_bytes(), b"q\x01"].concat()
}

/// Builds a pickle with the opcodes of the official batches, in their order.
fn python(d: &Dataset, n: usize) -> Vec<u8> {
    let rows = rows(d, n);
    let pixels: Vec<u8> = rows.iter().flat_map(|(_, pixels)| pixels.clone()).collect();
    let labels = list(rows.iter().map(|&(label, _)| vec![b'K', label]));
    let files = list((0..rows.len()).map(|i| string(&format!("{i}.png"))));
    [
        b"\x80\x02}q\x01(".to_vec(),
        [string("batch_label"), string("a batch")].concat(),
        [string(d.keys[0]), labels].concat(),
        string("data"),
        b"cnumpy.core.multiarray\n_reconstruct\nq\x09cnumpy\nndarray\nq\x0aK\x00\x85q\x0bU\x01bq\x0c\x87q\x0dRq\x0e".to_vec(),
        [&b"(K\x01M"[..], &(rows.len() as u16).to_le_bytes(), b"M\x00\x0c\x86q\x0f"].concat(),
        b"cnumpy\ndtype\nq\x10U\x02u1q\x11K\x00K\x01\x87q\x12Rq\x13(K\x03U\x01|q\x14NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x15b"
            .to_vec(),
        [&b"\x89T"[..], &(pixels.len() as u32).to_le_bytes(), &pixels, b"r\x00\x01\x00\x00tb"].concat(),
        [string("filenames"), files].concat(),
        b"u.".to_vec(),
    ]
    .concat()
}

/// Returns the files of a format, by name.
fn files(d: &Dataset, form: &Form) -> Vec<(&'static str, Vec<u8>)> {
    let last = form.files.len() - 1;
    let names = match form.python {
        true => {
            let names = list(names(d).iter().map(|n| string(n)));
            [b"\x80\x02}q\x01(".to_vec(), string(d.keys[1]), names, b"u.".to_vec()].concat()
        }
        false => format!("{}\n\n", names(d).join("\n")).into_bytes(),
    };
    let file = |n: usize| if form.python { python(d, n) } else { binary(d, n) };
    let batches = form.files[..last].iter().enumerate().map(|(n, &name)| (name, file(n)));
    batches.chain([(form.files[last], names)]).collect()
}

fn unpacked(root: &Path, d: &Dataset, form: &Form) -> PathBuf {
    let dir = root.join(form.directory);
    fs::create_dir(&dir).expect("made");
    for (name, bytes) in files(d, form) {
        fs::write(dir.join(name), bytes).expect("written");
    }
    dir
}

fn packed(root: &Path, d: &Dataset, form: &Form, prefix: &str) -> PathBuf {
    let path = root.join(form.archive);
    let file = fs::File::create(&path).expect("made");
    let mut tar = tar::Builder::new(GzEncoder::new(file, Compression::fast()));
    for (name, bytes) in files(d, form) {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, format!("{prefix}{}/{name}", form.directory), &bytes[..])
            .expect("appended");
    }
    tar.into_inner().and_then(GzEncoder::finish).expect("finished");
    path
}

fn everything(source: &Source) -> (Vec<String>, Vec<u32>, Vec<u8>) {
    let all = |images: &Planes| (0..images.len()).flat_map(|i| images.planes(i).to_vec()).collect::<Vec<_>>();
    let labels = [source.train.labels(), source.test.labels()].concat();
    (source.class_names.clone(), labels, [all(&source.train), all(&source.test)].concat())
}

fn message(d: Dataset, path: &Path) -> String {
    let e = d.locate(path).and_then(|found| found.read()).expect_err("refused").to_string();
    assert!(!e.contains('\n'), "{e}");
    e
}

#[test]
fn all_formats_give_the_same_images() {
    for d in [SMALL10, SMALL100] {
        let expected: Vec<_> = (0..d.forms[0].files.len() - 1).flat_map(|n| rows(&d, n)).collect();
        let labels: Vec<u32> = expected.iter().map(|(label, _)| u32::from(*label)).collect();
        let pixels: Vec<u8> = expected.into_iter().flat_map(|(_, pixels)| pixels).collect();
        let expected = (names(&d), labels, pixels);
        for form in d.forms {
            for prefix in ["", "./"] {
                let root = tempfile::tempdir().expect("a directory");
                let archive = packed(root.path(), &d, form, prefix);
                let from = |path: &Path| d.locate(path).and_then(|found| found.read()).expect("read");
                assert_eq!(everything(&from(&archive)), expected, "the archive itself");
                assert_eq!(everything(&from(root.path())), expected, "a directory with the archive");
                let dir = unpacked(root.path(), &d, form);
                assert_eq!(everything(&from(&dir)), expected, "the directory itself");
                let found = d.locate(root.path()).expect("found");
                assert!(
                    found.files().iter().all(|(role, _)| *role == "file"),
                    "the directory wins over the archive"
                );
                assert_eq!(everything(&found.read().expect("read")), expected, "a torchvision root");
            }
        }
    }
}

#[test]
fn broken_files_are_refused() {
    type Change = fn(&mut Vec<u8>);
    let [binary, python] = SMALL10.forms;
    let cases: &[(&Form, &str, Change, &str)] = &[
        (
            binary,
            "data_batch_3.bin",
            |b| b.truncate(b.len() - 1),
            "has 61459 bytes, but the official file has 61460",
        ),
        (binary, "data_batch_3.bin", |b| b.push(0), "has 61461 bytes"),
        (binary, "data_batch_3.bin", |b| b.extend([0; 99]), "at most 61461 are expected"),
        (
            binary,
            "data_batch_3.bin",
            |b| b[3073] = 10,
            "image 1 has label 10, but labels must be from 0 to 9",
        ),
        (binary, "data_batch_3.bin", |b| b[3073] ^= 1, "the training set has"),
        (binary, "test_batch.bin", |b| b[0] ^= 1, "the test set has"),
        (binary, "batches.meta.txt", |b| b.truncate(9), "has 2 class names, but the official file has 10"),
        (binary, "batches.meta.txt", |b| b[0] = 0xff, "not plain text"),
        (python, "data_batch_3", |b| b.truncate(b.len() / 2), "damaged pickle"),
        (
            python,
            "data_batch_3",
            |b| *b = b"cos\nsystem\n(U\x02idtR.".to_vec(),
            "refers to the Python object os.system",
        ),
        (python, "data_batch_3", |b| *b = b"\x80\x02}.".to_vec(), "has no array `data`"),
        (python, "data_batch_3", |b| *b = self::python(&SMALL10, 5), "`data` has shape [10, 3072]"),
        (python, "data_batch_3", |b| *b = self::python(&SMALL100, 0), "`data` has shape [200, 3072]"),
        (
            python,
            "batches.meta",
            |b| *b = b"cposix\nsystem\n.".to_vec(),
            "refers to the Python object posix.system",
        ),
        (python, "batches.meta", |b| *b = b"\x80\x02}.".to_vec(), "has no list `label_names`"),
    ];
    for (form, name, change, why) in cases {
        let root = tempfile::tempdir().expect("a directory");
        let path = unpacked(root.path(), &SMALL10, form).join(name);
        let mut bytes = fs::read(&path).expect("read");
        change(&mut bytes);
        fs::write(&path, bytes).expect("written");
        let e = message(SMALL10, root.path());
        assert!(e.contains(why), "{name}: {e}");
    }
}

/// A damaged file is either refused, or read as whole images with valid labels. The numbers of rows are small
/// here, so that the reader encounters the damage and not a wrong number of rows.
#[test]
fn damaged_files_are_refused_or_give_valid_images() {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut below = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    for d in [SMALL10, SMALL100] {
        for form in d.forms {
            let root = tempfile::tempdir().expect("a directory");
            let dir = unpacked(root.path(), &d, form);
            for &name in form.files {
                let path = dir.join(name);
                let sound = fs::read(&path).expect("read");
                for case in 0..60 {
                    let mut bytes = sound.clone();
                    // Half of the changes affect the first bytes, which hold the pickle's opcodes, or the
                    // last ones.
                    let near = bytes.len().min(400);
                    let at = match case % 4 {
                        0 => below(near),
                        1 => bytes.len() - 1 - below(near),
                        _ => below(bytes.len()),
                    };
                    match below(4) {
                        0 => bytes[at] ^= 1 << below(8),
                        1 => bytes[at] = below(256) as u8,
                        2 => drop(bytes.splice(at..at + 1, [])),
                        _ => bytes.truncate(at),
                    }
                    fs::write(&path, &bytes).expect("written");
                    let Ok(source) = d.locate(&dir).and_then(|found| found.read()) else { continue };
                    assert_eq!(source.class_names.len(), d.classes, "{name}, case {case}");
                    for images in [&source.train, &source.test] {
                        let classes = d.classes as u32;
                        assert!(images.labels().iter().all(|&k| k < classes), "{name}, case {case}");
                        assert_eq!(images.planes(images.len() - 1).len(), PIXELS, "{name}, case {case}");
                    }
                }
                fs::write(&path, &sound).expect("written");
            }
        }
    }
}

#[test]
fn errors_name_what_is_missing() {
    let root = tempfile::tempdir().expect("a directory");
    assert!(
        message(SMALL10, &root.path().join("nowhere"))
            .contains("nowhere: there is no such file or directory")
    );
    assert!(message(SMALL10, root.path()).contains("no cifar10 here; give the archive"));
    let archive = packed(root.path(), &SMALL100, &SMALL100.forms[1], "");
    assert!(message(SMALL10, root.path()).contains("but cifar100 is here: use --dataset cifar100"));
    assert!(message(SMALL10, &archive).contains("holds no cifar10"));
    let dir = unpacked(root.path(), &SMALL10, &SMALL10.forms[0]);
    fs::remove_file(dir.join("data_batch_4.bin")).expect("removed");
    assert!(message(SMALL10, root.path()).contains("data_batch_4.bin: missing"));
}

#[test]
fn sets_that_are_not_whole_are_refused() {
    let root = tempfile::tempdir().expect("a directory");
    let form = &SMALL10.forms[0];
    let dir = unpacked(root.path(), &SMALL10, form);
    // Image 1 of the third file had label 5.
    let file = dir.join("data_batch_3.bin");
    let mut bytes = fs::read(&file).expect("read");
    bytes[PIXELS + 1] = 4;
    fs::write(&file, bytes).expect("written");
    let e = message(SMALL10, &dir);
    assert!(e.contains("the training set has 11 images of class 4, but the official one has 10"), "{e}");
    // An archive without its second file.
    fs::remove_file(dir.join("data_batch_2.bin")).expect("removed");
    let archive = root.path().join("part.tar");
    let mut tar = tar::Builder::new(fs::File::create(&archive).expect("made"));
    tar.append_dir_all(form.directory, &dir).expect("appended");
    tar.finish().expect("finished");
    let e = message(SMALL10, &archive);
    assert!(e.contains("the member cifar-10-batches-bin/data_batch_2.bin is missing"), "{e}");
}

#[test]
fn repacked_archives_are_read() {
    let root = tempfile::tempdir().expect("a directory");
    for form in SMALL10.forms {
        let expected = everything(
            &SMALL10.locate(&packed(root.path(), &SMALL10, form, "")).and_then(|f| f.read()).expect("read"),
        );
        let archive = root.path().join(form.archive);
        let plain = archive.with_extension("");
        let mut tar = Vec::new();
        std::io::Read::read_to_end(
            &mut flate2::read::GzDecoder::new(fs::File::open(&archive).expect("open")),
            &mut tar,
        )
        .expect("unpacked");
        fs::write(&plain, &tar).expect("written");
        fs::remove_file(&archive).expect("removed");
        for path in [plain.as_path(), root.path()] {
            let read = SMALL10.locate(path).and_then(|f| f.read()).expect("a plain tar");
            assert_eq!(everything(&read), expected);
        }
        fs::remove_file(&plain).expect("removed");
        let deeper = packed(root.path(), &SMALL10, form, "data/sets/");
        assert_eq!(everything(&SMALL10.locate(&deeper).and_then(|f| f.read()).expect("read")), expected);
        fs::remove_file(&deeper).expect("removed");
    }
}

#[test]
fn class_names_may_have_windows_line_ends() {
    let root = tempfile::tempdir().expect("a directory");
    let path = unpacked(root.path(), &SMALL10, &SMALL10.forms[0]).join("batches.meta.txt");
    let text = fs::read_to_string(&path).expect("read").replace('\n', "\r\n");
    fs::write(&path, text).expect("written");
    let read = SMALL10.locate(root.path()).and_then(|f| f.read()).expect("read");
    assert_eq!(read.class_names, names(&SMALL10));
}

#[test]
fn errors_name_what_was_given_instead() {
    let root = tempfile::tempdir().expect("a directory");
    let at = |name: &str, bytes: &[u8]| {
        let path = root.path().join(name);
        fs::write(&path, bytes).expect("written");
        path
    };
    let inner = root.path().join("inner");
    fs::create_dir(&inner).expect("made");
    for form in SMALL10.forms {
        let dir = unpacked(&inner, &SMALL10, form);
        for name in form.files {
            let e = message(SMALL10, &dir.join(name));
            let here = format!("such as {}", dir.display());
            assert!(e.contains("is only one of the files of cifar10") && e.ends_with(&here), "{e}");
        }
        let e = message(SMALL10, root.path());
        let there = format!("(but it is in {}: give that path)", inner.display());
        assert!(e.contains("no cifar10 here") && e.contains(&there), "{e}");
        fs::remove_dir_all(&dir).expect("removed");
    }
    let renamed = at("renamed.bin", &vec![0; TRAIN * (PIXELS + 1)]);
    assert!(message(SMALL10, &renamed).contains("is probably only one of the binary files of cifar10"));
    assert!(message(SMALL100, &at("data_batch_2", b"x")).contains("one of the files of cifar10"));
    for (name, bytes, what) in [
        ("c.zip", &b"PK\x03\x04 and so on"[..], "is a zip file; unpack it"),
        ("c.tar.bz2", b"BZh91AY&SY", "is compressed with bzip2; unpack it"),
        ("c.tar.xz", b"\xfd7zXZ\0\0", "is compressed with xz; unpack it"),
        ("c.tar.gz", b"<html>moved", "neither a .tar.gz nor a .tar; download it again"),
        ("empty.tar.gz", b"", "neither a .tar.gz nor a .tar; download it again"),
    ] {
        let e = message(SMALL10, &at(name, bytes));
        assert!(e.contains(what), "{name}: {e}");
    }
    assert!(message(SMALL10, Path::new("/dev/null")).contains("neither a file nor a directory"));
}
