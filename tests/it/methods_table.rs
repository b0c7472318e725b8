//! Tests that the guide's table of mixes, losses and rules is that of the program.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use remix::methods::choice::{Entry, Kind};
use remix::methods::loss::LossKind;
use remix::methods::mix::MixKind;
use remix::methods::rule::RuleKind;

use crate::common::committed;

/// The lines of the page before and after the table.
const FRAME: [&str; 2] = [
    "<!-- made by `REMIX_BLESS=1 cargo test --release --test it methods_table` -->\n",
    "<!-- end of what is made -->\n",
];

fn rows<K: Kind>(text: &mut String) {
    for kind in K::ALL {
        let Entry { name, about, source, options, .. } = kind.entry();
        let options: Vec<String> =
            options.iter().map(|option| format!("`--{} {}`", option.flag(), option.default)).collect();
        writeln!(text, "| `--{} {name}` | {about} | {} | {source} |", K::PART, options.join(", ")).unwrap();
    }
}

#[test]
fn the_guide_has_the_table_of_the_program() {
    let name = "docs/guide/methods.md";
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
    let mut table =
        "| flag | what it is | options and their defaults | source |\n|:--|:--|:--|:--|\n".to_owned();
    rows::<MixKind>(&mut table);
    rows::<LossKind>(&mut table);
    rows::<RuleKind>(&mut table);
    let (before, rest) = page.split_once(FRAME[0]).expect("the first line of the frame");
    let (_, after) = rest.split_once(FRAME[1]).expect("the last line of the frame");
    committed(name, &[before, FRAME[0], &table, FRAME[1], after].concat(), "methods_table");
}
