//! TensorBoard's event file, made from `log.jsonl`: the same curves in the form that TensorBoard reads.
//!
//! Records are TFRecords (length, masked CRC-32C of the length, data, masked CRC-32C of the data) of `Event`
//! messages. They are encoded by hand, because an event with scalars needs only six fields of protobuf
//! (tensorflow/core/util/event.proto, framework/summary.proto).
//!
//! The file is a view of the log: it is in no manifest, no key and no hash, and can be made again at any
//! time. Unlike the results it grows in place, because a running TensorBoard keeps reading the file that it
//! has opened. Content that does not belong to the log (a record half written by a killed process, a run that
//! was discarded) is replaced.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, ensure};

use super::{EpochReport, LOG};
use crate::manifest::store;

/// Name of the event file; TensorBoard looks for "tfevents" in it.
pub const EVENTS: &str = "events.out.tfevents.remix";

/// Brings the event file in `dir` up to date with the log: keeps the records that match the log's first
/// epochs, and replaces everything after them with the missing epochs.
///
/// # Errors
/// Returns an error if the log is missing or cannot be read, or if the event file cannot be written or was
/// not made by `train`.
pub fn update(dir: &Path) -> Result<()> {
    let path = dir.join(LOG);
    let at = || path.display().to_string();
    let text = fs::read_to_string(&path).with_context(at)?;
    let log: Vec<EpochReport> =
        text.lines().map(serde_json::from_str).collect::<Result<_, _>>().with_context(at)?;
    // The log is written at the end of an epoch, so its modification time is that of the last one.
    let written = fs::metadata(&path).and_then(|m| m.modified()).with_context(at)?;
    let end = written.duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
    let records = records(&log, end);

    let path = dir.join(EVENTS);
    let at = || path.display().to_string();
    check(dir)?;
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .with_context(at)?;
    let mut there = vec![];
    file.read_to_end(&mut there).with_context(at)?;
    let (mut known, mut end) = (0, 0);
    while let Some(record) = records.get(known)
        && there.get(end..end + record.len()).is_some_and(|old| is_same(old, record))
    {
        known += 1;
        end += record.len();
    }
    let mut rewrite = || -> std::io::Result<()> {
        if there.len() > end {
            file.set_len(end as u64)?;
        }
        file.seek(SeekFrom::Start(end as u64))?;
        file.write_all(&records[known..].concat())
    };
    rewrite().with_context(at)
}

/// Refuses a file at the path of the event file that `train` did not make.
///
/// # Errors
/// Returns an error if there is such a file or a link, or if the file cannot be read.
pub fn check(dir: &Path) -> Result<()> {
    let path = dir.join(EVENTS);
    let Ok(meta) = fs::symlink_metadata(&path) else { return Ok(()) };
    let begins = record(&version(0.0))[..LENGTH].to_vec();
    let mut head = vec![0; LENGTH];
    let is_ours = meta.is_file() && {
        let read = File::open(&path)
            .and_then(|mut f| f.read(&mut head))
            .with_context(|| path.display().to_string())?;
        begins.starts_with(&head[..read])
    };
    ensure!(is_ours, "{}: was not made by train; move it away, or omit --tensorboard", path.display());
    Ok(())
}

/// Removes the event file of a run that is discarded.
///
/// # Errors
/// Fails under the same conditions as [`check`], or if the file cannot be removed.
pub fn discard(dir: &Path) -> Result<()> {
    check(dir)?;
    Ok(store::remove(&dir.join(EVENTS))?)
}

/// Returns whether a record in a file equals this one except for its time, the first field of an event.
fn is_same(old: &[u8], record: &[u8]) -> bool {
    let timeless = LENGTH + TIME..record.len() - CHECKSUM;
    old[..LENGTH] == record[..LENGTH]
        && old[timeless.clone()] == record[timeless]
        && masked_crc(&old[LENGTH..old.len() - CHECKSUM])[..] == old[old.len() - CHECKSUM..]
}

/// Number of bytes before a record's data: its length and the checksum of the length.
const LENGTH: usize = 12;

/// Number of bytes of an event's first field, its time.
const TIME: usize = 9;

/// Number of bytes after a record's data: its checksum.
const CHECKSUM: usize = 4;

/// Returns the file's records: the version, then one event per epoch, the last at `end` (seconds since 1970).
fn records(log: &[EpochReport], end: f64) -> Vec<Vec<u8>> {
    let mut time = end - log.iter().map(|e| e.seconds).sum::<f64>();
    let mut all = vec![record(&version(time))];
    for e in log {
        time += e.seconds;
        let scalars = [
            ("loss", Some(e.loss)),
            ("train_top1", Some(e.train_top1)),
            ("test_top1", Some(e.test_top1)),
            ("val_top1", e.val_top1),
            ("lr", Some(e.lr.into())),
            ("images_per_second", Some(e.images_per_second)),
        ];
        let summary: Vec<u8> = scalars
            .iter()
            .filter_map(|&(tag, value)| Some((tag, value?)))
            .flat_map(|(tag, value)| {
                let value = [bytes(1, tag.as_bytes()), float(2, value as f32)].concat();
                bytes(1, &value)
            })
            .collect();
        let step = [vec![2 << 3], varint(e.epoch.into())].concat();
        all.push(record(&[double(1, time), step, bytes(5, &summary)].concat()));
    }
    all
}

/// Encodes the event that a file begins with.
fn version(time: f64) -> Vec<u8> {
    [double(1, time), bytes(3, b"brain.Event:2")].concat()
}

/// Encodes a TFRecord.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length), data, &masked_crc(data)].concat()
}

/// Computes the masked CRC-32C of TFRecord: rotated right by 15 bits, then offset by a constant.
fn masked_crc(data: &[u8]) -> [u8; 4] {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// Computes the CRC-32 with Castagnoli's polynomial bit by bit: a table is not worth it for kilobytes.
fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 * (crc & 1)))
    })
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// Encodes a field of bytes, a string or a message.
fn bytes(field: u8, data: &[u8]) -> Vec<u8> {
    [&[field << 3 | 2][..], &varint(data.len() as u64), data].concat()
}

fn double(field: u8, value: f64) -> Vec<u8> {
    [&[field << 3 | 1][..], &value.to_le_bytes()].concat()
}

fn float(field: u8, value: f32) -> Vec<u8> {
    [&[field << 3 | 5][..], &value.to_le_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(epochs: u32) -> Vec<EpochReport> {
        let report = |epoch| EpochReport {
            epoch,
            epochs: 300,
            seed: 0,
            lr: 0.1,
            loss: 1.0 / f64::from(epoch),
            train_top1: 50.0,
            test_top1: 25.0,
            images_per_second: 600.0,
            seconds: 20.0,
            val_top1: None,
            computed_by: String::new(),
        };
        (1..=epochs).map(report).collect()
    }

    fn write_log(dir: &Path, epochs: u32) {
        let text =
            log(epochs).iter().map(|e| serde_json::to_string(e).expect("JSON") + "\n").collect::<String>();
        fs::write(dir.join(LOG), text).expect("written");
    }

    /// Returns the data of each record of a file, after checking all checksums.
    fn read(mut file: &[u8]) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while !file.is_empty() {
            let length = u64::from_le_bytes(file[..8].try_into().expect("eight bytes")) as usize;
            assert_eq!(file[8..12], masked_crc(&file[..8]));
            let (data, rest) = file[12..].split_at(length);
            assert_eq!(rest[..4], masked_crc(data));
            all.push(data.to_vec());
            file = &rest[4..];
        }
        all
    }

    #[test]
    fn checksum_matches_published_values() {
        // The check value of CRC-32C in the catalogue of CRCs, and a test vector of RFC 3720, B.4.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(varint(300), [0xac, 0x02]);
    }

    #[test]
    fn event_bytes_are_pinned() {
        let all = records(&log(2), 140.0);
        let version = read(&all[0]).remove(0);
        assert_eq!(version[1..9], 100.0f64.to_le_bytes());
        assert_eq!(version[9..], *b"\x1a\x0dbrain.Event:2");
        let second = read(&all[2]).remove(0);
        assert_eq!(second[1..9], 140.0f64.to_le_bytes());
        assert_eq!(second[9..12], [0x10, 2, 0x2a], "step 2, then the summary");
        let loss = b"\x0a\x0b\x0a\x04loss\x15\x00\x00\x00\x3f";
        assert_eq!(second[13..13 + loss.len()], *loss);
    }

    #[test]
    fn event_file_grows_in_place_and_recovers() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join(EVENTS);
        let steps = |epochs| {
            write_log(dir.path(), epochs);
            update(dir.path()).expect("updated");
            let bytes = fs::read(&file).expect("read");
            assert_eq!(read(&bytes).len(), epochs as usize + 1);
            bytes
        };
        let (two, again, three) = (steps(2), steps(2), steps(3));
        assert_eq!(two, again, "nothing to add");
        assert!(three.starts_with(&two));
        // Epochs that a killed run wrote and a resumed one repeats, and a record that is half written.
        assert!(steps(1).len() < two.len());
        fs::write(&file, &three[..three.len() - 7]).expect("cut");
        assert_eq!(steps(3).len(), three.len());
        // Another run with as many epochs, whose events do not match this log.
        let mut other = three.clone();
        let at = three.windows(4).position(|w| w == b"loss").expect("a loss") + 5;
        other[at] ^= 1;
        fs::write(&file, &other).expect("written");
        let values = |bytes: &[u8]| read(bytes).iter().map(|data| data[TIME..].to_vec()).collect::<Vec<_>>();
        assert_eq!(values(&steps(3)), values(&three));
    }
}
