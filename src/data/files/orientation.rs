//! The orientation of an image, as Pillow's `ImageOps.exif_transpose` reads it: from EXIF, which a PNG may
//! also hold as text, or otherwise from XMP.

use std::io::Read;

use flate2::read::ZlibDecoder;
use image::ImageDecoder;
use image::metadata::Orientation;

/// EXIF's tag of the orientation.
const TAG: u16 = 0x0112;

/// The keyword under which ImageMagick stores EXIF in a PNG's text.
const RAW_PROFILE: &[u8] = b"Raw profile type exif";

/// Pillow's limit on the size of a PNG's text.
const MAX_TEXT: u64 = 1 << 20;

/// Returns the orientation in an image's metadata, or no transform if there is none.
pub fn of(decoder: &mut impl ImageDecoder, bytes: &[u8]) -> Orientation {
    let exif = decoder.exif_metadata().ok().flatten().or_else(|| of_png(bytes));
    // An invalid value leaves the image as it is, whatever XMP says.
    if let Some(value) = exif.as_deref().and_then(in_exif) {
        return u8::try_from(value)
            .ok()
            .and_then(Orientation::from_exif)
            .unwrap_or(Orientation::NoTransforms);
    }
    let xmp = decoder.xmp_metadata().ok().flatten();
    if let Some(turned) = xmp.as_deref().and_then(in_xmp) {
        return turned;
    }
    // The orientation of a TIFF is in its own directory.
    decoder.orientation().unwrap_or(Orientation::NoTransforms)
}

/// Returns the orientation in EXIF: the number in the first directory of a TIFF structure, as 16 or 32 bits.
fn in_exif(exif: &[u8]) -> Option<u32> {
    let mut exif = exif;
    while let Some(rest) = exif.strip_prefix(b"Exif\0\0") {
        exif = rest;
    }
    let is_little = exif.starts_with(b"II");
    let bytes = |at: usize, len: usize| exif.get(at..at.checked_add(len)?);
    let value = |at: usize, len: usize| {
        let mut value = 0;
        for (n, byte) in bytes(at, len)?.iter().enumerate() {
            value |= u32::from(*byte) << (8 * if is_little { n } else { len - 1 - n });
        }
        Some(value)
    };
    let directory = value(4, 4)? as usize;
    let entries = value(directory, 2)? as usize;
    let mut found = None;
    for entry in (0..entries).map(|n| directory + 2 + 12 * n) {
        // Use the entries that are present in a truncated directory.
        let (Some(tag), Some(kind)) = (value(entry, 2), value(entry + 2, 2)) else { break };
        if tag == u32::from(TAG) {
            // SHORT and LONG, and their signed variants. The value is in the entry itself.
            found = match kind {
                3 | 8 => value(entry + 8, 2),
                4 | 9 => value(entry + 8, 4),
                _ => Some(0),
            };
        }
    }
    found
}

/// Returns the orientation in XMP, as an attribute or an element: the first one that begins with a digit.
fn in_xmp(xmp: &[u8]) -> Option<Orientation> {
    let xmp = String::from_utf8_lossy(xmp);
    let digit = |after: &str| {
        let value = after.strip_prefix("=\"").or_else(|| after.strip_prefix('>'))?;
        value.bytes().next().filter(u8::is_ascii_digit)
    };
    let digit = xmp.split("tiff:Orientation").skip(1).find_map(digit)?;
    Some(Orientation::from_exif(digit - b'0').unwrap_or(Orientation::NoTransforms))
}

/// Returns the EXIF of a PNG: from its own chunk, or otherwise from a text chunk. Both may follow the pixels,
/// which the decoder has not read yet.
fn of_png(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut rest = bytes.strip_prefix(b"\x89PNG\r\n\x1a\n")?;
    let mut in_text = None;
    while let Some((length, chunk)) = rest.split_first_chunk() {
        let length = u32::from_be_bytes(*length) as usize;
        let Some((kind, data)) = chunk.split_first_chunk::<4>() else { break };
        let Some((data, after)) = data.split_at_checked(length) else { break };
        match kind {
            b"eXIf" => return Some(data.to_vec()),
            b"tEXt" | b"zTXt" | b"iTXt" if data.starts_with(RAW_PROFILE) => {
                in_text = text_of(kind, &data[RAW_PROFILE.len()..]).as_deref().and_then(raw_profile);
            }
            _ => (),
        }
        // Skip the checksum.
        let Some(after) = after.get(4..) else { break };
        rest = after;
    }
    in_text
}

/// Returns the text of a PNG chunk, without its keyword.
fn text_of(kind: &[u8; 4], data: &[u8]) -> Option<Vec<u8>> {
    let data = data.strip_prefix(b"\0")?;
    let (is_packed, text) = match (kind, data) {
        (b"tEXt", text) => (false, text),
        (b"zTXt", [_, text @ ..]) => (true, text),
        // A compression flag, the compression method, then language and translated keyword, each ended by a
        // zero.
        (b"iTXt", [is_packed, _, rest @ ..]) => (*is_packed != 0, rest.splitn(3, |b| *b == 0).nth(2)?),
        _ => return None,
    };
    if !is_packed {
        return Some(text.to_vec());
    }
    let mut out = vec![];
    ZlibDecoder::new(text).take(MAX_TEXT).read_to_end(&mut out).ok()?;
    Some(out)
}

/// Decodes a raw profile: hexadecimal digits after an empty line, the profile's name and its length.
fn raw_profile(text: &[u8]) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .splitn(4, |b| *b == b'\n')
        .nth(3)?
        .iter()
        .filter(|b| !b.is_ascii_whitespace())
        .map(|b| (*b as char).to_digit(16).map(|d| d as u8))
        .collect::<Option<_>>()?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}
