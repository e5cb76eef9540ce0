use rustix::process::{Pid, Signal, kill_process};
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Makes a directory that nobody else may enter.
pub fn private_directory(path: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)
}

/// Ends this process as `kill -9` does.
pub fn kill_self() -> ! {
    kill_process(rustix::process::getpid(), Signal::KILL).unwrap();
    unreachable!("killed");
}

/// Stops all threads of a process. Returns when they have.
pub fn stop(pid: u32) {
    signal(pid, Signal::STOP);
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let (_, after_name) = stat.rsplit_once(") ").unwrap();
        if after_name.starts_with('T') {
            return;
        }
        assert!(Instant::now() < deadline, "{pid} does not stop");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Lets a stopped process go on.
pub fn go_on(pid: u32) {
    signal(pid, Signal::CONT);
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
}

/// Time that each thread of a process has spent on processors. A sleeping thread has exactly what
/// it had.
pub fn cpu_times(pid: u32) -> HashMap<String, Duration> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of_task = |task: std::io::Result<fs::DirEntry>| {
        let task = task.unwrap();
        // A thread may end between the two looks.
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        let nanos = text.split(' ').next().unwrap().parse().unwrap();
        let thread = task.file_name().into_string().unwrap();
        Some((thread, Duration::from_nanos(nanos)))
    };
    tasks.filter_map(of_task).collect()
}

/// Descriptors that a process has open.
pub fn open_handles(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Segments of shared memory that a process has mapped, its own and its peers'.
pub fn mapped_segments(pid: u32) -> usize {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let is_segment = |line: &&str| line.contains("/memfd:nearwire");
    maps.lines().filter(is_segment).count()
}

/// Resident memory of a process, in bytes.
pub fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mut lines = status.lines();
    let line = lines.find(|line| line.starts_with("VmRSS:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

/// Segments that a process has mapped.
pub fn shared_mappings(pid: u32) -> usize {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    maps.lines().filter(|line| line.contains("/memfd:")).count()
}
