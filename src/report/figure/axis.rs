//! Axes: the mapping from values to points on the page, ticks at round numbers, and legends.

use std::f64::consts::SQRT_2;

use super::svg::{GRID, INK, SIZE, SMALL, Svg, TEXT};
use super::text::{CAP, fit_all, width, wrap};

/// A rectangle on the page with a linear scale in each direction.
#[derive(Clone, Copy, Debug)]
pub struct Axes {
    /// Left edge in points.
    pub x: f64,
    /// Upper edge in points.
    pub y: f64,
    /// Width in points.
    pub w: f64,
    /// Height in points.
    pub h: f64,
    /// The values at the left and right edges.
    pub xs: (f64, f64),
    /// The values at the lower and upper edges.
    pub ys: (f64, f64),
}

impl Axes {
    /// Returns the position of a value on the page.
    pub fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let part = |v: f64, (lo, hi): (f64, f64)| (v - lo) / (hi - lo);
        (self.x + self.w * part(x, self.xs), self.y + self.h * (1.0 - part(y, self.ys)))
    }

    /// Draws horizontal grid lines with their numbers and the axis title along the left edge.
    pub fn left(&self, svg: &mut Svg, ticks: &[f64], title: &str) {
        for (&v, label) in ticks.iter().zip(labels(ticks)) {
            let (_, y) = self.at(self.xs.0, v);
            svg.line((self.x, y), (self.x + self.w, y), GRID, 0.5, "");
            svg.text(self.x - 2.5, y + SMALL * CAP / 2.0, &label, TEXT.small().end());
        }
        let x = self.x - margin(ticks) + 6.0;
        svg.text(x, self.y + self.h / 2.0, title, TEXT.middle().turned(-90.0));
    }

    /// Draws the numbers and the axis title below the lower edge.
    pub fn bottom(&self, svg: &mut Svg, ticks: &[f64], title: &str) {
        for (&v, label) in ticks.iter().zip(labels(ticks)) {
            let (x, y) = self.at(v, self.ys.0);
            svg.line((x, y), (x, y + 2.0), INK, 0.5, "");
            svg.text(x, y + 9.0, &label, TEXT.small().middle());
        }
        let base = self.y + self.h;
        svg.line((self.x, base), (self.x + self.w, base), INK, 0.5, "");
        svg.text(self.x + self.w / 2.0, base + 18.0, title, TEXT.middle());
    }
}

/// The greatest width of a class name, in points; longer names are cut.
pub const LONGEST: f64 = 60.0;

/// Returns the width of the widest name, at most [`LONGEST`].
pub fn widest<'a>(names: impl Iterator<Item = &'a str>) -> f64 {
    names.map(|name| width(name, SMALL, false)).fold(0.0, f64::max).min(LONGEST)
}

/// Draws class names slanted below an axis, each ending at its point. Names that would leave the page are cut
/// so that they still differ.
pub fn slanted(svg: &mut Svg, ends: &[(f64, f64)], names: &[&str]) {
    // To the left, a name takes (its length plus its height, descenders included) / √2.
    let room = |i: usize| (ends[i].0 * SQRT_2 - 1.5 * SMALL).min(LONGEST);
    for ((x, y), name) in ends.iter().zip(fit_all(names, room)) {
        svg.text(*x, *y, &name, TEXT.small().end().turned(-45.0));
    }
}

/// Returns the room that [`Axes::left`] needs to the left of the axes, in points.
pub fn margin(ticks: &[f64]) -> f64 {
    let widest = labels(ticks).iter().map(|l| width(l, SMALL, false)).fold(0.0, f64::max);
    (widest + 14.0).ceil()
}

/// Returns round numbers (1, 2 or 5 times a power of ten apart) from `lo` to `hi`, at most `most` of them.
pub fn ticks(lo: f64, hi: f64, most: usize) -> Vec<f64> {
    let raw = (hi - lo) / most.max(2) as f64;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0, 20.0].map(|m| m * power);
    let count = |s: f64| ((hi / s + 1e-9).floor() - (lo / s - 1e-9).ceil()) as i64 + 1;
    let step = step.into_iter().find(|&s| count(s) <= most as i64).unwrap_or(raw);
    let first = (lo / step - 1e-9).ceil() as i64;
    (0..count(step)).map(|i| (first + i) as f64 * step).collect()
}

/// Formats numbers with as many decimals as their spacing needs, and with a true minus sign.
pub fn labels(ticks: &[f64]) -> Vec<String> {
    let step = ticks.windows(2).map(|w| (w[1] - w[0]).abs()).fold(f64::INFINITY, f64::min);
    // A step of 0.1 may have come out as 0.09999….
    let decimals = if step < 1.0 { (-step.log10() - 1e-6).ceil().max(0.0) as usize } else { 0 };
    ticks
        .iter()
        .map(|v| if decimals == 0 { whole(*v) } else { format!("{v:.decimals$}") })
        .map(|t| t.replace('-', "−"))
        .collect()
}

/// Formats a whole number, with commas between thousands from five digits on: `5000`, `12,406`.
pub fn whole(v: f64) -> String {
    let digits = format!("{v:.0}");
    if digits.trim_start_matches('-').len() < 5 {
        return digits;
    }
    let mut text = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) && !text.ends_with('-') {
            text.push(',');
        }
        text.push(c);
    }
    text
}

/// The mark before a name in a legend.
pub enum Mark<'a> {
    /// A filled square.
    Square(&'a str),
    /// A line with a dash.
    Line(&'a str, &'a str),
    /// A dot with a number beside it.
    Numbered(&'a str, usize),
}

/// Draws a legend in columns between `x` and `x + room`, with its top at `y`, and returns its height. Names
/// that are wider than the room are wrapped; those with numbered marks are cut instead, because their numbers
/// tell them apart.
pub fn legend(svg: &mut Svg, x: f64, y: f64, room: f64, entries: &[(Mark, &str)]) -> f64 {
    const LINE: f64 = 9.5;
    const WRAPPED: f64 = 7.5;
    const GAP: f64 = 5.0;
    let lead = |m: &Mark| match m {
        Mark::Square(_) => 8.5,
        Mark::Line(..) => 17.0,
        Mark::Numbered(..) => 11.5,
    };
    let names: Vec<&str> = entries.iter().map(|(_, name)| *name).collect();
    let cut = fit_all(&names, |i| room - lead(&entries[i].0));
    let lines: Vec<Vec<String>> = entries
        .iter()
        .zip(cut)
        .map(|((mark, name), cut)| match mark {
            Mark::Numbered(..) => vec![cut],
            _ => wrap(name, SMALL, false, room - lead(mark)),
        })
        .collect();
    let wide =
        |i: usize| lead(&entries[i].0) + lines[i].iter().map(|l| width(l, SMALL, false)).fold(0.0, f64::max);
    // Fill row by row, in as few rows as fit and with columns as even as possible: five entries in two rows
    // are 3 + 2, not 4 + 1.
    let widths = |columns: usize| -> Vec<f64> {
        (0..columns).map(|c| (c..entries.len()).step_by(columns).map(wide).fold(0.0, f64::max)).collect()
    };
    let n = entries.len().max(1);
    let fits = |rows: &usize| {
        let widths = widths(n.div_ceil(*rows));
        widths.iter().sum::<f64>() + GAP * (widths.len() - 1) as f64 <= room
    };
    let rows = (1..=n).find(fits).unwrap_or(n);
    let widths = widths(n.div_ceil(rows));
    let spare = room - widths.iter().sum::<f64>() - GAP * (widths.len() - 1) as f64;
    let gap = GAP + (spare / widths.len() as f64).clamp(0.0, 9.0);
    let whole = widths.iter().sum::<f64>() + gap * (widths.len() - 1) as f64;
    let x = x + (room - whole).max(0.0) / 2.0;
    let mut top = y;
    for row in (0..entries.len()).step_by(widths.len()) {
        let row = row..entries.len().min(row + widths.len());
        for i in row.clone() {
            let (column, mark) = (i - row.start, &entries[i].0);
            let left = x + widths[..column].iter().sum::<f64>() + gap * column as f64;
            let base = top + 7.0;
            let middle = base - SMALL * CAP / 2.0;
            match mark {
                Mark::Square(colour) => svg.rect(left, middle - 3.0, 6.0, 6.0, colour),
                Mark::Line(colour, dash) => {
                    svg.line((left, middle), (left + 14.0, middle), colour, 1.4, dash);
                }
                Mark::Numbered(colour, n) => {
                    svg.dot(left + 2.5, middle, 2.3, colour);
                    svg.text(left + 6.5, base, &n.to_string(), TEXT.small().bold());
                }
            }
            for (l, line) in lines[i].iter().enumerate() {
                svg.text(left + lead(mark), base + WRAPPED * l as f64, line, TEXT.small());
            }
        }
        let most = row.map(|i| lines[i].len()).max().unwrap_or(1);
        top += LINE + WRAPPED * (most - 1) as f64;
    }
    top - y
}

/// Draws a heading on as many lines as it needs, with the first baseline at `base`, and returns the height of
/// the lines beyond the first.
pub fn heading(svg: &mut Svg, x: f64, base: f64, room: f64, text: &str) -> f64 {
    let lines = wrap(text, SIZE, true, room);
    for (l, line) in lines.iter().enumerate() {
        svg.text(x, base + HEADING * l as f64, line, TEXT.bold());
    }
    HEADING * (lines.len() - 1) as f64
}

/// Distance between the lines of a heading, in points.
pub const HEADING: f64 = 8.5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(ticks(0.0, 100.0, 6), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(ticks(1.0, 300.0, 4), [100.0, 200.0, 300.0]);
        assert_eq!(labels(&ticks(-0.5, 0.5, 6)), ["−0.4", "−0.2", "0.0", "0.2", "0.4"]);
        assert_eq!(labels(&ticks(0.97, 1.03, 5)), ["0.98", "1.00", "1.02"]);
        assert_eq!(labels(&ticks(1.38, 1.85, 6)), ["1.4", "1.5", "1.6", "1.7", "1.8"]);
        for most in 2..12 {
            for hi in [0.3, 1.0, 5.0, 17.0, 4999.0] {
                let found = ticks(0.0, hi, most);
                assert!((1..=most).contains(&found.len()), "{hi} {most}: {found:?}");
            }
        }
    }

    #[test]
    fn long_numbers_have_commas() {
        assert_eq!(
            [0.0, 999.0, 5000.0, 12406.0, -123456.0].map(whole),
            ["0", "999", "5000", "12,406", "-123,456"]
        );
    }

    #[test]
    fn limits_map_to_the_edges() {
        let a = Axes { x: 10.0, y: 20.0, w: 100.0, h: 50.0, xs: (1.0, 3.0), ys: (0.0, 10.0) };
        assert_eq!([a.at(1.0, 0.0), a.at(3.0, 10.0)], [(10.0, 70.0), (110.0, 20.0)]);
    }
}
