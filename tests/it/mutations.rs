//! Tests files that were cut, flipped or spliced, or had values replaced by extreme ones. Whatever a tool
//! reads, it must end within a time limit, with exit code 0, 1 or 2, and without a panic.
//!
//! Mutated values come in two kinds: unsealed, which the digest detects, and sealed again, so that the code
//! behind the digest check is reached. In the second kind, the file hashes in manifests are updated as well.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::{Sandbox, copy_dir, seal, trained};
use crate::many_classes;

/// Number of mutations per file and kind.
const CASES: u64 = 12;

/// A small random generator, so that a case can be reproduced from its number.
struct Random(u64);

impl Random {
    fn new(case: u64) -> Random {
        Random((case + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n.max(1)
    }
}

/// Damages bytes: truncates them, flips a bit, overwrites, repeats or drops a piece, or changes one of the
/// first 64.
fn damage(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if bytes.is_empty() {
        return vec![0xff; 9];
    }
    let at = random.below(bytes.len());
    let len = (1 + random.below(64)).min(bytes.len() - at);
    match random.below(6) {
        0 => bytes.truncate(at),
        1 => bytes[at] ^= 1 << random.below(8),
        2 => bytes[at..at + len].fill(0xff),
        3 => {
            let piece = bytes[at..at + len].to_vec();
            let to = random.below(bytes.len());
            bytes.splice(to..to, piece);
        }
        4 => drop(bytes.splice(at..at + len, [])),
        _ => {
            let at = random.below(bytes.len().min(64));
            bytes[at] = random.below(256) as u8;
        }
    }
    bytes
}

/// Replaces one value anywhere in a document by an extreme one, or removes it.
fn extreme(v: &mut Value, random: &mut Random) {
    match v {
        Value::Object(map) if !map.is_empty() && random.below(12) > 0 => {
            let name = map.keys().nth(random.below(map.len())).unwrap().clone();
            if random.below(10) == 0 {
                map.remove(&name);
            } else {
                extreme(&mut map[&name], random);
            }
        }
        Value::Array(items) if !items.is_empty() && random.below(12) > 0 => {
            let n = random.below(items.len());
            extreme(&mut items[n], random);
        }
        v => {
            let all = [
                json!(-1),
                json!(0),
                json!(1e308),
                json!(-1e-308),
                json!(u64::MAX),
                json!(i64::MIN),
                json!(1_099_511_627_776_u64),
                json!(null),
                json!(true),
                json!(""),
                json!("../../etc/passwd"),
                json!("\u{0}\u{feff}\n"),
                json!([]),
                json!({}),
                json!([[[[]]]]),
            ];
            *v = all[random.below(all.len())].clone();
        }
    }
}

/// Runs a tool on sound input, which it must accept: otherwise the mutations would test nothing.
fn accepts(s: &Sandbox, tool: &str, args: &str) {
    let output = s.tool(tool, args).write_stdin("").output().unwrap();
    assert!(output.status.success(), "{tool} {args}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs a tool on mutated input; `what` names the case.
fn holds(s: &Sandbox, tool: &str, args: &str, what: &str) {
    let output = s.tool(tool, args).timeout(Duration::from_secs(60)).write_stdin("").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let code = output.status.code();
    assert!(
        code.is_some_and(|code| (0..=2).contains(&code)),
        "{what}: {tool} {args}: {:?}: {said}",
        output.status
    );
    assert!(!said.contains("panicked"), "{what}: {tool} {args}: {said}");
}

/// Updates the manifest's entry for a file to match the current file.
fn list_anew(dir: &Path, name: &str) {
    let file = dir.join("manifest.json");
    let mut v: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let bytes = fs::read(dir.join(name)).unwrap();
    for o in v["outputs"].as_array_mut().unwrap() {
        if o["path"] == name {
            o["bytes"] = bytes.len().into();
            o["blake3"] = blake3::hash(&bytes).to_hex().to_string().into();
        }
    }
    seal(&mut v);
    fs::write(&file, v.to_string()).unwrap();
}

const TRAIN: &str = "data --arch resnet20 --epochs 1 --batch-size 64 -q --device cpu";

#[test]
fn manifests() {
    let s = trained();
    s.one("embed", "run -q --project pca --out e");
    let readers: [(&str, &[(&str, &str)]); 4] = [
        ("data/manifest.json", &[("train", TRAIN), ("eval", "run -q --force --out x")]),
        (
            "run/manifest.json",
            &[
                ("eval", "run -q --out x"),
                ("report", "figure --kind curves run -q --out x"),
                ("train", "data --arch resnet20 --epochs 1 --batch-size 64 -q --out run"),
            ],
        ),
        (
            "m/manifest.json",
            &[
                ("report", "table m -q --out x"),
                ("report", "html m -q --out x"),
                ("report", "figure --kind confusion m -q --out x"),
                ("report", "figure --kind per-class m -q --out x"),
            ],
        ),
        ("e/manifest.json", &[("report", "figure --kind figure1 e -q --out x")]),
    ];
    for (file, readers) in readers {
        let sound = fs::read_to_string(s.join(file)).unwrap();
        let args_of =
            |args: &str| if args.contains("--out") { args.to_owned() } else { format!("{args} --out x") };
        for &(tool, args) in readers {
            accepts(&s, tool, &args_of(args));
            let _ = fs::remove_dir_all(s.join("x"));
        }
        for case in 0..4 * CASES {
            let mut random = Random::new(case);
            let kind = case % 4;
            let text = match kind {
                0 => damage(sound.as_bytes(), &mut random),
                _ => {
                    let mut v: Value = serde_json::from_str(&sound).unwrap();
                    for _ in 0..=random.below(2) {
                        extreme(&mut v, &mut random);
                    }
                    match kind {
                        1 => drop(v.as_object_mut().map(|m| m.remove("digest"))),
                        2 => seal(&mut v),
                        _ => {}
                    }
                    v.to_string().into()
                }
            };
            fs::write(s.join(file), &text).unwrap();
            for &(tool, args) in readers {
                holds(&s, tool, &args_of(args), &format!("{file}, case {case}"));
                let _ = fs::remove_dir_all(s.join("x"));
            }
        }
        fs::write(s.join(file), &sound).unwrap();
    }
}

#[test]
fn tensors_and_logs() {
    let s = trained();
    s.one("embed", "run -q --project pca --out e");
    for (dir, name, tool, args) in [
        ("data", "train-00000.safetensors", "train", TRAIN),
        ("data", "test-00000.safetensors", "embed", "run --data data -q"),
        ("run", "last.safetensors", "eval", "run -q"),
        ("run", "last.safetensors", "embed", "run/last.safetensors --arch resnet20 --data data -q"),
        ("run", "log.jsonl", "report", "figure --kind curves run -q"),
        ("e", "features.safetensors", "report", "figure --kind figure1 e -q"),
    ] {
        output(&s, dir, name, tool, args);
    }
}

#[test]
fn confusion_matrices_of_many_classes() {
    let s = many_classes::prepared(201);
    output(&s, "m", "confusion.safetensors", "report", "figure --kind confusion m -q");
}

/// Damages one file that a manifest lists, half of the time with a matching manifest, and runs a tool that
/// reads it.
fn output(s: &Sandbox, dir: &str, name: &str, tool: &str, args: &str) {
    let (file, manifest) = (s.join(dir).join(name), s.join(dir).join("manifest.json"));
    let (sound, listed) = (fs::read(&file).unwrap(), fs::read(&manifest).unwrap());
    let args = format!("{args} --out x");
    accepts(s, tool, &args);
    fs::remove_dir_all(s.join("x")).unwrap();
    for case in 0..2 * CASES {
        let mut random = Random::new(case);
        let mut bytes = damage(&sound, &mut random);
        if case % 4 == 3 {
            // The header of safetensors and the lines of a log are JSON: change a digit, for lengths and
            // offsets out of bounds.
            let text = String::from_utf8_lossy(&sound[..sound.len().min(4096)]).into_owned();
            let digits: Vec<usize> = text
                .char_indices()
                .filter(|(at, c)| *at > 8 && c.is_ascii_digit())
                .map(|(at, _)| at)
                .collect();
            bytes = sound.clone();
            if !digits.is_empty() && text.is_char_boundary(8) {
                let at = digits[random.below(digits.len())];
                bytes[at] = b"0123456789-"[random.below(11)];
            }
        }
        fs::write(&file, &bytes).unwrap();
        if case % 2 == 1 {
            list_anew(&s.join(dir), name);
        }
        holds(s, tool, &args, &format!("{name}, case {case}"));
        let _ = fs::remove_dir_all(s.join("x"));
        fs::write(&manifest, &listed).unwrap();
    }
    fs::write(&file, &sound).unwrap();
}

#[test]
fn what_a_training_goes_on_from() {
    let s = trained();
    let run = TRAIN.replace("--epochs 1", "--epochs 3 --tensorboard");
    let events = "events.out.tfevents.remix";
    s.killed_with(&["best.safetensors", events], &run, "half", 1);
    copy_dir(&s.join("half"), &s.join("x"));
    accepts(&s, "train", &format!("{run} --out x"));
    fs::remove_dir_all(s.join("x")).unwrap();
    for name in ["state.safetensors", "best.safetensors", "log.jsonl", "plan.json", events] {
        let sound = fs::read(s.join("half").join(name)).unwrap();
        for case in 0..CASES {
            let mut random = Random::new(case);
            with_half(&s, &run, name, case, &damage(&sound, &mut random));
        }
    }
    // A plan with extreme values, once unsealed and once with a matching key and digest.
    let sound: Value = serde_json::from_str(&fs::read_to_string(s.join("half/plan.json")).unwrap()).unwrap();
    for case in 0..2 * CASES {
        let mut plan = sound.clone();
        extreme(&mut plan, &mut Random::new(case));
        if case % 2 == 1 {
            let files = plan["files"].take();
            seal(&mut plan);
            plan["files"] = files;
        }
        with_half(&s, &run, "plan.json", case, plan.to_string().as_bytes());
    }
}

/// Continues a copy of the training in `half` with other bytes in one of its files.
fn with_half(s: &Sandbox, run: &str, name: &str, case: u64, bytes: &[u8]) {
    copy_dir(&s.join("half"), &s.join("x"));
    fs::write(s.join("x").join(name), bytes).unwrap();
    holds(s, "train", &format!("{run} --out x"), &format!("{name}, case {case}"));
    fs::remove_dir_all(s.join("x")).unwrap();
}
