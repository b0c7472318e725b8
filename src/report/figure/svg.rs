//! A small SVG writer: what the figures are made of, with rounded coordinates so that files stay small and
//! bytes equal.
//!
//! All lengths are points (1/72 inch), the unit of a page. Text stays text.

use std::fmt::Write;

use super::text::FAMILY;
use crate::report::one_line;

/// Text and axes.
pub const INK: &str = "#222222";
/// Secondary text.
pub const MUTED: &str = "#5c5c5c";
/// Grid lines and frames.
pub const GRID: &str = "#d8d8d8";
/// The ground.
pub const PAPER: &str = "#ffffff";

/// Size of ordinary text, points.
pub const SIZE: f64 = 7.0;
/// Size of tick labels and other small text; nothing is smaller.
pub const SMALL: f64 = 6.0;

/// Where a text stands relative to its point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Anchor {
    /// It begins there.
    Start,
    /// It is centred there.
    Middle,
    /// It ends there.
    End,
}

/// How a text is set.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Points.
    pub size: f64,
    /// Colour.
    pub fill: &'static str,
    /// Bold.
    pub bold: bool,
    /// Which part of it is at its point.
    pub anchor: Anchor,
    /// Degrees clockwise about its point.
    pub turn: f64,
    /// A rim in the colour of the ground, so that it can be read on points.
    pub halo: bool,
}

/// Ordinary text.
pub const TEXT: Style =
    Style { size: SIZE, fill: INK, bold: false, anchor: Anchor::Start, turn: 0.0, halo: false };

impl Style {
    /// The same, small.
    pub const fn small(self) -> Style {
        Style { size: SMALL, ..self }
    }
    /// The same, bold.
    pub const fn bold(self) -> Style {
        Style { bold: true, ..self }
    }
    /// The same, centred.
    pub const fn middle(self) -> Style {
        Style { anchor: Anchor::Middle, ..self }
    }
    /// The same, ending at its point.
    pub const fn end(self) -> Style {
        Style { anchor: Anchor::End, ..self }
    }
    /// The same, turned clockwise by degrees.
    pub const fn turned(self, turn: f64) -> Style {
        Style { turn, ..self }
    }
    /// The same in another colour.
    pub const fn fill(self, fill: &'static str) -> Style {
        Style { fill, ..self }
    }
}

/// A figure that is being drawn.
pub struct Svg {
    width: f64,
    body: String,
}

impl Svg {
    /// An empty figure of a width in points; [`Svg::finish`] says how high it became.
    pub fn new(width: f64) -> Svg {
        Svg { width, body: String::new() }
    }

    /// Width in points.
    pub fn width(&self) -> f64 {
        self.width
    }

    /// A filled rectangle.
    pub fn rect(&mut self, x: f64, y: f64, w: f64, h: f64, fill: &str) {
        let [x, y, w, h] = [x, y, w, h].map(num);
        self.raw(format_args!("<rect x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" fill=\"{fill}\"/>"));
    }

    /// An empty rectangle.
    pub fn frame(&mut self, x: f64, y: f64, w: f64, h: f64) {
        let [x, y, w, h] = [x, y, w, h].map(num);
        self.raw(format_args!(
            "<rect x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" fill=\"none\" stroke=\"{GRID}\" stroke-width=\".5\"/>"
        ));
    }

    /// A straight line; `dash` as in SVG, empty for none.
    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), stroke: &str, width: f64, dash: &str) {
        self.path(&[from, to], stroke, width, dash);
    }

    /// A polyline.
    pub fn path(&mut self, points: &[(f64, f64)], stroke: &str, width: f64, dash: &str) {
        let d = path_data(points);
        let dash = if dash.is_empty() { String::new() } else { format!(" stroke-dasharray=\"{dash}\"") };
        let width = num(width);
        self.raw(format_args!(
            "<path d=\"{d}\" fill=\"none\" stroke=\"{stroke}\" stroke-width=\"{width}\" stroke-linejoin=\"round\"{dash}/>"
        ));
    }

    /// A filled polygon.
    pub fn area(&mut self, points: &[(f64, f64)], fill: &str, opacity: f64) {
        let (d, opacity) = (path_data(points), num(opacity));
        self.raw(format_args!("<path d=\"{d}z\" fill=\"{fill}\" fill-opacity=\"{opacity}\"/>"));
    }

    /// A disc.
    pub fn dot(&mut self, x: f64, y: f64, r: f64, fill: &str) {
        let [x, y, r] = [x, y, r].map(num);
        self.raw(format_args!("<circle cx=\"{x}\" cy=\"{y}\" r=\"{r}\" fill=\"{fill}\"/>"));
    }

    /// A text whose baseline is at y.
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

    /// An element of the caller's own.
    pub fn raw(&mut self, element: std::fmt::Arguments) {
        writeln!(self.body, "{element}").expect("a string takes everything");
    }

    /// The file: `title` is what a screen reader says.
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
        // After M further pairs are lines.
        write!(d, "{}{} {}", if i == 0 { "M" } else { " " }, num(*x), num(*y))
            .expect("a string takes everything");
    }
    d
}

/// A number with at most two decimals and nothing superfluous: `1.5`, `-.25`, `0`.
pub fn num(v: f64) -> String {
    let text = format!("{v:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    match text {
        "-0" | "" => "0".into(),
        text => text.replacen("0.", ".", usize::from(text.starts_with("0.") || text.starts_with("-0."))),
    }
}

/// Text as it stands in XML and HTML, in attributes too. XML has no control characters: they become U+FFFD.
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
