//! What signals do to the process.

/// Has a fault of memory end the process at once, whether the processor or somebody else sent the signal, so that its status names it.
///
/// The standard library handles these signals to tell an overflow of the stack: from any other fault its handler returns, for the
/// same instruction to fault again without it. A signal that was sent comes only once and would be lost.
pub fn end_on_memory_faults() {
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: the default action runs no code of this process.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}
