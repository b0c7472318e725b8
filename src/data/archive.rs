//! The wanted members of a .tar.gz, read from the stream into memory. Nothing is ever unpacked to disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use flate2::read::GzDecoder;
use tar::Archive;

use super::Error;

/// More than any official archive unpacks to: what claims to be longer is cut, and then found truncated.
const MAX_UNPACKED: u64 = 1 << 30;

/// Reads the members that `wanted` gives a size limit for, by path without `./`; the rest is skipped. The archive is
/// read to its end, so that its checksum is checked.
///
/// # Errors
/// An archive that is damaged or truncated, one with links, absolute paths or `..` in it, members that come twice or
/// are longer than their limit.
pub fn read(path: &Path, wanted: impl Fn(&Path) -> Option<u64>) -> Result<BTreeMap<PathBuf, Vec<u8>>, Error> {
    let damaged = |e: io::Error| Error::Official {
        path: path.to_owned(),
        why: format!("damaged or truncated archive ({e})"),
    };
    let file = File::open(path).map_err(Error::io(path))?;
    let mut archive =
        Archive::new(GzDecoder::new(io::BufReader::with_capacity(1 << 18, file)).take(MAX_UNPACKED));
    let mut found = BTreeMap::new();
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let member = entry.path().map_err(damaged)?.into_owned();
        let shown = member.display().to_string();
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
            return Err(refuse(&format!("has {} bytes, at most {limit} are expected", entry.size())));
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(damaged)?;
        if bytes.len() as u64 != entry.size() {
            return Err(damaged(io::ErrorKind::UnexpectedEof.into()));
        }
        if found.insert(member, bytes).is_some() {
            return Err(refuse("comes twice"));
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
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().expect("gnu").name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        tar.append(&header, data).expect("appended");
        tar.into_inner().and_then(GzEncoder::finish).expect("finished")
    }

    /// The wanted members, or the message.
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
            ("d/a", Regular, "12345", "has 5 bytes, at most 4 are expected"),
        ] {
            let e = unpacked(&packed(name, kind, data.as_bytes())).expect_err(why);
            assert!(e.contains(why), "{e}");
        }
    }

    #[test]
    fn every_cut_and_flip_is_noticed() {
        let good = packed("d/a", tar::EntryType::Regular, b"1234");
        let whole = unpacked(&good).expect("read");
        // An empty file is an empty archive; that the members are missing is found by who asked for them.
        for n in 1..good.len() {
            assert!(unpacked(&good[..n]).is_err(), "cut at {n}");
        }
        for n in 0..good.len() {
            let mut bad = good.clone();
            bad[n] ^= 0x10;
            // Some bits carry nothing: time and system in gzip's header, the padding behind its last code.
            assert!(unpacked(&bad).is_ok_and(|m| m == whole) || unpacked(&bad).is_err(), "flip at {n}");
        }
        let mut bad = good.clone();
        let checksum = bad.len() - 8;
        bad[checksum] ^= 1;
        assert!(unpacked(&bad).is_err(), "the checksum is compared");
    }
}
