//! Comparing two results by what their keys are made of.

use std::fmt;

use serde_json::{Value, json};

use super::Manifest;

/// A part of a key in which two results differ.
pub struct Difference {
    /// The part.
    pub part: Part,
    /// Its value in the first result, if it has that part.
    pub old: Option<Value>,
    /// Its value in the second result, if it has that part.
    pub new: Option<Value>,
}

/// A part of a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// The kind of the result.
    Kind,
    /// A parameter, by its name as in [`flatten`].
    Param(String),
    /// The content of an input, by its position and role.
    Input(usize, String),
    /// The version of the tool.
    Semantics,
}

impl fmt::Display for Part {
    /// Writes where the part is in the manifest.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Part::Kind => f.write_str("kind"),
            Part::Param(name) => write!(f, "params.{name}"),
            Part::Input(n, role) => write!(f, "inputs[{n}] {role}"),
            Part::Semantics => f.write_str("semantics"),
        }
    }
}

/// Returns the parts in which the keys of two results differ: first those of the old result, then those that
/// only the new one has.
pub fn differences(old: &Manifest, new: &Manifest) -> Vec<Difference> {
    let (was, now) = (parts(old), parts(new));
    let value = |all: &[(Part, Value)], part: &Part| {
        all.iter().find(|(own, _)| own == part).map(|(_, value)| value.clone())
    };
    let added = now.iter().filter(|(part, _)| value(&was, part).is_none());
    let all = was.iter().chain(added).map(|(part, _)| Difference {
        part: part.clone(),
        old: value(&was, part),
        new: value(&now, part),
    });
    all.filter(|d| d.old != d.new).collect()
}

/// Returns everything that a key is made of.
fn parts(m: &Manifest) -> Vec<(Part, Value)> {
    let mut params: Vec<(String, Value)> = vec![];
    m.params.iter().for_each(|(name, value)| flatten(name, value, &mut params));
    let mut all = vec![(Part::Kind, json!(m.kind))];
    all.extend(params.into_iter().map(|(name, value)| (Part::Param(name), value)));
    let inputs = m.inputs.iter().enumerate();
    all.extend(inputs.map(|(n, input)| (Part::Input(n, input.role.clone()), json!(input.blake3))));
    all.push((Part::Semantics, json!(m.semantics)));
    all
}

/// Adds a value by its name, or each field of an object by the name `name.field`, however deeply nested.
pub fn flatten(name: &str, value: &Value, all: &mut impl Extend<(String, Value)>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            map.iter().for_each(|(k, v)| flatten(&format!("{name}.{k}"), v, all))
        }
        v => all.extend([(name.to_owned(), v.clone())]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::store::Plan;
    use crate::manifest::{Input, Kind, object};

    fn result(semantics: u32, params: Value, hashes: &[&str]) -> Manifest {
        let input = |hash: &&str| Input::new("file", "a".into(), (*hash).into());
        let inputs = hashes.iter().map(input).collect();
        Plan::new(Kind::Dataset, semantics, object(params), inputs, |_| "d".into()).manifest()
    }

    #[test]
    fn parts_that_differ_are_found_inside_objects_and_among_inputs() {
        let old = result(1, json!({"a": 1, "mix": {"name": "remix", "tau": 0.5}, "gone": [1]}), &["x", "y"]);
        let new = result(2, json!({"mix": {"name": "remix", "tau": 0.3}, "a": 1, "came": 2}), &["x", "z"]);
        let show = |v: Option<Value>| v.map_or("nothing".to_owned(), |v| v.to_string());
        let line = |d: Difference| format!("{}: {}, {}", d.part, show(d.old), show(d.new));
        let lines: Vec<String> = differences(&old, &new).into_iter().map(line).collect();
        let expected = [
            "params.mix.tau: 0.5, 0.3",
            "params.gone: [1], nothing",
            "inputs[1] file: \"y\", \"z\"",
            "semantics: 1, 2",
            "params.came: nothing, 2",
        ];
        assert_eq!(lines, expected);
        assert!(differences(&old, &old).is_empty());
    }
}
