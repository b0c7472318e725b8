//! What clap says about flags that it does not take, in one line like all other errors.

use clap::error::{ContextKind, ContextValue};

use crate::methods::presets;

/// Returns what is wrong with the flags, with clap's advice.
pub fn flags_fault(e: clap::Error) -> String {
    let text = in_plain_words(&without_misleading_tips(e).render().to_string());
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let is_usage = |part: &&str| part.starts_with("Usage:") || part.starts_with("For more information");
    let parts = text.split("\n\n").map(str::trim).filter(|part| !part.is_empty() && !is_usage(part));
    let in_a_line = |part: &str| part.split_whitespace().collect::<Vec<_>>().join(" ");
    parts.map(in_a_line).collect::<Vec<_>>().join("; ")
}

/// Removes misleading tips from clap's message about a flag: to write an unknown flag after `--`, or to use
/// another flag that only begins like it.
fn without_misleading_tips(mut e: clap::Error) -> clap::Error {
    e.remove(ContextKind::Suggested);
    let text = |kind| match e.get(kind) {
        Some(ContextValue::String(text)) => Some(text.trim_start_matches('-').to_owned()),
        _ => None,
    };
    let (asked, offered) = (text(ContextKind::InvalidArg), text(ContextKind::SuggestedArg));
    if let (Some(asked), Some(offered)) = (asked, offered) {
        let is_part = asked.contains(&offered) || offered.contains(&asked);
        if !is_part && 3 * presets::distance(&asked, &offered) > asked.len() {
            e.remove(ContextKind::SuggestedArg);
        }
    }
    e
}

/// Replaces the standard library's reasons why a value is not a number, at the end of a line of clap's text.
fn in_plain_words(text: &str) -> String {
    const WHOLE: &str = "expected a whole number, 0 or more";
    const REASONS: [(&str, &str); 5] = [
        ("invalid digit found in string", WHOLE),
        ("cannot parse integer from empty string", WHOLE),
        ("number too large to fit in target type", "the number is too large"),
        ("invalid float literal", "expected a number"),
        ("cannot parse float from empty string", "expected a number"),
    ];
    let line = |line: &str| {
        let found = REASONS.iter().find_map(|(from, to)| Some((line.strip_suffix(from)?, to)));
        found.map_or_else(|| line.to_owned(), |(start, to)| format!("{start}{to}"))
    };
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}
