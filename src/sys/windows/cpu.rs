//! Processors: affinity with processor groups.
//!
//! A processor's number is 64 times its group's number plus its place in the group.

use super::check;
use crate::sys::Placement;
use std::io;
use windows_sys::Win32::System::SystemInformation::GROUP_AFFINITY;
use windows_sys::Win32::System::Threading::{
    GetActiveProcessorCount, GetActiveProcessorGroupCount, GetCurrentProcess, GetCurrentThread,
    GetProcessAffinityMask, GetThreadGroupAffinity, SetThreadGroupAffinity,
};

/// The most processors that a group can have.
const GROUP: usize = 64;

/// The processors that a thread of this process may run on, ascending.
pub(crate) fn allowed_cpus() -> io::Result<Vec<usize>> {
    // SAFETY: takes nothing.
    let groups = unsafe { GetActiveProcessorGroupCount() };
    if groups <= 1 {
        let (mut allowed, mut all) = (0, 0);
        // SAFETY: the results go to variables of this function.
        check(unsafe { GetProcessAffinityMask(GetCurrentProcess(), &mut allowed, &mut all) })?;
        return Ok(numbers(0, allowed));
    }
    // A process that spans groups has no mask of its own.
    let processors = (0..groups).flat_map(|group| {
        // SAFETY: takes a number.
        let count = unsafe { GetActiveProcessorCount(group) } as usize;
        (0..count).map(move |place| usize::from(group) * GROUP + place)
    });
    Ok(processors.collect())
}

/// Pins this thread to one processor. Returns what the system reports afterwards.
pub(crate) fn pin_to(cpu: usize) -> io::Result<Placement> {
    let group = u16::try_from(cpu / GROUP)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("no processor {cpu}")))?;
    let wanted = GROUP_AFFINITY {
        Mask: 1 << (cpu % GROUP),
        Group: group,
        Reserved: [0; 3],
    };
    let mut is = wanted;
    // SAFETY: both structures are variables of this function.
    unsafe {
        let this = GetCurrentThread();
        check(SetThreadGroupAffinity(this, &wanted, std::ptr::null_mut()))?;
        check(GetThreadGroupAffinity(this, &mut is))?;
    }
    Ok(Placement::Processors(numbers(is.Group, is.Mask)))
}

fn numbers(group: u16, mask: usize) -> Vec<usize> {
    (0..GROUP)
        .filter(|place| mask >> place & 1 == 1)
        .map(|place| usize::from(group) * GROUP + place)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinning_reports_what_was_applied() {
        std::thread::spawn(|| {
            let allowed = allowed_cpus().unwrap();
            let last = *allowed.last().unwrap();
            assert_eq!(pin_to(last).unwrap(), Placement::Processors(vec![last]));
            assert!(pin_to(usize::MAX).is_err());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn masks_are_numbers() {
        assert_eq!(numbers(0, 0b1011), [0, 1, 3]);
        assert_eq!(numbers(2, 1 << 63), [191]);
    }
}
