//! Decoding of image files to pixels.
//!
//! The model is what data loaders commonly do with Pillow,
//! `ImageOps.exif_transpose(Image.open(path)).convert("RGB")`: the content decides, not the name; the image
//! is oriented according to its metadata; alpha is dropped, colour profiles are ignored, and only the first
//! image of an animation is used. Samples of 16 bits are scaled to 8 bits, whereas Pillow clips grey ones at
//! 255.

use std::error::Error;
use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, Rgb, RgbImage};

use super::orientation;
use crate::data::Unreadable;

/// File name extensions of images, in lower case: those of torchvision's `ImageFolder`, and some more of
/// formats that are supported.
const ENDINGS: [&str; 13] =
    ["jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp", "gif", "pbm", "pnm", "jpe"];

/// Version of the decoding, raised whenever a file is decoded to other pixels, even by an update of a
/// decoder. It is part of the keys of everything that is made from image files.
///
/// 2: orientations stored as LONG, in a PNG's text, or invalid beside XMP; GIFs larger than their canvas.
pub const SEMANTICS: u32 = 2;

/// Pillow's limit on the number of pixels, beyond which it suspects an attack.
pub const MAX_PIXELS: u64 = 178_956_970;

/// Returns whether a file is an image, judged by its name.
pub fn is_image(name: &str) -> bool {
    // macOS stores its metadata about `x.jpg` in `._x.jpg`.
    !name.starts_with("._")
        && name.rsplit_once('.').is_some_and(|(_, end)| ENDINGS.contains(&&*end.to_ascii_lowercase()))
}

/// Decodes an image file and orients the image upright. Images with more than `max_pixels` pixels are not
/// decoded.
///
/// # Errors
/// Returns what is wrong with the file.
pub fn decode(bytes: &[u8], max_pixels: u64) -> Result<RgbImage, Unreadable> {
    if bytes.is_empty() {
        return Err("the file is empty".into());
    }
    let mut reader = ImageReader::new(Cursor::new(bytes));
    // Limits what the decoders allocate in addition to the pixels, such as colour profiles.
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(max_pixels.saturating_mul(8).saturating_add(64 << 20));
    reader.limits(limits);
    let reader = reader.with_guessed_format().map_err(Unreadable::Io)?;
    let Some(format) = reader.format() else { return Err("is not an image in a supported format".into()) };
    if format == ImageFormat::Jpeg && is_truncated(bytes) {
        return Err("the JPEG is truncated".into());
    }
    if format == ImageFormat::Gif {
        return first_of_gif(bytes, max_pixels);
    }
    let damaged = |e: ImageError| match e {
        ImageError::Limits(_) => {
            Unreadable::TooLarge(format!("is larger than --max-pixels {max_pixels} allows"))
        }
        e => undecodable(&e),
    };
    let mut decoder = reader.into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    check_size(width, height, max_pixels)?;
    let orientation = orientation::of(&mut decoder, bytes);
    let mut image = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    image.apply_orientation(orientation);
    Ok(image.into_rgb8())
}

fn check_size(width: u32, height: u32, max_pixels: u64) -> Result<(), Unreadable> {
    let pixels = u64::from(width) * u64::from(height);
    if pixels <= 1 {
        return Err(Unreadable::Damaged(format!("has {width}×{height} pixels, too few for an image")));
    }
    if pixels > max_pixels {
        let why = format!("has {width}×{height} pixels, more than --max-pixels {max_pixels}");
        return Err(Unreadable::TooLarge(why));
    }
    Ok(())
}

/// Decodes the first image of a GIF.
///
/// As in Pillow: if the image is smaller than the canvas, the rest is filled with the transparent colour, or
/// with the first colour if there is no transparent one; if it is larger, the canvas is enlarged.
fn first_of_gif(bytes: &[u8], max_pixels: u64) -> Result<RgbImage, Unreadable> {
    let damaged = |e: gif::DecodingError| undecodable(&e);
    let mut options = gif::DecodeOptions::new();
    options.set_color_output(gif::ColorOutput::Indexed);
    let mut decoder = options.read_info(bytes).map_err(damaged)?;
    let (width, height) = (u32::from(decoder.width()), u32::from(decoder.height()));
    let common = decoder.global_palette().map(<[u8]>::to_vec);
    let frame = decoder.next_frame_info().map_err(damaged)?.ok_or("has no image")?;
    let (left, top) = (u32::from(frame.left), u32::from(frame.top));
    let (right, bottom) = (left + u32::from(frame.width), top + u32::from(frame.height));
    let (width, height) = (width.max(right), height.max(bottom));
    check_size(width, height, max_pixels)?;
    let palette = frame.palette.as_deref().or(common.as_deref()).ok_or("has no palette")?.to_vec();
    let transparent = frame.transparent;
    let colour = |index: u8| palette.as_chunks().0.get(usize::from(index)).copied().unwrap_or([0; 3]);
    let mut pixels = vec![0; decoder.buffer_size()];
    decoder.read_into_buffer(&mut pixels).map_err(damaged)?;
    let mut image = RgbImage::from_pixel(width, height, Rgb(colour(transparent.unwrap_or(0))));
    for (n, index) in (0..).zip(pixels) {
        image.put_pixel(left + n % (right - left), top + n / (right - left), Rgb(colour(index)));
    }
    Ok(image)
}

/// Returns whether a JPEG ends before its last scan does. The decoder would fill the missing part with grey.
fn is_truncated(bytes: &[u8]) -> bool {
    let end = |mut rest: &[u8]| -> Option<()> {
        loop {
            // A marker follows a segment, or the data of a scan. In that data, a 0xff byte that is followed
            // by zero or by the code of a restart marker does not end it.
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

/// Returns the error of a decoder, without the line breaks and other control characters that its message may
/// have from the file.
fn undecodable(error: &dyn Error) -> Unreadable {
    let text = error.to_string();
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    Unreadable::Damaged(format!("cannot be decoded: {}", words.collect::<Vec<_>>().join(" ")))
}
