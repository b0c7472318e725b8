//! Tables as LaTeX, for `\input` into a paper; booktabs does the rules.

use super::markdown::{heading, notes};
use super::table::{Cell, Table};
use super::{signed, title};

/// All tables as `table*` floats; the comment at the head says what the preamble needs.
pub fn write(tables: &[Table]) -> String {
    let head = "% For \\input. The preamble needs \\usepackage{booktabs,graphicx}.\n";
    tables.iter().map(one).fold(head.to_owned(), |all, t| all + "\n" + &t)
}

fn one(t: &Table) -> String {
    let per_column = 1 + 2 * usize::from(t.has_paper()) + usize::from(t.has_starting_report());
    let mut text = String::from("\\begin{table*}\n\\centering\n");
    text += &format!(
        "\\caption{{{}. Top-1 accuracy (\\%), mean $\\pm$ standard deviation over seeds (number of seeds).}}\n",
        escape(&t.name())
    );
    text += &format!("\\label{{tab:{}-{}}}\n\\resizebox{{\\textwidth}}{{!}}{{%\n", t.dataset, t.which);
    text += &format!("\\begin{{tabular}}{{l{}}}\n\\toprule\n", "r".repeat(per_column * t.columns.len()));
    for c in &t.columns {
        text += &format!(" & \\multicolumn{{{per_column}}}{{c}}{{{}}}", heading(c));
    }
    text += " \\\\\n";
    for k in 0..t.columns.len() {
        let from = 2 + k * per_column;
        text += &format!("\\cmidrule(lr){{{from}-{}}}", from + per_column - 1);
    }
    text += "\nMethod";
    for _ in &t.columns {
        text += " & ours";
        if t.has_paper() {
            text += " & paper & $\\Delta$";
        }
        if t.has_starting_report() {
            text += " & report";
        }
    }
    text += " \\\\\n\\midrule\n";
    for row in &t.rows {
        text += &escape(&title(&row.method));
        if !row.variant.is_empty() {
            text += &format!(" ({})", escape(&row.variant));
        }
        for cell in &row.cells {
            text += &format!(" & {}", reproduced(cell));
            if t.has_paper() {
                let mark = cell.paper.filter(|(_, source)| *source == "ldam").map_or("", |_| "$^\\dagger$");
                let paper = plain(cell.paper.map(|(value, _)| value));
                let difference = match signed(cell.difference()).as_str() {
                    "—" => "--".into(),
                    number => format!("${number}$"),
                };
                text += &format!(" & {paper}{mark} & {difference}");
            }
            if t.has_starting_report() {
                text += &format!(" & {}", plain(cell.starting_report));
            }
        }
        text += " \\\\\n";
    }
    text += "\\bottomrule\n\\end{tabular}}\n";
    text += "\n\\smallskip\\raggedright\\footnotesize\n";
    // Of what this table does not have, no note.
    for note in notes(t).iter().filter(|n| !n.starts_with("top-5")) {
        text += &format!("{}\\par\n", escape(note));
    }
    text + "\\end{table*}\n"
}

fn reproduced(cell: &Cell) -> String {
    match (cell.mean(), cell.std()) {
        (Some(mean), Some(std)) => format!("${mean:.2} \\pm {std:.2}$ ({})", cell.values.len()),
        (Some(mean), None) => format!("{mean:.2} ({})", cell.values.len()),
        (None, _) => "--".into(),
    }
}

fn plain(value: Option<f64>) -> String {
    value.map_or("--".into(), |v| format!("{v:.2}"))
}

fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\\' => out += "\\textbackslash{}",
            '~' => out += "\\textasciitilde{}",
            '^' => out += "\\textasciicircum{}",
            '†' => out += "$^\\dagger$",
            'Δ' => out += "$\\Delta$",
            '−' => out += "$-$",
            '—' => out += "--",
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
    }
}
