//! From manifests to tables, figures and pages: [`record`] reads evaluations, [`table`] arranges them, and
//! one module per format writes them; [`figure`] draws, and [`html`] puts everything on a page. Published
//! numbers come from `published.json`.
//!
//! Tables are made from metrics manifests alone; some figures also open the files that their manifests list.
//! Reports are returned; the tools print and write them.

mod column;
pub mod csv;
pub mod experiment;
pub mod figure;
pub mod html;
pub mod json;
pub mod latex;
pub mod markdown;
pub mod published;
pub mod record;
pub mod runs;
mod series;
pub(crate) mod settings;
pub mod table;
mod telling;

use std::fmt::Display;
use std::path::PathBuf;

use self::experiment::path_of;
use crate::manifest::{self, Manifest};

/// A reason why a report cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A manifest lacks the numbers or the lineage that a report needs.
    #[error("{path}: {why}; make it again with {tool}")]
    Foreign {
        /// The manifest.
        path: PathBuf,
        /// What is missing.
        why: String,
        /// The tool that makes such manifests.
        tool: &'static str,
    },
    /// A manifest whose content cannot be drawn.
    #[error("{path}: {why}")]
    Unfit {
        /// The manifest.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// Too few or too many manifests for a figure, or manifests that do not belong together.
    #[error("{kind}: {why}")]
    Inputs {
        /// The kind of figure.
        kind: &'static str,
        /// What is wrong, and what to do.
        why: String,
    },
    /// A file operation failed, or a manifest's files do not match it.
    #[error(transparent)]
    Manifest(#[from] manifest::Error),
    /// A picture cannot be rendered.
    #[error("--dpi {dpi}: {why}; choose a lower resolution, or an .svg file")]
    Render {
        /// Resolution in dots per inch.
        dpi: u32,
        /// The renderer's error message.
        why: String,
    },
}

/// Returns the error for a manifest that lacks something that its tool writes.
fn foreign(m: &Manifest, why: &str) -> Error {
    Error::Foreign { path: path_of(m), why: why.into(), tool: m.kind.tool() }
}

/// Returns the title of a method; the name of a bare file is returned unchanged.
fn title(method: &str) -> String {
    if method.starts_with(experiment::BARE) {
        method.to_owned()
    } else {
        crate::methods::presets::title(method)
    }
}

/// Makes a text from outside safe to print on one line: line breaks become spaces, and characters that show
/// nothing but change how the rest is read (control characters, changes of direction) become U+FFFD.
pub(crate) fn one_line(text: &str) -> String {
    let one = |c: char| match c {
        '\u{2028}' | '\u{2029}' => ' ',
        c if c.is_control() && c.is_whitespace() => ' ',
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fffe}' | '\u{ffff}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    text.chars().map(one).collect()
}

/// Formats a number of things: `1 epoch`, `3 epochs`.
fn plural(n: impl Display, one: &str) -> String {
    let n = n.to_string();
    let ending = if n == "1" { "" } else { "s" };
    format!("{n} {one}{ending}")
}

/// Formats a number with two decimals; `—` if there is none.
fn two(value: Option<f64>) -> String {
    value.map_or("—".into(), |v| format!("{v:.2}"))
}

/// Formats a signed number with two decimals; `—` if there is none. A number that rounds to zero has no sign.
fn signed(value: Option<f64>) -> String {
    let text = value.map_or("—".into(), |v| format!("{v:+.2}"));
    if ["+0.00", "-0.00"].contains(&text.as_str()) { "0.00".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_breaks_and_control_characters_are_replaced() {
        assert_eq!(one_line("a\nb\r\u{85}c\u{2028}d\t猫"), "a b  c d 猫");
        assert_eq!(one_line("\u{1b}[31m\u{202e}x"), "\u{fffd}[31m\u{fffd}x");
    }

    #[test]
    fn titles_and_numbers_are_formatted() {
        assert_eq!(title("remix-drw"), "Remix-DRW");
        assert_eq!(title("erm"), "ERM");
        assert_eq!(title("remix-cutmix-ldam-rs"), "Remix-CutMix-LDAM-RS");
        assert_eq!(title("balanced-softmax-drw"), "Balanced Softmax-DRW");
        assert_eq!(title("weights my-rs-remix.safetensors"), "weights my-rs-remix.safetensors");
        assert_eq!([two(Some(75.0)), two(None)], ["75.00", "—"]);
        assert_eq!([0, 1, 11].map(|n| plural(n, "run")), ["0 runs", "1 run", "11 runs"]);
        let all = [Some(1.0), Some(-1.234), Some(-0.001), None].map(signed);
        assert_eq!(all, ["+1.00", "-1.23", "0.00", "—"]);
    }
}
