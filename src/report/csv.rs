//! Tables as tidy CSV (RFC 4180): one row per cell, percentages with two decimals, and an empty field where
//! there is no number. `mean` and `std` are those of top-1 accuracy; the last columns are means. `n` counts
//! runs. `paper_schedule` is `same` if the published runs used the same schedule as ours, and `other`
//! otherwise. `starting_report` is the value of the reproduction report.

use std::collections::BTreeSet;

use super::one_line;
use super::record::OTHERS;
use super::table::Table;

/// The header line.
const HEADER: &str = "table,dataset,checkpoint,method,variant,imb_type,imb_ratio,n,seeds,mean,std,paper,\
    paper_source,paper_schedule,difference,starting_report,top5,balanced_accuracy,many,medium,few,macro_f1,nll,ece";

/// Returns all cells of all tables as CSV.
pub fn write(tables: &[Table]) -> String {
    let mut rows = Vec::new();
    for t in tables {
        for row in &t.rows {
            for (column, cell) in t.columns.iter().zip(&row.cells) {
                let others = (0..OTHERS.len()).map(|n| {
                    cell.other(n).map_or(String::new(), |(mean, _)| format!("{mean:.*}", OTHERS[n].decimals))
                });
                let fields = [
                    t.number.map_or(String::new(), |n| n.to_string()),
                    t.dataset.clone(),
                    t.which.clone(),
                    row.method.clone(),
                    row.departures.clone(),
                    column.imb_type.clone(),
                    column.imb_ratio.clone(),
                    cell.values.len().to_string(),
                    cell.seeds().into_iter().flatten().collect::<BTreeSet<_>>().len().to_string(),
                    number(cell.mean()),
                    number(cell.std()),
                    number(cell.paper.map(|p| p.value)),
                    cell.paper.map_or(String::new(), |p| p.table.source.clone()),
                    cell.paper.map_or("", |p| if p.same_schedule { "same" } else { "other" }).into(),
                    number(cell.difference()),
                    number(cell.starting_report),
                ];
                rows.push(fields.into_iter().chain(others).collect::<Vec<_>>());
            }
        }
    }
    records(HEADER, rows)
}

fn number(value: Option<f64>) -> String {
    value.map_or(String::new(), |v| format!("{v:.2}").replace("-0.00", "0.00"))
}

/// Returns a header line and records below it. Line breaks would be allowed in fields, but most line-based
/// readers do not expect them, so they are replaced.
pub(super) fn records<R: AsRef<[String]>>(header: &str, rows: impl IntoIterator<Item = R>) -> String {
    let mut writer = csv::Writer::from_writer(format!("{header}\n").into_bytes());
    for row in rows {
        let fields = row.as_ref().iter().map(|field| one_line(field));
        writer.write_record(fields).expect("a vector takes everything, and all rows have the same length");
    }
    let bytes = writer.into_inner().expect("a vector takes everything");
    String::from_utf8(bytes).expect("fields are UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_columns_are_the_other_metrics() {
        let names: Vec<&str> = OTHERS.iter().map(|o| o.name).collect();
        assert!(HEADER.ends_with(&format!(",{}", names.join(","))), "{names:?}");
    }

    #[test]
    fn fields_with_commas_are_quoted() {
        let line = |fields: [&str; 3]| records("x,y,z", [fields.map(str::to_owned)]);
        assert_eq!(
            line(["erm", "resnet20, 10 epochs", "a\"b"]),
            "x,y,z\nerm,\"resnet20, 10 epochs\",\"a\"\"b\"\n"
        );
        assert_eq!(line(["", "a\r\nb,c", "a\nb #'; "]), "x,y,z\n,\"a  b,c\",a b #'; \n");
        assert_eq!([number(Some(-0.001)), number(Some(-10.0)), number(None)], ["0.00", "-10.00", ""]);
    }
}
