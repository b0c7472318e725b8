//! The bundled font: what PNGs are set in, and how wide a text is going to be.
//!
//! Arimo has the metrics of Arial and Helvetica (and of Liberation Sans), one of which is on nearly every machine, so that an
//! SVG looks the same where Arimo itself is not installed. The files hold the signs that figures use; `fonts/OFL.txt` is
//! their licence.

use std::sync::LazyLock;

use skrifa::instance::{LocationRef, Size};
use skrifa::{FontRef, MetadataProvider};

/// The font of all figures, with its equals in width.
pub const FAMILY: &str = "Arimo, Arial, Helvetica, Liberation Sans, sans-serif";

/// The upright font.
pub static REGULAR: &[u8] = include_bytes!("fonts/Arimo-Regular.ttf");

/// The bold font.
pub static BOLD: &[u8] = include_bytes!("fonts/Arimo-Bold.ttf");

/// Height of a capital letter, in font sizes.
pub const CAP: f64 = 0.716;

/// Advance widths of a font, in font sizes.
struct Widths(Vec<(char, f64)>);

impl Widths {
    fn of(data: &'static [u8]) -> Widths {
        let font = FontRef::new(data).expect("the bundled font is tested to parse");
        let metrics = font.glyph_metrics(Size::new(1.0), LocationRef::default());
        let width = |glyph| f64::from(metrics.advance_width(glyph).unwrap_or(0.0));
        let mut all: Vec<(char, f64)> = font
            .charmap()
            .mappings()
            .filter_map(|(code, glyph)| Some((char::from_u32(code)?, width(glyph))))
            .collect();
        all.sort_by_key(|(c, _)| *c);
        Widths(all)
    }

    fn width(&self, c: char) -> f64 {
        // A sign that the font does not have is set from another one, about this wide.
        self.0.binary_search_by_key(&c, |(c, _)| *c).map_or(0.6, |i| self.0[i].1)
    }
}

static WIDTHS: LazyLock<[Widths; 2]> = LazyLock::new(|| [Widths::of(REGULAR), Widths::of(BOLD)]);

/// Width of a text, in the unit of the size.
pub fn width(text: &str, size: f64, bold: bool) -> f64 {
    let font = &WIDTHS[usize::from(bold)];
    size * text.chars().map(|c| font.width(c)).sum::<f64>()
}

/// The text, or as much of it as fits with an ellipsis.
pub fn fit(text: &str, size: f64, bold: bool, room: f64) -> String {
    if width(text, size, bold) <= room {
        return text.to_owned();
    }
    let mut short = String::new();
    for c in text.chars() {
        if width(&format!("{short}{c}…"), size, bold) > room {
            break;
        }
        short.push(c);
    }
    format!("{}…", short.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_those_of_helvetica() {
        // Adobe's Helvetica.afm: A 667, i 222, space 278, 0 556; Helvetica-Bold.afm: A 722.
        for (c, wanted) in [("A", 0.667), ("i", 0.222), (" ", 0.278), ("0", 0.556), ("−", 0.584)] {
            assert!((width(c, 1.0, false) - wanted).abs() < 1e-3, "{c}: {}", width(c, 1.0, false));
        }
        assert!((width("AA", 10.0, true) - 14.44).abs() < 2e-2);
    }

    #[test]
    fn what_is_too_long_is_cut() {
        assert_eq!(fit("airplane", 7.0, false, 100.0), "airplane");
        let cut = fit("Remix-DRW (recipe paper)", 7.0, false, 40.0);
        assert!(cut.ends_with('…') && width(&cut, 7.0, false) <= 40.0, "{cut}");
    }
}
