//! Tables as LaTeX, for `\input` into a paper; the rules are those of booktabs.

use super::markdown::{common, marks, notes, row_name};
use super::published::Published;
use super::table::{Cell, Part, Table};
use super::{one_line, signed};

/// Returns all tables as `table*` floats; a comment at the top says what the preamble needs.
pub fn write(tables: &[Table], published: &Published) -> String {
    let head = "% For \\input. The preamble needs \\usepackage{booktabs,graphicx}.\n";
    tables.iter().fold(head.to_owned(), |all, t| all + "\n" + &one(t, published))
}

fn one(t: &Table, published: &Published) -> String {
    let widths: Vec<usize> = (0..t.columns.len()).map(|k| 1 + t.parts(k).len()).collect();
    let mut text = String::from("\\begin{table*}\n\\centering\n");
    let common = common(t).map_or(String::new(), |common| format!(" {common}"));
    let caption = format!("{}. Top-1 accuracy (%), {}.{common}", t.name(), t.statistics());
    text += &format!("\\caption{{{}}}\n", escape(&caption));
    // A label may contain neither characters outside ASCII nor LaTeX's special characters.
    let label = format!("tab:{}-{}", t.dataset, t.which);
    let label = label.replace(|c: char| !(c.is_ascii_alphanumeric() || ":-".contains(c)), "-");
    text += &format!("\\label{{{label}}}\n\\resizebox{{\\textwidth}}{{!}}{{%\n");
    text += &format!("\\begin{{tabular}}{{l{}}}\n\\toprule\n", "r".repeat(widths.iter().sum()));
    for (c, width) in t.columns.iter().zip(&widths) {
        text += &format!(" & \\multicolumn{{{width}}}{{c}}{{{}}}", escape(&c.heading()));
    }
    text += " \\\\\n";
    let mut from = 2;
    for width in widths {
        text += &format!("\\cmidrule(lr){{{from}-{}}}", from + width - 1);
        from += width;
    }
    text += "\nMethod";
    for k in 0..t.columns.len() {
        text += " & reproduced";
        for part in t.parts(k) {
            text += &format!(" & {}", escape(part.title()));
        }
    }
    text += " \\\\\n\\midrule\n";
    for row in &t.rows {
        text += &escape(&row_name(row));
        for (k, cell) in row.cells.iter().enumerate() {
            text += &format!(" & {}", reproduced(cell));
            for part in t.parts(k) {
                let field = match part {
                    Part::Paper => plain(cell.paper.map(|p| p.value)) + &escape(&marks(cell)),
                    Part::Difference => match signed(cell.difference()).as_str() {
                        "—" => "--".into(),
                        number => format!("${number}$"),
                    },
                    Part::Report => plain(cell.starting_report),
                };
                text += &format!(" & {field}");
            }
        }
        text += " \\\\\n";
    }
    text += "\\bottomrule\n\\end{tabular}}\n";
    text += "\n\\smallskip\\raggedright\\footnotesize\n";
    // This table omits the other metrics, so the note about them is omitted too.
    for note in notes(t, published).iter().filter(|n| !n.starts_with("top-5")) {
        text += &format!("{}\\par\n", escape(note));
    }
    text + "\\end{table*}\n"
}

fn reproduced(cell: &Cell) -> String {
    match (cell.mean(), cell.std()) {
        (Some(mean), Some(std)) => format!("${mean:.2} \\pm {std:.2}$ ({})", cell.count()),
        (Some(mean), None) => format!("{mean:.2} ({})", cell.count()),
        (None, _) => "--".into(),
    }
}

fn plain(value: Option<f64>) -> String {
    value.map_or("--".into(), |v| format!("{v:.2}"))
}

fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in one_line(text).chars() {
        match c {
            // At the start of a row, a bracket would be read as an argument of the preceding line break.
            '[' | ']' => out.extend(['{', c, '}']),
            '\u{fffd}' => out.push('?'),
            '±' => out += "$\\pm$",
            'τ' => out += "$\\tau$",
            '‡' => out += "$^\\ddagger$",
            '§' => out += "\\S{}",
            '…' => out += "\\ldots{}",
            '\\' => out += "\\textbackslash{}",
            '~' => out += "\\textasciitilde{}",
            '^' => out += "\\textasciicircum{}",
            '†' => out += "$^\\dagger$",
            'Δ' => out += "$\\Delta$",
            '−' => out += "$-$",
            '—' => out += "--",
            // LaTeX makes dashes of consecutive hyphens.
            '-' if out.ends_with('-') => out += "{}-",
            '<' | '>' => out.extend(['$', c, '$']),
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped() {
        assert_eq!(escape("rw_norm 50%"), "rw\\_norm 50\\%");
        assert_eq!(escape("a\\b"), "a\\textbackslash{}b");
        assert_eq!(escape("Δ: †, —"), "$\\Delta$: $^\\dagger$, --");
        assert_eq!(escape("a---b"), "a-{}-{}-b");
        assert_eq!(escape("a\n\n[b] <c>\u{1b}"), "a  {[}b{]} $<$c$>$?");
    }
}
