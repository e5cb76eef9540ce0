use std::collections::HashMap;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle, RawHandle};
use std::path::Path;
use std::time::Duration;
use windows_sys::Win32::Foundation::{FILETIME, NTSTATUS};
use windows_sys::Win32::System::ProcessStatus::{GetProcessMemoryInfo, PROCESS_MEMORY_COUNTERS};
use windows_sys::Win32::System::Threading::{
    GetCurrentProcess, GetProcessHandleCount, GetProcessTimes, OpenProcess, PROCESS_ALL_ACCESS,
    TerminateProcess,
};

#[link(name = "ntdll", kind = "raw-dylib")]
unsafe extern "system" {
    fn NtSuspendProcess(process: RawHandle) -> NTSTATUS;
    fn NtResumeProcess(process: RawHandle) -> NTSTATUS;
    fn NtQuerySystemInformation(
        class: i32,
        buffer: *mut std::ffi::c_void,
        len: u32,
        needed: *mut u32,
    ) -> NTSTATUS;
}

/// Makes a directory. What is in it is no secret on Windows: there are no sockets.
pub fn private_directory(path: &Path) -> std::io::Result<()> {
    std::fs::create_dir(path)
}

/// Ends this process at once, without a word to anybody.
pub fn kill_self() -> ! {
    // SAFETY: takes no memory; nothing runs afterwards.
    unsafe { TerminateProcess(GetCurrentProcess(), 9) };
    unreachable!("killed");
}

/// Stops all threads of a process.
pub fn stop(pid: u32) {
    // SAFETY: the handle is open.
    let status = unsafe { NtSuspendProcess(open(pid).as_raw_handle()) };
    assert_eq!(status, 0, "suspend {pid}");
}

/// Lets a stopped process go on.
pub fn go_on(pid: u32) {
    // SAFETY: the handle is open.
    let status = unsafe { NtResumeProcess(open(pid).as_raw_handle()) };
    assert_eq!(status, 0, "resume {pid}");
}

/// Time that a process has spent on processors.
pub fn cpu_times(pid: u32) -> HashMap<String, Duration> {
    let mut times = [FILETIME::default(); 4];
    let [created, ended, kernel, user] = &mut times;
    // SAFETY: the handle is open; the results go to variables of this function.
    let got = unsafe { GetProcessTimes(open(pid).as_raw_handle(), created, ended, kernel, user) };
    assert_ne!(got, 0, "{}", std::io::Error::last_os_error());
    // In units of 100 ns.
    let units =
        |time: FILETIME| u64::from(time.dwHighDateTime) << 32 | u64::from(time.dwLowDateTime);
    let nanos = (units(times[2]) + units(times[3])) * 100;
    [("all threads".into(), Duration::from_nanos(nanos))].into()
}

/// Handles that a process has open.
pub fn open_handles(pid: u32) -> usize {
    let mut count = 0;
    // SAFETY: the handle is open; the result goes to a variable of this function.
    let got = unsafe { GetProcessHandleCount(open(pid).as_raw_handle(), &mut count) };
    assert_ne!(got, 0, "{}", std::io::Error::last_os_error());
    match count {
        // Wine does not count, but lists.
        0 => listed_handles(pid),
        count => count as usize,
    }
}

/// How many of all open handles are those of a process.
fn listed_handles(pid: u32) -> usize {
    /// All open handles of the system.
    const EXTENDED_HANDLE_INFORMATION: i32 = 64;
    const TOO_SHORT: NTSTATUS = 0xc000_0004_u32 as NTSTATUS;
    // Count and a reserved word, then five words for each handle, of which the second is the process.
    let mut words = vec![0_u64; 1 << 16];
    loop {
        let len = size_of_val(&words[..]) as u32;
        // SAFETY: the buffer is as long as is said.
        let status = unsafe {
            NtQuerySystemInformation(
                EXTENDED_HANDLE_INFORMATION,
                words.as_mut_ptr().cast(),
                len,
                std::ptr::null_mut(),
            )
        };
        if status != TOO_SHORT {
            assert_eq!(status, 0, "list handles");
            break;
        }
        words.resize(words.len() * 2, 0);
    }
    let count = words[0] as usize;
    let handles = words[2..].chunks_exact(5).take(count);
    let open = handles.filter(|handle| handle[1] == u64::from(pid)).count();
    assert_ne!(open, 0, "no handles of {pid} among {count}");
    open
}

/// Memory of a process that is in use right now, in bytes.
pub fn resident(pid: u32) -> u64 {
    let mut counters = PROCESS_MEMORY_COUNTERS::default();
    let size = size_of_val(&counters) as u32;
    // SAFETY: the handle is open; the structure is as long as is said.
    let got = unsafe { GetProcessMemoryInfo(open(pid).as_raw_handle(), &mut counters, size) };
    assert_ne!(got, 0, "{}", std::io::Error::last_os_error());
    counters.WorkingSetSize as u64
}

fn open(pid: u32) -> OwnedHandle {
    // SAFETY: takes numbers; the handle is new and nobody else has it.
    unsafe {
        let handle = OpenProcess(PROCESS_ALL_ACCESS, 0, pid);
        assert!(!handle.is_null(), "{}", std::io::Error::last_os_error());
        OwnedHandle::from_raw_handle(handle)
    }
}
