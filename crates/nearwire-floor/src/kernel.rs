//! What the kernel asks for its cheapest call and for a barrier on the other process's core.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{MembarrierCommand, futex, membarrier};

use crate::memory::Word;
use crate::{Arena, Descriptors, take};

/// A system call that does next to nothing (`getppid`, not cached by anybody).
#[inline]
pub fn cheap_call() {
    std::hint::black_box(rustix::process::getppid());
}

/// A full barrier on every core that runs a process that has registered
/// (`MEMBARRIER_CMD_GLOBAL_EXPEDITED`): an inter-processor interrupt per such core.
///
/// # Errors
/// When the kernel is older than 4.16 or a sandbox forbids the call.
#[inline]
pub fn barrier_elsewhere() -> io::Result<()> {
    Ok(membarrier(MembarrierCommand::GlobalExpedited)?)
}

const ABSENT: u32 = 0;
const READY: u32 = 1;
const STOP: u32 = 2;

/// A process to send barriers to: registered for them, and either spinning or asleep.
pub struct BarrierTarget {
    state: Word<AtomicU32>,
}

impl BarrierTarget {
    /// The near side, which sends barriers, and what the far side needs.
    ///
    /// # Errors
    /// When the shared memory cannot be had.
    pub fn create() -> io::Result<(Self, Descriptors)> {
        let arena = Arena::create(4096)?;
        Ok((
            Self {
                state: arena.half_word(0),
            },
            vec![arena.descriptor()?],
        ))
    }

    /// The far side.
    ///
    /// # Errors
    /// When the descriptors are not those of [`create`](Self::create).
    pub fn open(descriptors: Descriptors) -> io::Result<Self> {
        let [memory] = take("a barrier target", descriptors)?;
        Ok(Self {
            state: Arena::open(memory)?.half_word(0),
        })
    }

    /// Waits for the far side to be registered. Yields the core meanwhile.
    pub fn wait_until_ready(&self) {
        // SYNC: barrier-target
        while self.state.load(Ordering::Acquire) == ABSENT {
            std::thread::yield_now();
        }
    }

    /// Ends the far side.
    ///
    /// # Errors
    /// Whatever the kernel says to `FUTEX_WAKE`.
    pub fn stop(self) -> io::Result<()> {
        self.state.store(STOP, Ordering::Relaxed);
        futex::wake(&self.state, futex::Flags::empty(), 1)?;
        Ok(())
    }

    /// The far side: registers, then spins until the near side stops.
    ///
    /// # Errors
    /// When the kernel does not know the barrier.
    pub fn spin(self) -> io::Result<()> {
        self.register()?;
        while self.state.load(Ordering::Relaxed) != STOP {
            std::hint::spin_loop();
        }
        Ok(())
    }

    /// The far side: registers, then sleeps until the near side stops.
    ///
    /// # Errors
    /// When the kernel does not know the barrier.
    pub fn sleep(self) -> io::Result<()> {
        self.register()?;
        while self.state.load(Ordering::Relaxed) != STOP {
            match futex::wait(&self.state, futex::Flags::empty(), READY, None) {
                Ok(()) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn register(&self) -> io::Result<()> {
        membarrier(MembarrierCommand::RegisterGlobalExpedited)?;
        // SYNC: barrier-target
        self.state.store(READY, Ordering::Release);
        Ok(())
    }
}
