//! How much memory a process may still take. This is checked before a network takes it, because a system that
//! runs out of memory ends programs without a message.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// Refuses a network for which there is not enough memory.
pub(super) fn check(needed: u64, available: Option<u64>, batch: usize) -> Result<()> {
    match available {
        Some(available) if needed > available => bail!(
            "batches of {batch} images need {} MiB of memory, but only {} MiB are free; lower --batch-size",
            needed >> 20,
            available >> 20
        ),
        _ => Ok(()),
    }
}

/// Returns the number of bytes that are still available, given the machine's memory and swap and the limits
/// of the control groups (of a container or a cluster's job) that this process is in. Returns `None` if the
/// system does not report it as Linux does.
pub(super) fn available() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limit = of_groups(&groups, Path::new("/sys/fs/cgroup"));
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| of_machine(&text));
    machine.into_iter().chain(limit).min()
}

fn of_machine(meminfo: &str) -> Option<u64> {
    let of = |name: &str| -> Option<u64> {
        meminfo.lines().find_map(|line| line.strip_prefix(name))?.trim().strip_suffix(" kB")?.parse().ok()
    };
    Some((of("MemAvailable:")? + of("SwapFree:").unwrap_or(0)) << 10)
}

/// Returns the smallest amount left below the limits of the groups in `/proc/self/cgroup` and of the groups
/// around them. Version 2 has one hierarchy, version 1 has one for memory. Inside a container the listed path
/// may be that of the host; then the container's own root counts.
fn of_groups(listed: &str, root: &Path) -> Option<u64> {
    let (mut group, mut version_1) = (None, false);
    for line in listed.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let memory = controllers.split(',').any(|c| c == "memory");
        if memory || (controllers.is_empty() && group.is_none()) {
            (group, version_1) = (Some(path.trim_start_matches('/')), memory);
        }
    }
    let root = if version_1 { root.join("memory") } else { root.to_owned() };
    let names = match version_1 {
        true => ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"],
        false => ["memory.max", "memory.current", "inactive_file"],
    };
    let left = |dir: PathBuf| -> Option<u64> {
        let read = |name: &str| fs::read_to_string(dir.join(name)).ok();
        // "max" is not a number and means that there is no limit.
        let limit: u64 = read(names[0])?.trim().parse().ok()?;
        let used: u64 = read(names[1])?.trim().parse().ok()?;
        // Cached files are given back when memory runs short.
        let cached = read("memory.stat").and_then(|text| {
            text.lines().find_map(|line| line.strip_prefix(names[2])?.trim().parse::<u64>().ok())
        });
        Some(limit.saturating_sub(used.saturating_sub(cached.unwrap_or(0))))
    };
    let own = root.join(group?);
    own.ancestors().take_while(|dir| dir.starts_with(&root)).filter_map(|dir| left(dir.to_owned())).min()
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::backend::cpu::net::Net;
    use crate::net::Arch;

    #[test]
    fn memory_is_checked_before_it_is_allocated() {
        let needed = |batch| {
            let network = Arch::RESNET32.network();
            Net::bytes(&network, [32, 32, 3], 10, batch, DType::F32).expect("sizes")
        };
        // The stem, one more output of the first stage, 15 blocks of three outputs, and twice the end of each
        // stage.
        let values = 3 * 16_384 + 5 * 3 * (16_384 + 8_192 + 4_096) + 2 * (16_384 + 8_192 + 4_096);
        // Parameters and work space are small compared with them.
        let share = needed(128) as f64 / (values * 128 * 4) as f64;
        assert!((1.0..1.2).contains(&share), "{share}");
        assert!(check(needed(128), None, 128).is_ok() && check(5, Some(5), 1).is_ok());
        let refused = check(needed(65_536), Some(8 << 30), 65_536).expect_err("131 GiB").to_string();
        assert!(
            refused.contains("MiB of memory, but only 8192 MiB are free")
                && refused.contains("lower --batch-size"),
            "{refused}"
        );
        if cfg!(target_os = "linux") {
            assert!(available().is_some_and(|bytes| bytes > 1 << 20));
        }
    }

    #[test]
    fn swap_counts_as_free_memory() {
        let text = "MemTotal: 99 kB\nMemAvailable:    2048 kB\nSwapFree:    1024 kB\n";
        assert_eq!(of_machine(text), Some(3 << 20));
        assert_eq!(of_machine("MemTotal: 99 kB\n"), None);
    }

    #[test]
    fn tightest_control_group_limits_memory() {
        let dir = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| {
            let file = dir.path().join(name);
            fs::create_dir_all(file.parent().expect("a parent")).expect("made");
            fs::write(file, text).expect("written");
        };
        // Version 2: a job with a limit of 8 GiB, half of it used and a quarter of that cached, in a slice of
        // 6 GiB.
        write("slice/job/memory.max", "8589934592\n");
        write("slice/job/memory.current", "4294967296\n");
        write("slice/job/memory.stat", "anon 1\ninactive_file 1073741824\n");
        assert_eq!(of_groups("0::/slice/job\n", dir.path()), Some(5 << 30));
        write("slice/memory.max", "6442450944\n");
        write("slice/memory.current", "4294967296\n");
        assert_eq!(of_groups("0::/slice/job\n", dir.path()), Some(2 << 30));
        write("slice/memory.max", "max\n");
        assert_eq!(of_groups("0::/slice/job\n", dir.path()), Some(5 << 30));
        // In a container whose own group is mounted as the root, the path is the host's.
        write("memory.max", "2147483648\n");
        write("memory.current", "1073741824\n");
        assert_eq!(of_groups("0::/docker/abc\n", dir.path()), Some(1 << 30));
        // Version 1.
        write("memory/job/memory.limit_in_bytes", "3221225472\n");
        write("memory/job/memory.usage_in_bytes", "1073741824\n");
        let listed = "9:cpu,cpuacct:/job\n4:memory:/job\n0::/\n";
        assert_eq!(of_groups(listed, dir.path()), Some(2 << 30));
        assert_eq!(of_groups("", dir.path()), None);
    }
}
