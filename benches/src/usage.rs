//! What this process uses: CPU, memory, descriptors, threads, file watches. Linux only; elsewhere zeros.

use std::fs;

/// What a process holds at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory, KiB.
    pub memory: u64,
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
    /// Watches of all inotify instances.
    pub watches: usize,
}

impl Usage {
    /// This moment.
    pub fn now() -> Self {
        Self { memory: memory(), descriptors: count("fd"), threads: count("task"), watches: watches() }
    }
}

/// The inotify instances of this process.
pub fn instances() -> usize {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return 0 };
    let targets = entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.filter(|target| target.as_os_str() == "anon_inode:inotify").count()
}

/// CPU time of the whole process since its start, in nanoseconds.
pub fn cpu() -> u64 {
    #[cfg(target_os = "linux")]
    {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
    }
    #[cfg(not(target_os = "linux"))]
    0
}

/// CPU time of this thread since its start, in nanoseconds.
pub fn thread_cpu() -> u64 {
    #[cfg(target_os = "linux")]
    {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
    }
    #[cfg(not(target_os = "linux"))]
    0
}

fn memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn count(what: &str) -> usize {
    // The directory that is read is open, too.
    let own = usize::from(what == "fd");
    fs::read_dir(format!("/proc/self/{what}")).map_or(0, |entries| entries.count().saturating_sub(own))
}

fn watches() -> usize {
    let Ok(entries) = fs::read_dir("/proc/self/fdinfo") else { return 0 };
    entries
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .map(|info| info.lines().filter(|line| line.starts_with("inotify ")).count())
        .sum()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_process_uses_something() {
        let usage = Usage::now();
        assert!(usage.memory > 100 && usage.descriptors > 2 && usage.threads > 0, "{usage:?}");
        let before = (cpu(), thread_cpu());
        std::hint::black_box((0..3_000_000_u64).fold(0, |a, b| std::hint::black_box(a ^ b)));
        assert!(cpu() > before.0 && thread_cpu() > before.1);
    }
}
