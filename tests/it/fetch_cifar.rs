//! Tests `scripts/fetch-cifar` against HTTP servers on this machine: resumed downloads, wrong checksums,
//! failing hosts.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

const ARCHIVE: &str = "cifar-10-python.tar.gz";

/// How a host answers a request.
#[derive(Clone)]
enum Host {
    /// Serves the file, including ranges of it.
    Good(Vec<u8>),
    /// Does the same, but closes each connection after this many bytes.
    Cuts(Vec<u8>, usize),
    /// Serves the file but does not support ranges.
    Whole(Vec<u8>),
    /// Answers 503.
    Down,
}

struct Server {
    url: String,
    /// The first byte requested, for each request.
    asked: Arc<Mutex<Vec<usize>>>,
}

impl Server {
    fn start(host: Host) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let asked = Arc::new(Mutex::new(vec![]));
        let log = asked.clone();
        // The thread ends with the test process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // The server ignores clients that have disconnected.
                let _ = answer(&host, stream, &log);
            }
        });
        Server { url, asked }
    }

    fn asked(&self) -> Vec<usize> {
        self.asked.lock().expect("not poisoned").clone()
    }
}

fn answer(host: &Host, mut stream: TcpStream, log: &Mutex<Vec<usize>>) -> std::io::Result<()> {
    let mut from = None;
    let mut path = String::new();
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(rest) = line.strip_prefix("get ") {
            path = rest.to_owned();
        }
        if let Some(range) = line.strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse().ok();
        }
    }
    assert!(path.starts_with(&format!("/{ARCHIVE} ")), "{path}");
    log.lock().expect("not poisoned").push(from.unwrap_or(0));
    let (body, ranges, limit) = match host {
        Host::Good(body) => (body, true, usize::MAX),
        Host::Cuts(body, limit) => (body, true, *limit),
        Host::Whole(body) => (body, false, usize::MAX),
        Host::Down => {
            return stream.write_all(b"HTTP/1.1 503 Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    };
    let start = from.filter(|_| ranges).unwrap_or(0);
    if start > 0 && start >= body.len() {
        let size = body.len();
        return write!(
            stream,
            "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */{size}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    }
    let (total, rest) = (body.len(), &body[start..]);
    let status = match start {
        0 => "200 OK".to_owned(),
        _ => format!("206 Partial\r\nContent-Range: bytes {start}-{}/{total}", total - 1),
    };
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", rest.len())?;
    stream.write_all(&rest[..rest.len().min(limit)])
}

fn content() -> Vec<u8> {
    (0..300_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

fn md5(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("f");
    fs::write(&path, bytes).expect("written");
    let out = Command::new("md5sum").arg(path).output().expect("md5sum runs");
    String::from_utf8(out.stdout).expect("text")[..32].to_owned()
}

fn fetch(dest: &Path, servers: &[&Server]) -> Output {
    let urls: Vec<_> = servers.iter().map(|s| s.url.as_str()).collect();
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/fetch-cifar"))
        .args(["--md5", &md5(&content()), "cifar10", "--dest"])
        .arg(dest)
        .env("CIFAR_MIRRORS", urls.join(" "))
        .envs([("http_proxy", ""), ("no_proxy", "*")])
        .output()
        .expect("the script runs")
}

fn text(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// Asserts success, and that the archive is complete and leaves no partial file.
fn complete(out: &Output, dest: &Path) {
    assert!(out.status.success(), "{}", text(out));
    assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), dest.join(ARCHIVE).display().to_string());
    assert!(fs::read(dest.join(ARCHIVE)).expect("there") == content());
    assert!(!dest.join(format!("{ARCHIVE}.part")).exists());
}

#[test]
fn a_cut_connection_is_resumed() {
    let dest = tempfile::tempdir().expect("a directory");
    let server = Server::start(Host::Cuts(content(), 500_000));
    let out = fetch(dest.path(), &[&server]);
    complete(&out, dest.path());
    assert!(text(&out).contains(&format!("{ARCHIVE}: downloading\n")), "{}", text(&out));
    assert_eq!(server.asked(), [0, 500_000, 1_000_000]);
}

#[test]
fn an_interrupted_download_goes_on_later_and_is_then_left_alone() {
    let dest = tempfile::tempdir().expect("a directory");
    fs::write(dest.path().join(format!("{ARCHIVE}.part")), &content()[..123_456]).expect("written");
    let server = Server::start(Host::Good(content()));
    let out = fetch(dest.path(), &[&server]);
    complete(&out, dest.path());
    assert!(text(&out).contains("downloading from byte 123456\n"), "{}", text(&out));
    let out = fetch(dest.path(), &[&server]);
    complete(&out, dest.path());
    assert!(text(&out).contains("already there, checksum right"), "{}", text(&out));
    assert_eq!(server.asked(), [123_456], "the second time nothing was asked");
}

#[test]
fn the_mirror_is_asked_when_the_first_host_fails() {
    let dest = tempfile::tempdir().expect("a directory");
    let unreachable = Server { url: "http://127.0.0.1:9".into(), asked: Arc::default() };
    let (down, mirror) = (Server::start(Host::Down), Server::start(Host::Good(content())));
    let out = fetch(dest.path(), &[&unreachable, &down, &mirror]);
    complete(&out, dest.path());
    assert!(text(&out).contains(&format!("{}: failed", down.url)), "{}", text(&out));
    assert_eq!((down.asked(), mirror.asked()), (vec![0], vec![0]));
}

#[test]
fn a_wrong_file_is_discarded_and_the_mirror_asked() {
    let dest = tempfile::tempdir().expect("a directory");
    let (wrong, mirror) =
        (Server::start(Host::Good(b"<html>moved".to_vec())), Server::start(Host::Good(content())));
    let out = fetch(dest.path(), &[&wrong, &mirror]);
    complete(&out, dest.path());
    assert!(text(&out).contains("checksum") && text(&out).contains("discarded"), "{}", text(&out));
    assert_eq!(mirror.asked(), [0], "nothing of the wrong file was kept");
}

#[test]
fn a_bad_part_is_discarded_and_the_same_host_asked_again() {
    let dest = tempfile::tempdir().expect("a directory");
    fs::write(dest.path().join(format!("{ARCHIVE}.part")), vec![0; 1000]).expect("written");
    let server = Server::start(Host::Good(content()));
    complete(&fetch(dest.path(), &[&server]), dest.path());
    assert_eq!(server.asked(), [1000, 0]);
}

#[test]
fn a_bad_part_as_long_as_the_archive_is_discarded() {
    for extra in [0, 1, 1000] {
        let dest = tempfile::tempdir().expect("a directory");
        let part = vec![0; content().len() + extra];
        fs::write(dest.path().join(format!("{ARCHIVE}.part")), &part).expect("written");
        let server = Server::start(Host::Good(content()));
        let out = fetch(dest.path(), &[&server]);
        complete(&out, dest.path());
        assert!(text(&out).contains("does not belong to this file; starting over"), "{}", text(&out));
        assert_eq!(server.asked(), [part.len(), 0], "once");
    }
}

#[test]
fn a_host_without_ranges_starts_again() {
    let dest = tempfile::tempdir().expect("a directory");
    fs::write(dest.path().join(format!("{ARCHIVE}.part")), &content()[..1000]).expect("written");
    let server = Server::start(Host::Whole(content()));
    complete(&fetch(dest.path(), &[&server]), dest.path());
}

#[test]
fn a_damaged_archive_is_replaced_only_by_a_good_one() {
    let dest = tempfile::tempdir().expect("a directory");
    let archive = dest.path().join(ARCHIVE);
    fs::write(&archive, b"old").expect("written");
    let down = Server::start(Host::Down);
    let out = fetch(dest.path(), &[&down]);
    assert_eq!(out.status.code(), Some(2), "{}", text(&out));
    assert!(text(&out).contains("no host has it now"), "{}", text(&out));
    assert_eq!(fs::read(&archive).expect("still there"), b"old");
    complete(&fetch(dest.path(), &[&Server::start(Host::Good(content()))]), dest.path());
}

#[test]
fn flags_are_checked() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/fetch-cifar");
    for (args, why) in [
        (&["--form", "png"][..], "use python or binary"),
        (&["--dest"], "needs a value"),
        (&["mnist"], "mnist: unknown"),
        (&["--md5", "00", "cifar10", "cifar100"], "name one data set"),
    ] {
        let out = Command::new(&script).args(args).output().expect("the script runs");
        assert_eq!(out.status.code(), Some(2));
        assert!(text(&out).contains(why), "{}", text(&out));
    }
}
