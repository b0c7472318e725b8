//! Tests of files that are built byte by byte or damaged: zip files and pickles with wrong sizes, and random
//! changes, none of which may make a reader panic.

use std::io::{Cursor, Read, Write};
use std::time::{Duration, Instant};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::{Dtype, StateDict, bytes, changed, refused, safetensors, small, weights};

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
fn claimed_sizes_are_checked_against_the_file() {
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
fn zip_files_that_are_not_checkpoints_are_refused() {
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
    let offsets: Vec<usize> =
        (0..twice.len() - name.len()).filter(|&at| twice[at..].starts_with(name)).collect();
    for at in offsets {
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
fn damaged_files_cause_no_panic() {
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
fn damaged_pickles_cause_no_panic() {
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
        // No comment and no attributes; then the offset of the member.
        let rest = [&[0; 10][..], &at.to_le_bytes()].concat();
        directory.extend([b"PK\x01\x02\x14\0\x14\0", &common[..], &rest, name.as_bytes()].concat());
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
fn zip_files_of_any_name_are_read() {
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
