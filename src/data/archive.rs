//! Reads the wanted members of a .tar.gz or .tar from a stream into memory. Nothing is ever unpacked to disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use flate2::read::GzDecoder;
use tar::Archive;

use super::Error;

/// Larger than any unpacked official archive. A larger stream is cut here, and then found to be truncated.
const MAX_UNPACKED: u64 = 1 << 30;

/// Bytes of a header in a tar archive.
const BLOCK: usize = 512;

/// The type of a file, judged by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Compressed with gzip.
    Gzip,
    /// A tar archive that is not compressed.
    Tar,
    /// A description of a known but unsupported format.
    Other(&'static str),
    /// An unknown format.
    Unknown,
}

impl Content {
    /// Determines the type from the first block of a file.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read.
    pub fn of(path: &Path) -> Result<Content, Error> {
        let mut head = Vec::with_capacity(BLOCK);
        let file = File::open(path).map_err(Error::io(path))?;
        file.take(BLOCK as u64).read_to_end(&mut head).map_err(Error::io(path))?;
        Ok(Content::of_bytes(&head))
    }

    fn of_bytes(head: &[u8]) -> Content {
        const KNOWN: [(&[u8], &str); 8] = [
            (b"PK\x03\x04", "a zip file"),
            (b"BZh", "compressed with bzip2"),
            (b"\xfd7zXZ\0", "compressed with xz"),
            (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
            (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
            (b"Rar!\x1a\x07", "a RAR archive"),
            (b"\x1f\x9d", "compressed with compress"),
            (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        ];
        let tar = || {
            let block: &[u8; BLOCK] = head.try_into().ok()?;
            let header = tar::Header::from_byte_slice(block);
            let sum: u32 = block
                .iter()
                .enumerate()
                .map(|(at, &b)| if (148..156).contains(&at) { 32 } else { b.into() })
                .sum();
            header.cksum().ok().filter(|said| *said == sum)
        };
        match KNOWN.iter().find(|(start, _)| head.starts_with(start)) {
            _ if head.starts_with(b"\x1f\x8b") => Content::Gzip,
            Some((_, what)) => Content::Other(what),
            None if tar().is_some() => Content::Tar,
            None => Content::Unknown,
        }
    }
}

/// Reads the members for which `wanted` returns a size limit, by path without `./`; all others are skipped.
///
/// The archive is read to its end, so that its checksum is verified.
///
/// # Errors
/// Returns an error if the file is not an archive, if it is damaged or truncated, if it contains links,
/// absolute paths or `..`, or if a member occurs twice or is larger than its limit.
pub fn read(path: &Path, wanted: impl Fn(&Path) -> Option<u64>) -> Result<BTreeMap<PathBuf, Vec<u8>>, Error> {
    let official = |why: String| Error::Official { path: path.to_owned(), why };
    let plain = match Content::of(path)? {
        Content::Gzip => false,
        Content::Tar => true,
        Content::Other(what) => return Err(official(format!("is {what}, not a .tar.gz or a .tar"))),
        Content::Unknown => return Err(official("is neither a .tar.gz nor a .tar".into())),
    };
    // The readers' own messages are left out, because they may quote bytes of the file.
    let damaged = |e: io::Error| match e.raw_os_error() {
        Some(_) => Error::io(path)(e),
        None if plain => official("is a damaged or truncated tar archive".into()),
        None => official("is a gzip file, but not an intact tar archive".into()),
    };
    let file = io::BufReader::with_capacity(1 << 18, File::open(path).map_err(Error::io(path))?);
    let stream: Box<dyn Read> = if plain { Box::new(file) } else { Box::new(GzDecoder::new(file)) };
    let mut archive = Archive::new(stream.take(MAX_UNPACKED));
    let mut found = BTreeMap::new();
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let member = entry.path().map_err(damaged)?.into_owned();
        let shown = member.to_string_lossy().escape_debug().to_string();
        let refuse =
            |why: &str| Error::Hostile { path: path.to_owned(), why: format!("the member {shown} {why}") };
        if !member.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
            return Err(refuse("leads out of its directory"));
        }
        let kind = entry.header().entry_type();
        if kind.is_symlink() || kind.is_hard_link() {
            return Err(refuse("is a link"));
        }
        let member: PathBuf = member.components().filter(|c| matches!(c, Component::Normal(_))).collect();
        let Some(limit) = wanted(&member).filter(|_| kind.is_file()) else {
            continue;
        };
        if entry.size() > limit {
            return Err(refuse(&format!("has {} bytes, but at most {limit} are expected", entry.size())));
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(damaged)?;
        if bytes.len() as u64 != entry.size() {
            return Err(damaged(io::ErrorKind::UnexpectedEof.into()));
        }
        if found.insert(member, bytes).is_some() {
            return Err(refuse("occurs twice"));
        }
    }
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(damaged)?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;

    fn packed(name: &str, kind: tar::EntryType, data: &[u8]) -> Vec<u8> {
        let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
        io::copy(&mut &plain(name, kind, data)[..], &mut gz).expect("written");
        gz.finish().expect("finished")
    }

    fn plain(name: &str, kind: tar::EntryType, data: &[u8]) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().expect("gnu").name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        let mut tar = tar::Builder::new(Vec::new());
        tar.append(&header, data).expect("appended");
        tar.into_inner().expect("finished")
    }

    /// Returns the wanted members, or the error message.
    fn unpacked(bytes: &[u8]) -> Result<BTreeMap<PathBuf, Vec<u8>>, String> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.tar.gz");
        std::fs::write(&path, bytes).expect("written");
        read(&path, |_| Some(4)).map_err(|e| e.to_string())
    }

    #[test]
    fn hostile_members_are_refused() {
        use tar::EntryType::{Link, Regular, Symlink};
        let good = unpacked(&packed("./d/a", Regular, b"1234"));
        assert_eq!(good, Ok(BTreeMap::from([("d/a".into(), b"1234".to_vec())])));
        for (name, kind, data, why) in [
            ("../a", Regular, "1", "leads out of its directory"),
            ("d/../../a", Regular, "1", "leads out of its directory"),
            ("/etc/a", Regular, "1", "leads out of its directory"),
            ("d/a", Symlink, "", "is a link"),
            ("d/a", Link, "", "is a link"),
            ("d/a", Regular, "12345", "has 5 bytes, but at most 4 are expected"),
        ] {
            let e = unpacked(&packed(name, kind, data.as_bytes())).expect_err(why);
            assert!(e.contains(why), "{e}");
        }
    }

    #[test]
    fn truncation_and_flipped_bits_are_detected() {
        let good = packed("d/a", tar::EntryType::Regular, b"1234");
        let whole = unpacked(&good).expect("read");
        for n in 0..good.len() {
            assert!(unpacked(&good[..n]).is_err(), "cut at {n}");
        }
        for n in 0..good.len() {
            let mut bad = good.clone();
            bad[n] ^= 0x10;
            // Some bits have no effect: time and system in gzip's header, the padding after its last code.
            assert!(unpacked(&bad).is_ok_and(|m| m == whole) || unpacked(&bad).is_err(), "flip at {n}");
        }
        let mut bad = good.clone();
        let checksum = bad.len() - 8;
        bad[checksum] ^= 1;
        assert!(unpacked(&bad).is_err(), "the checksum is compared");
    }

    #[test]
    fn messages_contain_no_control_characters_of_the_file() {
        let mut noise = plain("d/a", tar::EntryType::Regular, b"1234");
        noise[..BLOCK].iter_mut().zip(0u8..=255).for_each(|(byte, n)| *byte = n.wrapping_mul(37));
        let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
        io::copy(&mut &noise[..], &mut gz).expect("written");
        let e = unpacked(&gz.finish().expect("finished")).expect_err("no archive");
        assert!(e.contains("is a gzip file, but not an intact tar archive; download it again"), "{e:?}");
        let link = unpacked(&packed("d/\x1b[2J", tar::EntryType::Symlink, b"")).expect_err("a link");
        assert!(link.contains("the member d/\\u{1b}[2J is a link"), "{link:?}");
        assert!(!(e + &link).contains(char::is_control));
    }

    #[test]
    fn uncompressed_archives_are_read() {
        let tar = plain("d/a", tar::EntryType::Regular, b"1234");
        assert_eq!(unpacked(&tar), Ok(BTreeMap::from([("d/a".into(), b"1234".to_vec())])));
        let e = unpacked(&tar[..514]).expect_err("cut");
        assert!(e.contains("is a damaged or truncated tar archive"), "{e}");
        let link = unpacked(&plain("d/a", tar::EntryType::Symlink, b"")).expect_err("a link");
        assert!(link.contains("is a link"), "{link}");
    }

    #[test]
    fn other_files_are_not_said_to_be_archives() {
        let zip = unpacked(b"PK\x03\x04").expect_err("a zip file");
        assert!(zip.contains("is a zip file, not a .tar.gz or a .tar; download it again"), "{zip}");
        let page = unpacked(b"<html>moved").expect_err("a page");
        assert!(page.contains("is neither a .tar.gz nor a .tar; download it again"), "{page}");
    }

    #[test]
    fn formats_are_recognised_by_their_first_bytes() {
        let of = Content::of_bytes;
        let tar = plain("a", tar::EntryType::Regular, b"1");
        assert_eq!(
            [of(&tar[..BLOCK]), of(&packed("a", tar::EntryType::Regular, b"1"))],
            [Content::Tar, Content::Gzip]
        );
        assert_eq!(of(b"BZh91AY&SY"), Content::Other("compressed with bzip2"));
        // Zeros are the end of an archive; a single byte identifies nothing.
        assert_eq!([of(&[0; BLOCK]), of(b"\x1f"), of(b"")], [Content::Unknown; 3]);
    }
}
