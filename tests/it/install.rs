//! Tests `make install` and `make uninstall`: programs, man pages and completions are put in the right
//! places.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use assert_cmd::cargo::cargo_bin;

use crate::common::{Sandbox, make, skipped};

/// Runs `make GOAL` with the tools of this build, installing into `root`.
fn run(goal: &str, root: &Path) {
    let tools = cargo_bin("train").parent().expect("a directory").display().to_string();
    let command = format!(
        "make --no-print-directory {goal} DESTDIR='{}' PREFIX=/usr B='{tools}' CARGO=true 2>&1",
        root.display()
    );
    let out = make().args(["-c", &command]).output().expect("bash");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(dir).unwrap().flatten().map(|e| e.path()).collect();
    found.sort();
    found.iter().flat_map(|p| if p.is_dir() { files(p) } else { vec![p.clone()] }).collect()
}

/// Returns the output of a program that must succeed.
fn says(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().expect(program);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{program} {args:?}: {said}{}", String::from_utf8_lossy(&out.stderr));
    said
}

fn has(program: &str) -> bool {
    let found = Command::new("bash").args(["-c", &format!("command -v {program}")]).output();
    let found = found.is_ok_and(|o| o.status.success());
    if !found {
        skipped(format!("{program} is not there"));
    }
    found
}

#[test]
fn everything_is_put_in_its_place_and_taken_away_again() {
    let s = Sandbox::new();
    let root = s.path().join("root");
    fs::create_dir_all(root.join("usr/share/man/man1")).unwrap();
    let mine = root.join("usr/share/man/man1/remixed.1");
    fs::write(&mine, "somebody else's").unwrap();
    run("install", &root);
    let installed = files(&root);
    let names: Vec<String> =
        installed.iter().map(|p| p.strip_prefix(&root).unwrap().display().to_string()).collect();
    for tool in ["mk-imbalance", "train", "eval", "embed", "report"] {
        for place in [
            format!("usr/bin/remix-{tool}"),
            format!("usr/share/man/man1/remix-{tool}.1"),
            format!("usr/share/bash-completion/completions/remix-{tool}"),
            format!("usr/share/zsh/site-functions/_remix-{tool}"),
            format!("usr/share/fish/vendor_completions.d/remix-{tool}.fish"),
        ] {
            assert!(names.contains(&place), "{place} is not in {names:?}");
        }
    }
    assert!(names.contains(&"usr/share/man/man1/remix-report-table.1".to_owned()));

    // The tools use the name that they were called by, and so do their examples.
    let program = |tool: &str| root.join(format!("usr/bin/remix-{tool}")).display().to_string();
    let help = says(&program("train"), &["--help"]);
    for text in
        ["Usage: remix-train [OPTIONS]", "remix-mk-imbalance --dataset cifar10", "| remix-train --method"]
    {
        assert!(help.contains(text), "`{text}` is not in {help}");
    }
    assert!(!help.contains(" train --method"), "{help}");
    assert!(says(&program("eval"), &["--version"]).starts_with("remix-eval "));
    let out = Command::new(program("eval")).arg("nowhere").output().unwrap();
    assert!(String::from_utf8_lossy(&out.stderr).starts_with("remix-eval: nowhere: "), "{out:?}");

    for page in installed.iter().filter(|p| p.extension().is_some_and(|e| e == "1") && **p != mine) {
        let text = fs::read_to_string(page).unwrap();
        let name = page.file_stem().unwrap().to_str().unwrap();
        assert!(text.contains(&format!(".TH {name} 1")), "{name}");
        if has("man") {
            let shown = says("man", &["--warnings", "-l", page.to_str().unwrap()]);
            for text in ["SYNOPSIS", "--help", "EXIT STATUS", "SEE ALSO"] {
                assert!(shown.contains(text), "{name}: {text} is not in {shown}");
            }
        }
    }

    // Bash completes flags, values and subcommands.
    let complete = |tool: &str, words: &str| {
        let script = format!(
            "PATH='{0}/usr/bin':$PATH\n\
             source '{0}/usr/share/bash-completion/completions/remix-{tool}'\n\
             COMP_WORDS=(remix-{tool} {words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n\
             [[ $(complete -p remix-{tool}) =~ -F\\ ([^ ]+) ]]\n\
             \"${{BASH_REMATCH[1]}}\" remix-{tool} \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"\n\
             echo \"${{COMPREPLY[@]}}\"",
            root.display()
        );
        says("bash", &["-c", &script]).trim().to_owned()
    };
    assert_eq!(complete("eval", "--spl"), "--split");
    assert_eq!(complete("embed", "--project t"), "tsne");
    assert_eq!(complete("report", "ta"), "table");
    assert_eq!(complete("report", "figure --kind c"), "confusion class-counts curves");
    assert_eq!(complete("train", "--method remix-dr"), "remix-drs remix-drw");
    assert_eq!(complete("train", "--method re"), "remix remix-cutmix remix-manifold");
    assert_eq!(complete("train", "--arch resnet1"), "resnet110 resnet18-cifar resnet10 resnet18");
    let bytes: u64 = installed.iter().map(|p| fs::metadata(p).unwrap().len()).sum();
    assert!(bytes < 100 << 20, "{bytes} bytes: programs are installed without debugging information");
    if has("zsh") {
        says("zsh", &["-n", root.join("usr/share/zsh/site-functions/_remix-eval").to_str().unwrap()]);
    }
    if has("fish") {
        says(
            "fish",
            &["-n", root.join("usr/share/fish/vendor_completions.d/remix-eval.fish").to_str().unwrap()],
        );
    }

    run("uninstall", &root);
    assert_eq!(files(&root), [mine]);
}
