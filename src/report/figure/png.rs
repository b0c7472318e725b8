//! Renders an SVG as a PNG with resvg and the bundled font alone, so that the bytes are the same on every
//! machine.

use std::sync::{Arc, LazyLock};

use resvg::tiny_skia::{Color, Pixmap, Transform};
use resvg::usvg::fontdb::{Database, Source};
use resvg::usvg::{Options, Tree};

use super::super::Error;
use super::text::{BOLD, REGULAR};

static FONTS: LazyLock<Arc<Database>> = LazyLock::new(|| {
    let mut fonts = Database::new();
    for data in [REGULAR, BOLD] {
        fonts.load_font_source(Source::Binary(Arc::new(data)));
    }
    Arc::new(fonts)
});

/// Renders one of our SVGs at a resolution, on white. The file records the resolution so that it is placed at
/// its true size.
///
/// # Errors
/// Returns an error if the SVG cannot be parsed, the picture is too large, or encoding fails.
pub fn render(svg: &str, dpi: u32) -> Result<Vec<u8>, Error> {
    let bad = |why: String| Error::Render { dpi, why };
    let options = Options { fontdb: FONTS.clone(), font_family: "Arimo".into(), ..Options::default() };
    let tree = Tree::from_str(svg, &options).map_err(|e| bad(e.to_string()))?;
    // usvg's unit is 1/96 inch.
    let scale = dpi as f32 / 96.0;
    let (w, h) = (tree.size().width() * scale, tree.size().height() * scale);
    let mut picture = Pixmap::new(w.round() as u32, h.round() as u32)
        .ok_or_else(|| bad(format!("a picture of {w:.0} × {h:.0} pixels is too large")))?;
    picture.fill(Color::WHITE);
    resvg::render(&tree, Transform::from_scale(scale, scale), &mut picture.as_mut());
    let rgb: Vec<u8> = picture.pixels().iter().flat_map(|p| [p.red(), p.green(), p.blue()]).collect();
    encode(&rgb, (picture.width(), picture.height()), Some(dpi)).map_err(|e| bad(e.to_string()))
}

/// Encodes RGB pixels. A picture with a resolution is a file of its own, which is compressed as well as
/// possible.
pub(in crate::report) fn encode(
    rgb: &[u8],
    (width, height): (u32, u32),
    dpi: Option<u32>,
) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    if let Some(dpi) = dpi {
        encoder.set_compression(png::Compression::High);
        let per_metre = (f64::from(dpi) / 0.0254).round() as u32;
        encoder.set_pixel_dims(Some(png::PixelDimensions {
            xppu: per_metre,
            yppu: per_metre,
            unit: png::Unit::Meter,
        }));
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(rgb)?;
    writer.finish()?;
    Ok(bytes)
}
