//! Published accuracies, from `published.json`, which says where each comes from.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

/// The file, as committed.
const TEXT: &str = include_str!("published.json");

/// Its hash, which is part of a report's key.
pub fn hash() -> String {
    blake3::hash(TEXT.as_bytes()).to_hex().to_string()
}

/// Percent, by method and `dataset/imb_type/imb_ratio`.
type Rows = BTreeMap<String, BTreeMap<String, f64>>;

#[derive(Deserialize)]
struct Published {
    sources: BTreeMap<String, String>,
    paper: Rows,
    ldam: Rows,
    seed: Rows,
}

static PUBLISHED: LazyLock<Published> =
    LazyLock::new(|| serde_json::from_str(TEXT).expect("published.json is tested to parse"));

/// The published value of a method, percent, with the name of its source: the Remix paper, else LDAM's authors.
pub fn paper(method: &str, column: &str) -> Option<(f64, &'static str)> {
    let p = &*PUBLISHED;
    [(&p.paper, "paper"), (&p.ldam, "ldam")]
        .into_iter()
        .find_map(|(rows, source)| Some((*rows.get(method)?.get(column)?, source)))
}

/// The value in the starting report, percent.
pub fn starting_report(method: &str, column: &str) -> Option<f64> {
    PUBLISHED.seed.get(method)?.get(column).copied()
}

/// What a source is: `paper`, `ldam` or `seed` (the starting report).
pub fn source(name: &str) -> &'static str {
    PUBLISHED.sources.get(name).map_or("", String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_as_printed_in_the_sources() {
        // Table 1 of arXiv 2007.03943v3, Table 2 of arXiv 1906.07413v2, and the starting report's Table 1.
        assert_eq!(paper("remix", "cifar10/exp/100"), Some((75.36, "paper")));
        assert_eq!(paper("drw", "cifar100/step/10"), Some((57.22, "paper")));
        assert_eq!(paper("rw", "cifar100/step/100"), Some((21.31, "ldam")));
        assert_eq!(paper("rs", "cifar10/step/100"), None);
        assert_eq!(starting_report("remix-rw", "cifar10/exp/10"), Some(89.53));
        assert_eq!(starting_report("erm", "cifar10/exp/10"), None);
        for name in ["paper", "ldam", "seed"] {
            assert!(!source(name).is_empty(), "{name}");
        }
    }
}
