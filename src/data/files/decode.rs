//! From the bytes of an image file to its pixels.
//!
//! The model is what data loaders of the field do with Pillow,
//! `ImageOps.exif_transpose(Image.open(path)).convert("RGB")`: the content decides, not the name; the image
//! is turned as its metadata say; alpha is dropped, colour profiles are ignored, and of an animation the
//! first image is taken. Samples of 16 bits are scaled to 8, where Pillow cuts grey ones off at 255.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, Rgb, RgbImage};

/// Endings of the names of image files, in lower case: those of torchvision's `ImageFolder`, and some more of
/// formats that are read.
const ENDINGS: [&str; 13] =
    ["jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp", "gif", "pbm", "pnm", "jpe"];

/// Pillow's bound on pixels, beyond which it takes an image for an attack.
pub const MAX_PIXELS: u64 = 178_956_970;

/// Whether a file is an image by its name.
pub fn is_image(name: &str) -> bool {
    // macOS keeps what it knows of `x.jpg` in `._x.jpg`.
    !name.starts_with("._")
        && name.rsplit_once('.').is_some_and(|(_, end)| ENDINGS.contains(&&*end.to_ascii_lowercase()))
}

/// The pixels of an image file, turned upright. Images of more than `max_pixels` are not decoded.
///
/// # Errors
/// In words, what is wrong with the file.
pub fn decode(bytes: &[u8], max_pixels: u64) -> Result<RgbImage, String> {
    if bytes.is_empty() {
        return Err("the file is empty".into());
    }
    let mut reader = ImageReader::new(Cursor::new(bytes));
    // Of what the decoders allocate beside the pixels, such as colour profiles.
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(max_pixels.saturating_mul(8).saturating_add(64 << 20));
    reader.limits(limits);
    let reader = reader.with_guessed_format().map_err(|e| e.to_string())?;
    let Some(format) = reader.format() else { return Err("is not an image in a supported format".into()) };
    if format == ImageFormat::Jpeg && is_truncated(bytes) {
        return Err("the JPEG is truncated".into());
    }
    if format == ImageFormat::Gif {
        return first_of_gif(bytes, max_pixels);
    }
    let damaged = |e: ImageError| match e {
        ImageError::Limits(_) => format!("is larger than --max-pixels {max_pixels} allows"),
        e => format!("cannot be decoded: {}", one_line(&e.to_string())),
    };
    let mut decoder = reader.into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    check_size(width, height, max_pixels)?;
    let orientation = orientation(&mut decoder, bytes);
    let mut image = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    image.apply_orientation(orientation);
    Ok(image.into_rgb8())
}

fn check_size(width: u32, height: u32, max_pixels: u64) -> Result<(), String> {
    let pixels = u64::from(width) * u64::from(height);
    if pixels <= 1 {
        return Err(format!("has {width}×{height} pixels, which is no picture"));
    }
    if pixels > max_pixels {
        return Err(format!("has {width}×{height} pixels, more than --max-pixels {max_pixels}"));
    }
    Ok(())
}

/// The first image of a GIF. It may be smaller than the whole, which is then filled with the transparent colour, else
/// with the first one, as Pillow does it.
fn first_of_gif(bytes: &[u8], max_pixels: u64) -> Result<RgbImage, String> {
    let damaged = |e: gif::DecodingError| format!("cannot be decoded: {}", one_line(&e.to_string()));
    let mut options = gif::DecodeOptions::new();
    options.set_color_output(gif::ColorOutput::Indexed);
    let mut decoder = options.read_info(bytes).map_err(damaged)?;
    let (width, height) = (u32::from(decoder.width()), u32::from(decoder.height()));
    check_size(width, height, max_pixels)?;
    let common = decoder.global_palette().map(<[u8]>::to_vec);
    let frame = decoder.read_next_frame().map_err(damaged)?.ok_or("has no image")?;
    let palette = frame.palette.as_deref().or(common.as_deref()).ok_or("has no palette")?;
    let colour = |index: u8| palette.as_chunks().0.get(usize::from(index)).copied().unwrap_or([0; 3]);
    let mut image = RgbImage::from_pixel(width, height, Rgb(colour(frame.transparent.unwrap_or(0))));
    let rows = frame.buffer.chunks_exact(usize::from(frame.width).max(1));
    for (y, row) in (u32::from(frame.top)..height).zip(rows) {
        for (x, index) in (u32::from(frame.left)..width).zip(row) {
            image.put_pixel(x, y, Rgb(colour(*index)));
        }
    }
    Ok(image)
}

/// How the image is to be turned: EXIF says it, else XMP.
fn orientation(decoder: &mut impl ImageDecoder, bytes: &[u8]) -> Orientation {
    let exif = decoder.exif_metadata().ok().flatten().or_else(|| png_exif(bytes).map(<[u8]>::to_vec));
    let said = exif.as_deref().and_then(Orientation::from_exif_chunk);
    let xmp = said.is_none().then(|| decoder.xmp_metadata().ok().flatten()).flatten();
    let said = said.or_else(|| {
        let xmp = String::from_utf8_lossy(xmp.as_deref()?).into_owned();
        let (_, after) = xmp.split_once("tiff:Orientation")?;
        let value = after.strip_prefix("=\"").or_else(|| after.strip_prefix('>'))?;
        Orientation::from_exif(value.bytes().next()?.checked_sub(b'0')?)
    });
    said.unwrap_or_else(|| decoder.orientation().unwrap_or(Orientation::NoTransforms))
}

/// The EXIF chunk of a PNG, which may stand behind the pixels, where the decoder has not been yet.
fn png_exif(bytes: &[u8]) -> Option<&[u8]> {
    let mut rest = bytes.strip_prefix(b"\x89PNG\r\n\x1a\n")?;
    while let Some((length, chunk)) = rest.split_first_chunk() {
        let length = u32::from_be_bytes(*length) as usize;
        let (kind, data) = chunk.split_first_chunk::<4>()?;
        let (data, after) = data.split_at_checked(length)?;
        if kind == b"eXIf" {
            return Some(data);
        }
        // Behind a checksum.
        rest = after.get(4..)?;
    }
    None
}

/// Whether a JPEG ends before its last scan does. The decoder fills what is missing with grey.
fn is_truncated(bytes: &[u8]) -> bool {
    let end = |mut rest: &[u8]| -> Option<()> {
        loop {
            // Between segments, or in the data of a scan, where a marker's byte is followed by a zero or is
            // that of a restart.
            let is_marker = |w: &[u8]| w[0] == 0xff && !matches!(w[1], 0x00 | 0xff | 0xd0..=0xd8);
            let at = rest.windows(2).position(is_marker)?;
            let marker = rest[at + 1];
            rest = &rest[at + 2..];
            if marker == 0xd9 {
                return Some(());
            }
            if marker != 0x01 {
                let length = u16::from_be_bytes(*rest.first_chunk()?);
                rest = rest.get(usize::from(length)..)?;
            }
        }
    };
    end(bytes).is_none()
}

/// A decoder's message without line breaks.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
