//! The bundled font: PNGs are set in it, texts are measured with it, and long texts are cut or wrapped to
//! fit.
//!
//! Arimo has the metrics of Arial and Helvetica (and of Liberation Sans), one of which is on nearly every
//! machine, so that an SVG looks the same where Arimo itself is not installed. The files contain the Latin,
//! Greek and Cyrillic letters of Europe's languages and the symbols of figures. fontTools made them from
//! version 1.33:
//!
//! ```text
//! pyftsubset Arimo-Regular.ttf --no-hinting --layout-features=kern --unicodes=U+20-7E,U+A0-17F,U+218-21B,\
//! U+386-3CE,U+400-45F,U+490,U+491,U+2013,U+2014,U+2018-201A,U+201C-201E,U+2026,U+2212,U+2264,U+2265
//! ```
//!
//! `fonts/OFL.txt` is their licence.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use skrifa::instance::{LocationRef, Size};
use skrifa::{FontRef, MetadataProvider};

use super::svg::SMALL;
use crate::report::series::number_equals;

/// The font of all figures, followed by fonts with the same widths.
pub const FAMILY: &str = "Arimo, Arial, Helvetica, Liberation Sans, sans-serif";

/// The upright font.
pub static REGULAR: &[u8] = include_bytes!("fonts/Arimo-Regular.ttf");

/// The bold font.
pub static BOLD: &[u8] = include_bytes!("fonts/Arimo-Bold.ttf");

/// Height of a capital letter, as a fraction of the font size.
pub const CAP: f64 = 0.716;

/// Advance widths of a font, as fractions of the font size.
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

    fn of_char(&self, c: char) -> Option<f64> {
        self.0.binary_search_by_key(&c, |(c, _)| *c).ok().map(|i| self.0[i].1)
    }

    fn width(&self, c: char) -> f64 {
        // A character that the font lacks is set in a fallback font, at about this width; East Asian
        // characters are as wide as they are high.
        self.of_char(c).unwrap_or(if c >= '\u{1100}' { 1.0 } else { 0.6 })
    }
}

static WIDTHS: LazyLock<[Widths; 2]> = LazyLock::new(|| [Widths::of(REGULAR), Widths::of(BOLD)]);

/// Returns the width of a text, in the unit of `size`.
pub fn width(text: &str, size: f64, bold: bool) -> f64 {
    let font = &WIDTHS[usize::from(bold)];
    size * text.chars().map(|c| font.width(c)).sum::<f64>()
}

/// Returns the width of a text in the small upright font, in which names are cut.
fn small(text: &str) -> f64 {
    width(text, SMALL, false)
}

/// Returns the text, or as much of its beginning as fits with an ellipsis.
pub fn fit(text: &str, room: f64) -> String {
    if small(text) <= room {
        return text.to_owned();
    }
    let mut short = String::new();
    for c in text.chars() {
        if small(&format!("{short}{c}…")) > room {
            break;
        }
        short.push(c);
    }
    format!("{}…", short.trim_end())
}

/// Returns the text, or as much of its beginning and end as fits with an ellipsis in between.
fn fit_ends(text: &str, room: f64) -> String {
    let all: Vec<char> = text.chars().collect();
    let cut = |kept: usize| -> String {
        // If the number is odd, the end gets one character more, because names often begin alike.
        let (head, tail) = (kept / 2, kept - kept / 2);
        all[..head].iter().chain(&['…']).chain(&all[all.len() - tail..]).collect()
    };
    let fits = |kept: &usize| small(&cut(*kept)) <= room;
    match small(text) <= room {
        true => text.to_owned(),
        false => cut((0..all.len()).rev().find(fits).unwrap_or(0)),
    }
}

/// Cuts names that stand beside each other in a drawing so that each fits its room and no two look the same.
/// Names are cut at the end; if that makes two look the same, in the middle; and if they still do, they are
/// numbered.
pub fn fit_all(names: &[&str], room: impl Fn(usize) -> f64) -> Vec<String> {
    let alike = |all: &[String]| all.iter().collect::<BTreeSet<_>>().len() < all.len();
    let cut = |how: fn(&str, f64) -> String, less: f64| -> Vec<String> {
        names.iter().enumerate().map(|(i, name)| how(name, room(i) - less)).collect()
    };
    let found = [fit, fit_ends].into_iter().map(|how| cut(how, 0.0)).find(|all| !alike(all));
    found.unwrap_or_else(|| {
        let mut all = cut(fit_ends, small(&format!(" #{}", names.len())));
        number_equals(all.iter_mut().collect());
        all
    })
}

/// Breaks a text into lines of at most the given width: at spaces; in a word longer than a line, at hyphens,
/// slashes and underscores; and anywhere if that is not enough. Nothing is left out.
pub fn wrap(text: &str, size: f64, bold: bool, room: f64) -> Vec<String> {
    let fits = |line: &str| width(line, size, bold) <= room;
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last_mut().expect("it begins with one");
        let joined = if last.is_empty() { word.to_owned() } else { format!("{last} {word}") };
        if fits(&joined) {
            *last = joined;
            continue;
        }
        if !last.is_empty() {
            lines.push(String::new());
        }
        for piece in word.split_inclusive(['-', '/', '_']) {
            let last = lines.last_mut().expect("it begins with one");
            if fits(&format!("{last}{piece}")) {
                last.push_str(piece);
                continue;
            }
            if !last.is_empty() {
                lines.push(String::new());
            }
            for c in piece.chars() {
                let last = lines.last_mut().expect("it begins with one");
                if !last.is_empty() && !fits(&format!("{last}{c}")) {
                    lines.push(c.to_string());
                } else {
                    last.push(c);
                }
            }
        }
    }
    lines
}

/// Returns the characters in the texts of one of our SVGs that the bundled font lacks: in a PNG they are
/// drawn as boxes.
pub fn missing(svg: &str) -> BTreeSet<char> {
    let texts = svg.split("<text ").skip(1).filter_map(|t| t.split_once('>')?.1.split("</text>").next());
    texts.flat_map(str::chars).filter(|c| WIDTHS.iter().any(|font| font.of_char(*c).is_none())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_match_helvetica() {
        // From Adobe's Helvetica.afm: A 667, i 222, space 278, 0 556; from Helvetica-Bold.afm: A 722.
        for (c, wanted) in [("A", 0.667), ("i", 0.222), (" ", 0.278), ("0", 0.556), ("−", 0.584)] {
            assert!((width(c, 1.0, false) - wanted).abs() < 1e-3, "{c}: {}", width(c, 1.0, false));
        }
        assert!((width("AA", 10.0, true) - 14.44).abs() < 2e-2);
    }

    #[test]
    fn long_names_are_cut() {
        assert_eq!(fit("airplane", 100.0), "airplane");
        let cut = fit("Remix-DRW (recipe paper)", 40.0);
        assert!(cut.ends_with('…') && small(&cut) <= 40.0, "{cut}");
    }

    #[test]
    fn cut_names_stay_unique() {
        let cut = |names: &[&str]| fit_all(names, |_| 40.0);
        assert_eq!(cut(&["cat", "dog"]), ["cat", "dog"]);
        let all = ["a very long name of a class", "another name that is long"];
        assert!(cut(&all).iter().all(|n| n.ends_with('…')), "{:?}", cut(&all));
        for alike in [
            ["weights of the first run", "weights of the second run"],
            ["weights a for ten epochs", "weights b for ten epochs"],
            ["the same", "the same"],
        ] {
            let found = cut(&alike);
            assert!(found[0] != found[1] && found.iter().all(|n| small(n) <= 40.0), "{found:?}");
        }
    }

    #[test]
    fn long_texts_are_wrapped_without_loss() {
        assert_eq!(wrap("Remix", 7.0, false, 100.0), ["Remix"]);
        let text = "Remix (tau 0.3, warmup 1, weights/of/a/very/long/path.safetensors), true class";
        let lines = wrap(text, 7.0, false, 60.0);
        assert!(lines.iter().all(|l| width(l, 7.0, false) <= 60.0), "{lines:?}");
        assert_eq!(lines.concat().replace(' ', ""), text.replace(' ', ""));
        assert_eq!(wrap("Remix-LDAM-DRW", 7.0, false, 45.0), ["Remix-LDAM-", "DRW"]);
        assert_eq!(wrap("ab", 7.0, false, 0.0), ["a", "b"], "a line has one character at least");
    }

    #[test]
    fn characters_without_a_glyph_are_found() {
        let mut svg = super::super::svg::Svg::new(10.0);
        svg.text(0.0, 0.0, "Δ <猫> −1 é Ørsted Łódź Ștefan Ψυχή Ґанок", super::super::svg::TEXT);
        assert_eq!(missing(&svg.finish(5.0, "犬")).into_iter().collect::<String>(), "猫");
    }
}
