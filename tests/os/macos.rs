use rustix::process::{Pid, Signal, kill_process};
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

/// Makes a directory that nobody else may enter.
pub fn private_directory(path: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)
}

/// Ends this process as `kill -9` does.
pub fn kill_self() -> ! {
    kill_process(rustix::process::getpid(), Signal::KILL).unwrap();
    unreachable!("killed");
}

/// Stops all threads of a process.
pub fn stop(pid: u32) {
    signal(pid, Signal::STOP);
    // Nothing tells when all threads have stopped.
    std::thread::sleep(Duration::from_millis(100));
}

/// Lets a stopped process go on.
pub fn go_on(pid: u32) {
    signal(pid, Signal::CONT);
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
}

/// Time that a process has spent on processors.
#[allow(deprecated)] // In favour of a crate, for one call.
pub fn cpu_times(pid: u32) -> HashMap<String, Duration> {
    let info = task_info(pid);
    let mut base = libc::mach_timebase_info { numer: 0, denom: 0 };
    // SAFETY: the result goes to a variable of this function.
    unsafe { libc::mach_timebase_info(&mut base) };
    let ticks = info.pti_total_user + info.pti_total_system;
    let nanos = ticks * u64::from(base.numer) / u64::from(base.denom);
    [("all threads".into(), Duration::from_nanos(nanos))].into()
}

/// Descriptors that a process has open.
pub fn open_handles(pid: u32) -> usize {
    // SAFETY: without a buffer the call gives the size of the list.
    let size = unsafe {
        libc::proc_pidinfo(
            pid as i32,
            libc::PROC_PIDLISTFDS,
            0,
            std::ptr::null_mut(),
            0,
        )
    };
    let mut list = vec![0u8; size as usize];
    // SAFETY: the length of the buffer is what is said.
    let filled = unsafe {
        let buffer = list.as_mut_ptr().cast();
        libc::proc_pidinfo(pid as i32, libc::PROC_PIDLISTFDS, 0, buffer, size)
    };
    // A proc_fdinfo is two 32-bit numbers.
    filled as usize / 8
}

/// Resident memory of a process, in bytes.
pub fn resident(pid: u32) -> u64 {
    task_info(pid).pti_resident_size
}

fn task_info(pid: u32) -> libc::proc_taskinfo {
    let mut info = std::mem::MaybeUninit::<libc::proc_taskinfo>::zeroed();
    let size = size_of_val(&info) as i32;
    // SAFETY: the length of the buffer is what is said; zeroes are a valid proc_taskinfo.
    unsafe {
        let buffer = info.as_mut_ptr().cast();
        let filled = libc::proc_pidinfo(pid as i32, libc::PROC_PIDTASKINFO, 0, buffer, size);
        assert_eq!(filled, size, "{}", std::io::Error::last_os_error());
        info.assume_init()
    }
}
