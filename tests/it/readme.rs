//! Tests that every shell command of the README and of some pages of the guide runs.
//!
//! - Lines that start with `make` run as `make -n` in the repository, which checks that targets and variables
//!   exist and that the graph is consistent. What the targets do is tested in `makefile.rs`; the demo itself
//!   runs in `.ci/run`.
//! - All other lines run as they are, one script per page, in a directory of their own. There,
//!   `target/release` holds scripts that start the real tools at a small scale: `mk-imbalance` uses synthetic
//!   images instead of CIFAR, and `train` runs one epoch of ResNet-20.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use assert_cmd::cargo::cargo_bin;

use super::common::{Sandbox, make};

/// Returns the lines of a page's `sh` blocks, without comments and blank lines.
fn commands(page: &str) -> Vec<String> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).expect("the page");
    let (mut inside, mut found) = (false, vec![]);
    for line in text.lines() {
        match line.trim() {
            "```sh" => inside = true,
            "```" => inside = false,
            line if inside && !line.is_empty() && !line.starts_with('#') => found.push(line.to_owned()),
            _ => {}
        }
    }
    assert!(!found.is_empty(), "{page} has commands");
    found
}

/// Writes `target/release` in the sandbox, with the tools at a small scale.
fn stand_ins(sandbox: &Sandbox) {
    let dir = sandbox.join("target/release");
    fs::create_dir_all(&dir).expect("made");
    let real = |tool| -> PathBuf { cargo_bin(tool) };
    for tool in ["mk-imbalance", "train", "eval", "embed", "report"] {
        // Use another data set, or a smaller network and one epoch, whether or not the command sets them.
        let edit = match tool {
            "mk-imbalance" => {
                "[[ $* != *cifar10* ]] || set -- $(sed 's/--data [^ ]*//; s/cifar10/synthetic/g' <<< \"$*\") \\\n\
                 --train-per-class 120 --test-per-class 10"
            }
            "train" => {
                "set -- \"${@/resnet18-cifar/resnet20}\"\nset -- \"${@/#60/1}\"\nset -- \"${@/#10/1}\"\n\
                 [[ $* == *--arch* || $* == *--classifier* ]] || set -- \"$@\" --arch resnet20\n\
                 [[ $* == *--epochs* || $* == *--classifier* ]] || set -- \"$@\" --epochs 1"
            }
            _ => ":",
        };
        let script = format!("#!/bin/bash\n{edit}\nexec '{}' \"$@\"\n", real(tool).display());
        let path = dir.join(tool);
        fs::write(&path, script).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
    }
}

#[test]
fn every_command_runs() {
    let sandbox = Sandbox::new();
    stand_ins(&sandbox);
    fs::create_dir(sandbox.join("data")).expect("made");
    for n in 0..20u8 {
        let image =
            image::RgbImage::from_fn(40, 30, |x, y| image::Rgb([(x as u8).wrapping_mul(n), y as u8, n]));
        for dir in [["photographs/cats", "photographs/dogs"][usize::from(n % 2)], "new-photographs"] {
            fs::create_dir_all(sandbox.join(dir)).expect("made");
            image.save(sandbox.join(dir).join(format!("{n}.jpg"))).expect("written");
        }
    }
    let guide = ["tutorial", "reproduce", "photographs", "second-stage"];
    let guide = guide.map(|page| format!("docs/guide/{page}.md"));
    for page in ["README.md"].into_iter().chain(guide.iter().map(String::as_str)) {
        let (makes, others): (Vec<_>, Vec<_>) =
            commands(page).into_iter().partition(|c| c.starts_with("make"));
        for command in makes {
            let out = make().args(["-c", &command.replacen("make", "make -n", 1)]).output().expect("bash");
            let said = String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success() && !out.stdout.is_empty(), "{page}: {command}: {said}");
        }
        let mut bash = sandbox.command("bash");
        bash.args(["-eu", "-o", "pipefail", "-c", &others.join("\n")]);
        let out = bash.output().expect("bash");
        assert!(out.status.success(), "{page}: {}", String::from_utf8_lossy(&out.stderr));
    }
    for made in ["data", "runs", "metrics", "embeddings", "reports", "figures"] {
        let is_result = |path: &Path| {
            path.join("manifest.json").is_file() || path.to_string_lossy().ends_with(".manifest.json")
        };
        let mut inside = fs::read_dir(sandbox.join(made)).expect(made).flatten();
        assert!(inside.any(|e| is_result(&e.path())), "{made} has a result");
    }
}

/// Collects the files with some endings below a directory.
fn files(dir: &Path, endings: &[&str], found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a directory").flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            files(&path, endings, found);
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            found.push(path);
        }
    }
}

/// Returns the pages of the repository.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md"].map(|name| root.join(name)).to_vec();
    for dir in ["docs", "scripts"] {
        files(&root.join(dir), &[".md"], &mut all);
    }
    all
}

/// Comments and prose have at most 120 columns; tables, code and generated text are exempt.
#[test]
fn comments_and_prose_are_wrapped() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = vec![];
    for dir in ["src", "tests", "examples", "benches"] {
        files(&root.join(dir), &[".rs", ".cu", ".h"], &mut sources);
    }
    let is_long = |line: &str| line.chars().count() > 120 && !line.contains("://");
    let mut wrong = vec![];
    for file in sources {
        let text = fs::read_to_string(&file).expect("a source");
        let long = text.lines().enumerate().filter(|(_, l)| l.trim_start().starts_with("//") && is_long(l));
        wrong.extend(long.map(|(n, _)| format!("{}:{}", file.display(), n + 1)));
    }
    for page in pages() {
        let text = fs::read_to_string(&page).expect("a page");
        let (mut is_code, mut is_made) = (false, false);
        for (n, line) in text.lines().enumerate() {
            match line.trim_start() {
                l if l.starts_with("```") => is_code = !is_code,
                l if l.starts_with("<!-- made") => is_made = true,
                l if l.starts_with("<!-- end") => is_made = false,
                l if is_code || is_made || l.starts_with(['|', '<']) => {}
                _ if is_long(line) => wrong.push(format!("{}:{}", page.display(), n + 1)),
                _ => {}
            }
        }
    }
    assert!(wrong.is_empty(), "more than 120 columns: {}", wrong.join(", "));
}

#[test]
fn links_lead_somewhere() {
    let mut checked = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).expect("a page");
        let links = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
        for link in
            links.filter(|link| !link.contains("://") && !link.starts_with('#') && !link.contains(' '))
        {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = page.parent().expect("it is in a directory").join(file);
            assert!(target.exists(), "{}: {link} leads nowhere", page.display());
            if !heading.is_empty() {
                let text = fs::read_to_string(&target).expect("a page");
                let anchor = |title: &str| -> String {
                    let kept = |c: &char| c.is_alphanumeric() || [' ', '-', '_'].contains(c);
                    title
                        .trim()
                        .to_lowercase()
                        .chars()
                        .filter(kept)
                        .map(|c| if c == ' ' { '-' } else { c })
                        .collect()
                };
                let mut titles = text.lines().filter_map(|line| line.strip_prefix('#'));
                assert!(
                    titles.any(|t| anchor(t.trim_start_matches('#')) == heading),
                    "{}: no heading {link}",
                    page.display()
                );
            }
            checked += 1;
        }
    }
    assert!(checked > 60, "{checked} links");
}
