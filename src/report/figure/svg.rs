//! A small SVG writer for the figures. Coordinates are rounded so that files stay small and reproducible.
//!
//! All lengths are in points (1/72 inch). Text stays text.

use std::fmt::Write;

use super::text::FAMILY;
use crate::report::one_line;

/// Colour of text and axes.
pub const INK: &str = "#222222";
/// Colour of secondary text.
pub const MUTED: &str = "#5c5c5c";
/// Colour of grid lines and frames.
pub const GRID: &str = "#d8d8d8";
/// Colour of the background.
pub const PAPER: &str = "#ffffff";

/// Size of ordinary text, in points.
pub const SIZE: f64 = 7.0;
/// Size of tick labels and other small text, in points; nothing is smaller.
pub const SMALL: f64 = 6.0;

/// The part of a text that lies at its position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Anchor {
    /// The text begins there.
    Start,
    /// The text is centred there.
    Middle,
    /// The text ends there.
    End,
}

/// The style of a text.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Size in points.
    pub size: f64,
    /// Colour.
    pub fill: &'static str,
    /// Bold.
    pub bold: bool,
    /// The part of the text that lies at its position.
    pub anchor: Anchor,
    /// Clockwise rotation about the position, in degrees.
    pub turn: f64,
    /// Whether to draw an outline in the background colour, so that the text can be read on top of points.
    pub halo: bool,
}

/// The style of ordinary text.
pub const TEXT: Style =
    Style { size: SIZE, fill: INK, bold: false, anchor: Anchor::Start, turn: 0.0, halo: false };

impl Style {
    /// Returns the same style, small.
    pub const fn small(self) -> Style {
        Style { size: SMALL, ..self }
    }
    /// Returns the same style, bold.
    pub const fn bold(self) -> Style {
        Style { bold: true, ..self }
    }
    /// Returns the same style, centred.
    pub const fn middle(self) -> Style {
        Style { anchor: Anchor::Middle, ..self }
    }
    /// Returns the same style, ending at its position.
    pub const fn end(self) -> Style {
        Style { anchor: Anchor::End, ..self }
    }
    /// Returns the same style, turned clockwise by degrees.
    pub const fn turned(self, turn: f64) -> Style {
        Style { turn, ..self }
    }
    /// Returns the same style in another colour.
    pub const fn fill(self, fill: &'static str) -> Style {
        Style { fill, ..self }
    }
}

/// A figure being drawn.
pub struct Svg {
    width: f64,
    body: String,
}

impl Svg {
    /// Creates an empty figure with a width in points; the height is given to [`Svg::finish`].
    pub fn new(width: f64) -> Svg {
        Svg { width, body: String::new() }
    }

    /// Draws a filled rectangle.
    pub fn rect(&mut self, x: f64, y: f64, w: f64, h: f64, fill: &str) {
        let [x, y, w, h] = [x, y, w, h].map(num);
        self.raw(format_args!("<rect x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" fill=\"{fill}\"/>"));
    }

    /// Draws the outline of a rectangle.
    pub fn frame(&mut self, x: f64, y: f64, w: f64, h: f64) {
        let [x, y, w, h] = [x, y, w, h].map(num);
        self.raw(format_args!(
            "<rect x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" fill=\"none\" stroke=\"{GRID}\" stroke-width=\".5\"/>"
        ));
    }

    /// Draws a straight line; `dash` is a `stroke-dasharray` as in SVG, or empty for none.
    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), stroke: &str, width: f64, dash: &str) {
        self.path(&[from, to], stroke, width, dash);
    }

    /// Draws a polyline.
    pub fn path(&mut self, points: &[(f64, f64)], stroke: &str, width: f64, dash: &str) {
        let d = path_data(points);
        let dash = if dash.is_empty() { String::new() } else { format!(" stroke-dasharray=\"{dash}\"") };
        let width = num(width);
        self.raw(format_args!(
            "<path d=\"{d}\" fill=\"none\" stroke=\"{stroke}\" stroke-width=\"{width}\" stroke-linejoin=\"round\"{dash}/>"
        ));
    }

    /// Draws a filled polygon.
    pub fn area(&mut self, points: &[(f64, f64)], fill: &str, opacity: f64) {
        let (d, opacity) = (path_data(points), num(opacity));
        self.raw(format_args!("<path d=\"{d}z\" fill=\"{fill}\" fill-opacity=\"{opacity}\"/>"));
    }

    /// Draws a disc.
    pub fn dot(&mut self, x: f64, y: f64, r: f64, fill: &str) {
        let [x, y, r] = [x, y, r].map(num);
        self.raw(format_args!("<circle cx=\"{x}\" cy=\"{y}\" r=\"{r}\" fill=\"{fill}\"/>"));
    }

    /// Draws a text whose baseline is at `y`.
    pub fn text(&mut self, x: f64, y: f64, text: &str, style: Style) {
        let anchor = match style.anchor {
            Anchor::Start => "",
            Anchor::Middle => " text-anchor=\"middle\"",
            Anchor::End => " text-anchor=\"end\"",
        };
        let bold = if style.bold { " font-weight=\"bold\"" } else { "" };
        let (x, y) = (num(x), num(y));
        let turn = match style.turn {
            0.0 => String::new(),
            turn => format!(" transform=\"rotate({} {x} {y})\"", num(turn)),
        };
        let halo = match style.halo {
            true => format!(
                " stroke=\"{PAPER}\" stroke-width=\"1.6\" stroke-linejoin=\"round\" paint-order=\"stroke\""
            ),
            false => String::new(),
        };
        let (size, fill, text) = (num(style.size), style.fill, escape(text));
        self.raw(format_args!(
            "<text x=\"{x}\" y=\"{y}\" font-size=\"{size}\" fill=\"{fill}\"{anchor}{bold}{turn}{halo}>{text}</text>"
        ));
    }

    /// Adds an element written by the caller.
    pub fn raw(&mut self, element: std::fmt::Arguments) {
        writeln!(self.body, "{element}").expect("a string takes everything");
    }

    /// Returns the SVG file; `title` is the text for screen readers.
    pub fn finish(self, height: f64, title: &str) -> String {
        let (w, h, title) = (num(self.width), num(height), escape(title));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}pt\" height=\"{h}pt\" viewBox=\"0 0 {w} {h}\" role=\"img\" \
             font-family=\"{FAMILY}\">\n<title>{title}</title>\n<rect width=\"{w}\" height=\"{h}\" fill=\"{PAPER}\" class=\"paper\"/>\n{}</svg>\n",
            self.body
        )
    }
}

fn path_data(points: &[(f64, f64)]) -> String {
    let mut d = String::new();
    for (i, (x, y)) in points.iter().enumerate() {
        // Pairs of coordinates after M are lines.
        write!(d, "{}{} {}", if i == 0 { "M" } else { " " }, num(*x), num(*y))
            .expect("a string takes everything");
    }
    d
}

/// Formats a number with at most two decimals and nothing superfluous: `1.5`, `-.25`, `0`.
pub fn num(v: f64) -> String {
    let text = format!("{v:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    match text {
        "-0" | "" => "0".into(),
        text => text.replacen("0.", ".", usize::from(text.starts_with("0.") || text.starts_with("-0."))),
    }
}

/// Escapes text for XML and HTML, attributes included. XML has no control characters: they become U+FFFD.
pub fn escape(text: &str) -> String {
    one_line(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let all = [0.0, -0.001, 10.0, 100.0, 0.25, -0.25, 1.5, 10.05, 1.0 / 3.0].map(num);
        assert_eq!(all, ["0", "0", "10", "100", ".25", "-.25", "1.5", "10.05", ".33"]);
    }

    #[test]
    fn text_cannot_become_markup() {
        let mut svg = Svg::new(10.0);
        svg.text(0.0, 0.0, "a<b & \"c\"\n\u{1}\u{b}", TEXT);
        assert!(svg.finish(5.0, "<x>").contains(">a&lt;b &amp; &quot;c&quot; \u{fffd} </text>"));
    }
}
