//! What tests ask of the operating system beyond what std offers: about processes, and by force.

#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(target_os = "macos", path = "macos.rs")]
#[cfg_attr(windows, path = "windows.rs")]
mod system;

#[cfg(target_os = "linux")]
#[allow(unused_imports)]
pub use system::mapped_segments;
// Each test binary uses a part of this.
#[allow(unused_imports)]
pub use system::{cpu_times, go_on, kill_self, open_handles, resident, stop};

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Makes a directory for a test, that nobody else may enter.
pub fn private_directory(prefix: &str) -> PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    loop {
        let number = NEXT.fetch_add(1, Relaxed);
        let unique = format!("{prefix}-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(unique);
        match system::private_directory(&path) {
            Ok(()) => return path,
            // Left by one that was killed, and whose process had the same id.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }
}

// Linux: what the hostile tests count.
#[cfg(target_os = "linux")]
#[allow(unused_imports)]
pub use system::shared_mappings;
