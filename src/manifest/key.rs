//! Keys, which identify a result before any work is done.
//!
//! `key = blake3(canonical JSON of {kind, semantics, params, inputs: [{role, blake3}]})`. Canonical JSON has
//! sorted keys, no white space, and numbers as serde_json prints them. Anything that cannot change a result
//! stays out of the key.

use serde_json::{Value, json};

use super::{Input, Kind, Manifest, Object, Output};

/// Returns the JSON text of a value with sorted object keys and no white space.
pub fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(name, _)| *name);
            let body: Vec<_> = entries
                .into_iter()
                .map(|(name, v)| format!("{}:{}", Value::from(name.as_str()), canonical(v)))
                .collect();
            format!("{{{}}}", body.join(","))
        }
        Value::Array(items) => {
            let body: Vec<_> = items.iter().map(canonical).collect();
            format!("[{}]", body.join(","))
        }
        scalar => scalar.to_string(),
    }
}

/// Computes the key of a result. Inputs count by role and content, not by path or by their own key.
pub fn key(kind: Kind, semantics: u32, params: &Object, inputs: &[Input]) -> String {
    let inputs: Vec<Value> = inputs.iter().map(|i| json!({"role": i.role, "blake3": i.blake3})).collect();
    let preimage = json!({"kind": kind, "semantics": semantics, "params": params, "inputs": inputs});
    blake3::hash(canonical(&preimage).as_bytes()).to_hex().to_string()
}

/// Computes the content hash of some outputs, on which the keys of later tools depend.
pub fn content(outputs: &[&Output]) -> String {
    let list: Vec<Value> = outputs.iter().map(|o| json!({"role": o.role, "blake3": o.blake3})).collect();
    blake3::hash(canonical(&Value::from(list)).as_bytes()).to_hex().to_string()
}

/// Hashes everything that a manifest says, except how the result came about (`run`), where files are, and
/// fields of other versions.
pub fn digest(m: &Manifest) -> String {
    fn without_paths(inputs: &[Input]) -> Value {
        let one = |i: &Input| {
            json!({"role": i.role, "key": i.key, "blake3": i.blake3, "params": i.params, "facts": i.facts,
                "inputs": without_paths(&i.inputs)})
        };
        inputs.iter().map(one).collect()
    }
    let known = |o: &Output| Output { extra: Object::new(), ..o.clone() };
    let outputs: Vec<Output> = m.outputs.iter().map(known).collect();
    let all = json!({"kind": m.kind, "key": m.key, "semantics": m.semantics, "params": m.params,
        "inputs": without_paths(&m.inputs), "outputs": outputs, "metrics": m.metrics});
    blake3::hash(canonical(&all).as_bytes()).to_hex().to_string()
}

/// Returns the first twelve digits of a key, which are enough to tell directories apart.
pub fn short(key: &str) -> &str {
    key.get(..12).unwrap_or(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::object;

    #[test]
    fn canonical_json_sorts_and_escapes() {
        let value = json!({"b": [1, 2.5, null], "a": {"y": "\"", "x": true}});
        assert_eq!(canonical(&value), r#"{"a":{"x":true,"y":"\""},"b":[1,2.5,null]}"#);
    }

    #[test]
    fn key_depends_on_content_but_not_on_paths() {
        let input = |path: &str, blake3: &str| Input {
            key: Some(path.into()),
            ..Input::new("dataset", path.into(), blake3.into())
        };
        let k = |i: Input| key(Kind::Checkpoint, 1, &Object::new(), &[i]);
        assert_eq!(k(input("a", "00")), k(input("b", "00")));
        assert_ne!(k(input("a", "00")), k(input("a", "01")));
    }

    #[test]
    fn key_is_the_documented_hash() {
        // echo -n '{"inputs":[],"kind":"dataset","params":{"a":1},"semantics":1}' | b3sum
        let params = object(json!({"a": 1}));
        let text = r#"{"inputs":[],"kind":"dataset","params":{"a":1},"semantics":1}"#;
        assert_eq!(key(Kind::Dataset, 1, &params, &[]), blake3::hash(text.as_bytes()).to_hex().to_string());
    }
}
