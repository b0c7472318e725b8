//! Tests unusual paths and streams: names that are not UTF-8, pipes given as files, byte-order marks, a full
//! stdout, and signals to a tool that waits.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Output, Stdio};

use assert_cmd::cargo::cargo_bin;

use crate::common::{DATA, Sandbox, copy_dir, refused, trained};
use crate::fabricate::Evaluation;

fn said(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// Counts the files and directories below a directory, except the memo of hashes.
fn count(dir: &Path) -> usize {
    let below = |path: &Path| if path.is_dir() { count(path) } else { 0 };
    let all = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    all.filter(|path| !path.ends_with("memo")).map(|path| 1 + below(&path)).sum()
}

#[test]
fn paths_that_no_manifest_can_name_are_refused_before_any_work() {
    let s = trained();
    let bad = OsStr::from_bytes(b"d\xe9j\xe0");
    for name in ["data", "run", "m"] {
        copy_dir(&s.join(name), &s.join(bad).join(name));
    }
    fs::copy(s.join("run/last.safetensors"), s.join(bad).join("w.safetensors")).unwrap();
    let before = count(s.path());
    let synthetic = format!("{DATA} -q");
    let train = "--arch resnet20 --epochs 1 -q";
    for (tool, args, dir) in [
        // The output directory, given directly and through its parent.
        ("mk-imbalance", format!("{synthetic} --out ?/new"), "."),
        ("mk-imbalance", format!("{synthetic} --out ?/new --dry-run"), "."),
        ("mk-imbalance", format!("{synthetic} --out ?/../new"), "."),
        ("train", format!("data {train} --out ?/new"), "."),
        ("train", format!("data {train} --out ?/new --seeds 0-1"), "."),
        ("eval", "run -q --out ?/new".into(), "."),
        ("embed", "run -q --out ?/new".into(), "."),
        ("embed", "run -q --project pca --out ?/new".into(), "."),
        ("report", "table m -q --out ?/new".into(), "."),
        ("report", "figure --kind per-class m -o ?/new.svg".into(), "."),
        ("report", "html m -o ?/new.html".into(), "."),
        // An input, also beside good ones.
        ("train", format!("?/data {train} --out new"), "."),
        ("eval", "run ?/run -q".into(), "."),
        ("eval", "run -q --data ?/data".into(), "."),
        ("eval", "?/w.safetensors --arch resnet20 --data data -q".into(), "."),
        ("embed", "run ?/run -q".into(), "."),
        ("report", "table m ?/m -q".into(), "."),
        ("report", "figure --kind per-class ?/m -q".into(), "."),
        ("report", "html ?/m -q".into(), "."),
        // The current directory.
        ("mk-imbalance", format!("{synthetic} --out new"), "?"),
        ("mk-imbalance", synthetic.clone(), "?"),
        ("train", format!("data {train}"), "?"),
        ("eval", "run -q".into(), "?"),
        ("embed", "run -q --out /tmp/remix-no-such-directory".into(), "?"),
        ("report", "table m -q".into(), "?"),
    ] {
        let mut command = s.tool(tool, "");
        for arg in args.split_whitespace() {
            let parts: Vec<&[u8]> = arg.split('?').map(str::as_bytes).collect();
            command.arg(OsStr::from_bytes(&parts.join(bad.as_bytes())));
        }
        if dir == "?" {
            command.current_dir(s.join(bad));
        }
        let assert = command.write_stdin("").assert();
        let text = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
        assert!(text.contains("d\u{fffd}j\u{fffd}"), "{tool} {args}: the path is not named: {text}");
        refused(assert, "is not UTF-8");
        assert_eq!(count(s.path()), before, "{tool} {args}: something was made");
    }
}

#[test]
fn a_link_leads_to_places_that_no_manifest_can_name() {
    let s = trained();
    let bad = s.join(OsStr::from_bytes(b"d\xe9j\xe0"));
    fs::create_dir(&bad).unwrap();
    fs::rename(s.join("data"), bad.join("data")).unwrap();
    std::os::unix::fs::symlink(&bad, s.join("link")).unwrap();
    let run = s.one("train", "link/data --arch resnet20 --epochs 1 --batch-size 40 -q --out new");
    // The data set is found again from the manifest alone.
    assert_eq!(run["kind"], "checkpoint");
    s.one("eval", "new -q");
}

#[test]
fn what_is_opened_is_read() {
    let s = trained();
    for line in [
        "$B/report table <(cat m/manifest.json)",
        "cat m/manifest.json | $B/report table /dev/stdin",
        "$B/report table /dev/stdin <m/manifest.json",
        "cat m/manifest.json | $B/report figure --kind per-class /dev/fd/0",
        "$B/report html <(cat m/manifest.json) <(cat data/manifest.json)",
        "mkfifo pipe; cat m/manifest.json >pipe & $B/report table pipe",
        "$B/eval <(cat run/manifest.json)",
        "cat run/manifest.json | $B/eval /dev/stdin",
        "$B/eval run --data <(cat data/manifest.json)",
        "$B/embed <(cat run/manifest.json)",
        "$B/train <(cat data/manifest.json) --arch resnet20 --epochs 1 --dry-run",
        "cat data/manifest.json | $B/train /dev/stdin --arch resnet20 --epochs 1 --dry-run",
        "ln -sf m/manifest.json link.json; $B/report table link.json",
    ] {
        let out = s.bash(line);
        assert!(out.status.success() && !out.stdout.is_empty(), "{line}: {}", said(&out));
    }
    let out = s.bash("ln -s nowhere dangling.json; $B/report table dangling.json");
    assert!(said(&out).contains("dangling.json: there is no such file"), "{}", said(&out));
    refused(
        s.tool("report", "table /dev/zero").assert(),
        "/dev/zero: not a manifest: it is longer than 256 MiB",
    );
}

#[test]
fn stdin_is_read_once() {
    let s = trained();
    for line in [
        "cat run/manifest.json | $B/eval - -",
        "cat run/manifest.json | $B/embed run - -",
        "cat data/manifest.json | $B/eval - --data -",
        "cat data/manifest.json | $B/eval --data -",
        "cat data/manifest.json | $B/train - - --dry-run",
        "cat data/manifest.json | $B/train --init - --dry-run",
        "cat m/manifest.json | $B/report table - -",
        "cat m/manifest.json | $B/report figure --kind per-class - -",
        "cat m/manifest.json | $B/report html - -",
    ] {
        let out = s.bash(line);
        assert_eq!((out.status.code(), out.stdout.len()), (Some(2), 0), "{line}: {}", said(&out));
        assert!(said(&out).contains("stdin: is given twice, by `-`"), "{line}: {}", said(&out));
    }
    // Each value of a sweep starts from the same checkpoint.
    let sweep = "--arch resnet20 --epochs 1 --sweep lr=0.1:0.2:0.1 --dry-run";
    let out = s.bash(&format!("cat run/manifest.json | $B/train data --init - {sweep}"));
    let planned = String::from_utf8(out.stdout.clone()).unwrap().lines().count();
    assert_eq!((out.status.code(), planned), (Some(0), 2), "{}", said(&out));
}

#[test]
fn byte_order_marks_are_skipped() {
    let s = Sandbox::new();
    for seed in 0..2 {
        let file = Evaluation { seed, ..Evaluation::default() }.publish(&s.join(format!("m{seed}")));
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.ends_with('\n'));
        fs::write(s.join(format!("{seed}.json")), format!("\u{feff}{text}")).unwrap();
    }
    let utf16 = "\u{feff}{}".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
    fs::write(s.join("utf16.json"), utf16).unwrap();
    for line in [
        "$B/report table 0.json 1.json -q",
        "cat 0.json 1.json | $B/report table -q",
        "cat 0.json 1.json >both.json; $B/report table both.json -q",
        "$B/report table - <0.json -q",
    ] {
        let out = s.bash(line);
        assert!(out.status.success() && !out.stdout.is_empty(), "{line}: {}", said(&out));
    }
    refused(s.tool("report", "table utf16.json").assert(), "it is UTF-16; save it as UTF-8");
}

#[test]
fn a_full_stdout_is_an_error_and_a_closed_one_is_none() {
    let s = trained();
    for line in [
        "$B/mk-imbalance --dataset synthetic --train-per-class 4 --test-per-class 1 --imb-ratio 2",
        "$B/train data --arch resnet20 --epochs 1 --batch-size 40 --out run2",
        "$B/eval run",
        "$B/embed run",
        "$B/report table m",
        "$B/report figure --kind per-class m",
        "$B/report html m",
        "$B/eval run --dry-run",
        "$B/eval run --out m --verify",
        "$B/eval --help",
        "$B/report table --help",
        "$B/train --version",
        "$B/train --generate complete-zsh",
    ] {
        // The first run does the work; the second finds the result.
        for _ in 0..2 {
            let out = s.bash(&format!("{line} -q >/dev/full").replace("zsh -q", "zsh"));
            assert_eq!(out.status.code(), Some(2), "{line}: {}", said(&out));
            let text = said(&out);
            assert!(
                text.contains("stdout: No space left on device") && text.lines().count() == 1,
                "{line}: {text}"
            );
        }
        // The reader exits without reading.
        let out = s.bash(&format!("{line} | true; exit ${{PIPESTATUS[0]}}"));
        assert_eq!(out.status.code(), Some(0), "{line}: {}", said(&out));
        assert!(!said(&out).contains("Broken pipe"), "{line}: {}", said(&out));
    }
    // Nothing reads from the start, and all work is done all the same.
    let mut both = s
        .command(cargo_bin("eval"))
        .args(["run", "run2", "-q"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(both.stdout.take());
    let out = both.wait_with_output().unwrap();
    assert_eq!((out.status.code(), said(&out).as_str()), (Some(0), ""));
}

#[test]
fn what_failed_leaves_nothing_behind() {
    let s = trained();
    // Weights that cannot be evaluated because they are not finite.
    let weights = fs::read(s.join("run/last.safetensors")).unwrap();
    let header = 8 + u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    let nan: Vec<u8> = weights[header..].chunks_exact(4).flat_map(|_| f32::NAN.to_le_bytes()).collect();
    fs::write(s.join("nan.safetensors"), [&weights[..header], &nan].concat()).unwrap();
    fs::create_dir(s.join("mine")).unwrap();
    let before = count(s.path());
    for (tool, more) in [
        ("eval", ""),
        ("eval", "--out new/deep/er"),
        ("eval", "--out mine"),
        ("embed", ""),
        ("embed", "--project pca"),
        ("embed", "--project pca --out new"),
    ] {
        let mut asked = s.tool(tool, &format!("nan.safetensors --arch resnet20 --data data -q {more}"));
        refused(asked.assert(), "has values that are not finite");
        assert_eq!(count(s.path()), before, "{tool} {more}");
    }
    // An evaluation without the metrics of a reliability diagram.
    Evaluation::default().publish(&s.join("lineage"));
    let before = count(s.path());
    let figure = s.tool("report", "figure --kind reliability lineage -q --out new").assert();
    refused(figure, "metrics.reliability is missing");
    assert_eq!(count(s.path()), before, "report");
}

/// Sends SIGTERM to a tool that waits, and asserts that it ends soon.
fn ends(mut tool: std::process::Child, what: &str) {
    let kill = std::process::Command::new("kill").args(["-TERM", &tool.id().to_string()]).status();
    assert!(kill.unwrap().success());
    let begun = std::time::Instant::now();
    while tool.try_wait().unwrap().is_none() && begun.elapsed().as_secs() < 20 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // It is no error if the tool has ended.
    let _ = tool.kill();
    assert_eq!(tool.wait().unwrap().code(), Some(130), "{what}");
}

#[test]
fn a_signal_ends_a_tool_that_waits_after_its_first_result() {
    use std::io::{BufRead, BufReader, Write};
    let s = trained();
    let start = |tool: &str, args: &str| {
        let mut started = s.command(cargo_bin(tool));
        started.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        started.args(args.split_whitespace()).spawn().unwrap()
    };
    // For another checkpoint on stdin, which stays open.
    let mut waiting = start("eval", "-q");
    let mut stdin = waiting.stdin.take().unwrap();
    stdin.write_all(&fs::read(s.join("run/manifest.json")).unwrap()).unwrap();
    let mut first = String::new();
    BufReader::new(waiting.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
    assert!(first.contains("\"kind\":\"metrics\""), "{first}");
    ends(waiting, "stdin");
    // For the lock of the second result, and for that of the features that a projection needs.
    copy_dir(&s.join("run"), &s.join("run2"));
    for (tool, locked, args) in [("eval", "run2", "run run2 --force"), ("embed", "run", "run --project pca")]
    {
        let planned = s.one(tool, &format!("{locked} -q --dry-run"));
        let dir = Path::new(planned["path"].as_str().unwrap()).parent().unwrap();
        fs::create_dir_all(dir).unwrap();
        let lock = fs::File::create(dir.join(".lock")).unwrap();
        lock.lock().unwrap();
        let mut waiting = start(tool, args);
        let mut said = BufReader::new(waiting.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("waiting for it") {
            line.clear();
            assert!(said.read_line(&mut line).unwrap() > 0, "it does not wait");
        }
        ends(waiting, "a lock");
    }
}
