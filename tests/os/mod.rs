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
pub use system::{cpu_times, go_on, kill_self, open_handles, private_directory, resident, stop};

// Linux: what the hostile tests count.
#[cfg(target_os = "linux")]
#[allow(unused_imports)]
pub use system::shared_mappings;
