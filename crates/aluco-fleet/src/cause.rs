//! Why a worker ended: what kind of end it was, in words, and what can be done about it.
//!
//! The signatures are those that llama.cpp, Vulkan, ROCm and amdgpu write in reports of real crashes on Strix Halo.

use std::{fmt, process::ExitStatus, sync::Arc, time::SystemTime};

use crate::process::describe;

/// Reads lines of the kernel's log that are newer than a time. May block.
#[derive(Clone)]
pub struct KernelLog(pub Arc<dyn Fn(SystemTime) -> Vec<String> + Send + Sync>);

impl fmt::Debug for KernelLog {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("KernelLog")
    }
}

/// What kind of end a worker came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CauseKind {
    /// The fleet did not need it any more, or goes down.
    Unneeded,
    /// Somebody or something outside ended it by a signal.
    Killed,
    /// Somebody stopped the process by a signal, so it was killed.
    Stopped,
    /// It did not answer heartbeats and was killed.
    Silent,
    /// Its device did not finish a step and it was killed.
    Stalled,
    /// Memory ran out, of the machine or of the device.
    OutOfMemory,
    /// The driver lost the device.
    DeviceLost,
    /// The device accessed memory that it must not access.
    DeviceFault,
    /// The device or its runtime reported an error.
    DeviceError,
    /// An assertion of the engine failed.
    Assertion,
    /// It crashed otherwise.
    Crash,
    /// It exited by itself.
    Exited,
    /// It broke the protocol.
    Protocol,
}

impl CauseKind {
    /// True if nothing that the worker computed can have brought it about.
    pub(crate) fn is_external(self) -> bool {
        matches!(self, Self::Unneeded | Self::Killed | Self::Stopped)
    }

    /// What a person can do about it; empty if that is obvious or unknown.
    fn advice(self) -> &'static str {
        match self {
            Self::OutOfMemory => {
                "load with a smaller context or a smaller quantisation, or unload other models"
            }
            Self::DeviceLost | Self::DeviceFault | Self::DeviceError => {
                "look for the known combinations of kernel, firmware and driver with `aluco doctor`, or use another backend"
            }
            Self::Assertion => {
                "the engine does not support what was asked of it; another backend or other load options may"
            }
            _ => "",
        }
    }
}

/// Why a worker ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cause {
    pub(crate) kind: CauseKind,
    pub(crate) text: String,
}

/// What was seen of an end.
#[derive(Debug)]
pub(crate) struct Ending<'a> {
    /// Why the fleet killed it, if it did.
    pub(crate) verdict: Option<(CauseKind, String)>,
    /// `None` if the kernel has not been able to end it.
    pub(crate) status: Option<ExitStatus>,
    /// The last lines of standard error.
    pub(crate) last_words: &'a [String],
    /// Lines of the kernel's log from around the end.
    pub(crate) kernel_lines: &'a [String],
    pub(crate) pid: u32,
}

/// Finds the cause in what was seen.
pub(crate) fn find(ending: Ending<'_>) -> Cause {
    let Ending {
        verdict,
        status,
        last_words,
        kernel_lines,
        pid,
    } = ending;
    let (mut kind, mut text) = match (verdict, status) {
        (Some((kind, reason)), Some(_)) => (kind, format!("{reason}, and was killed")),
        (None, Some(status)) => (kind_of(status), describe(status)),
        (verdict, None) => {
            let (kind, reason) =
                verdict.unwrap_or_else(|| (CauseKind::Silent, "it ended".to_owned()));
            let text = format!("{reason}, and the kernel has not yet been able to kill it");
            (kind, text)
        }
    };
    if !last_words.is_empty() {
        text = format!("{text}; its last words: {}", last_words.join(" | "));
    }
    let told: Vec<(CauseKind, &str)> = kernel_lines
        .iter()
        .filter_map(|line| Some((kernel_sign(line, pid)?, line.trim())))
        .collect();
    if !told.is_empty() {
        let lines: Vec<&str> = told.iter().take(4).map(|(_, line)| *line).collect();
        text = format!("{text}; the kernel says: {}", lines.join(" | "));
    }
    if kind != CauseKind::Unneeded {
        let said = last_words.iter().rev().find_map(|line| said_sign(line));
        if let Some(better) = told.first().map(|(kind, _)| *kind).or(said) {
            kind = better;
        }
    }
    if !kind.advice().is_empty() {
        text = format!("{text} ({})", kind.advice());
    }
    Cause { kind, text }
}

fn kind_of(status: ExitStatus) -> CauseKind {
    use rustix::process::Signal;
    use std::os::unix::process::ExitStatusExt;
    let Some(signal) = status.signal() else {
        return CauseKind::Exited;
    };
    match Signal::from_named_raw(signal) {
        Some(Signal::KILL | Signal::TERM | Signal::INT | Signal::HUP | Signal::QUIT) => {
            CauseKind::Killed
        }
        Some(Signal::ABORT) => CauseKind::Assertion,
        _ => CauseKind::Crash,
    }
}

/// What a line of the worker's standard error tells.
fn said_sign(line: &str) -> Option<CauseKind> {
    const SIGNS: [(CauseKind, &[&str]); 5] = [
        (
            CauseKind::OutOfMemory,
            &[
                "out of memory",
                "Out of memory",
                "OutOfMemory",
                "OutOfDeviceMemory",
                "OUT_OF_DEVICE_MEMORY",
                "OUT_OF_RESOURCES",
                "std::bad_alloc",
            ],
        ),
        (
            CauseKind::DeviceLost,
            &["DeviceLostError", "VK_ERROR_DEVICE_LOST", "ErrorDeviceLost"],
        ),
        (CauseKind::DeviceFault, &["Memory access fault by GPU node"]),
        (
            CauseKind::DeviceError,
            &[
                "HSA_STATUS_ERROR",
                "HW Exception by GPU node",
                "Memory critical error by agent node",
            ],
        ),
        (CauseKind::Assertion, &["GGML_ASSERT", "GGML_ABORT"]),
    ];
    SIGNS
        .iter()
        .find(|(_, signs)| signs.iter().any(|sign| line.contains(sign)))
        .map(|(kind, _)| *kind)
}

/// What a line of the kernel's log tells about the death of a process.
fn kernel_sign(line: &str, pid: u32) -> Option<CauseKind> {
    let names_pid = || {
        [format!("process {pid} "), format!("pid={pid},")]
            .iter()
            .any(|sign| line.contains(sign.as_str()))
    };
    let has = |sign: &str| line.contains(sign);
    let is_oom_kill = (has("Killed process") || has("oom-kill")) && names_pid();
    if is_oom_kill || has("Not enough memory for command submission") {
        Some(CauseKind::OutOfMemory)
    } else if has("[gfxhub] page fault") || has("GCVM_L2_PROTECTION_FAULT_STATUS") {
        (!names_another(line, pid)).then_some(CauseKind::DeviceFault)
    } else if (has("ring ") && has("timeout, signaled seq="))
        || has("MES failed to respond")
        || has("MES might be in unrecoverable state")
        || has("GPU reset begin")
        || has("failed to remove hardware queue from MES")
        || has("Failed to evict queue")
    {
        Some(CauseKind::DeviceLost)
    } else {
        None
    }
}

/// True if a line names the process that is to blame, as in `process llama-cli pid 10890`, and that is no worker.
fn names_another(line: &str, pid: u32) -> bool {
    let Some((before, after)) = line.rsplit_once(" pid ") else {
        return false;
    };
    let digits = after.split(|letter: char| !letter.is_ascii_digit()).next();
    let named: Option<u32> = digits.and_then(|digits| digits.parse().ok());
    // Within a container the kernel's number is not ours, so the name counts, too.
    let is_worker = before
        .rsplit_once("rocess ")
        .is_some_and(|(_, name)| name.starts_with("aluco-worker"));
    named.is_some_and(|named| named != pid) && !is_worker
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    const ABORT: i32 = 6;
    const KILL: i32 = 9;

    fn cause(raw_status: i32, words: &[&str], kernel: &[&str]) -> Cause {
        let owned = |lines: &[&str]| lines.iter().map(ToString::to_string).collect::<Vec<_>>();
        find(Ending {
            verdict: None,
            status: Some(ExitStatus::from_raw(raw_status)),
            last_words: &owned(words),
            kernel_lines: &owned(kernel),
            pid: 4711,
        })
    }

    #[test]
    fn known_last_words_name_the_cause() {
        for (line, kind) in [
            (
                "terminate called after throwing an instance of 'vk::DeviceLostError'",
                CauseKind::DeviceLost,
            ),
            (
                "HSA_STATUS_ERROR_EXCEPTION: An HSAIL operation resulted in a hardware exception. code: 0x1016",
                CauseKind::DeviceError,
            ),
            (
                "Memory access fault by GPU node-1 (Agent handle: 0x5) on address 0x7f. Reason: Page not present",
                CauseKind::DeviceFault,
            ),
            (
                "HW Exception by GPU node-1 (Agent handle: 0x5) reason :GPU Hang",
                CauseKind::DeviceError,
            ),
            (
                "ggml.c:42: GGML_ASSERT(n_dims > 0) failed",
                CauseKind::Assertion,
            ),
            (
                "ggml_vulkan: Device memory allocation failed: ErrorOutOfDeviceMemory",
                CauseKind::OutOfMemory,
            ),
        ] {
            let cause = cause(ABORT, &[line, "Aborted"], &[]);
            assert_eq!(cause.kind, kind, "{line}");
            assert!(
                cause.text.contains(line) && cause.text.ends_with(')'),
                "{}",
                cause.text
            );
        }
    }

    #[test]
    fn the_kernel_tells_an_oom_kill_from_one_by_hand() {
        assert_eq!(cause(KILL, &[], &[]).kind, CauseKind::Killed);
        let line = "Out of memory: Killed process 4711 (aluco-worker) total-vm:99kB";
        let by_kernel = cause(KILL, &[], &[line]);
        assert_eq!(by_kernel.kind, CauseKind::OutOfMemory);
        assert!(by_kernel.text.contains(line), "{}", by_kernel.text);
        let other = cause(KILL, &[], &[&line.replace("4711", "47110")]);
        assert_eq!(other.kind, CauseKind::Killed);
    }

    #[test]
    fn a_page_fault_of_another_program_is_not_the_workers() {
        let fault =
            "amdgpu 0000:bd:00.0: [gfxhub] page fault (src_id:0 ring:153 vmid:8 pasid:32770)";
        for (process, kind) in [
            ("", CauseKind::DeviceFault),
            (" (process aluco pid 4711)", CauseKind::DeviceFault),
            (" (process aluco-worker-vu pid 9)", CauseKind::DeviceFault),
            (" (process llama-cli pid 10890)", CauseKind::Assertion),
        ] {
            let line = format!("{fault}{process}");
            assert_eq!(cause(ABORT, &[], &[&line]).kind, kind, "{line}");
        }
    }

    #[test]
    fn hangs_of_the_gpu_are_read_from_the_kernels_log() {
        for (line, kind) in [
            (
                "amdgpu 0000:c5:00.0: amdgpu: ring gfx_0.0.0 timeout, signaled seq=12, emitted seq=14",
                CauseKind::DeviceLost,
            ),
            (
                "amdgpu 0000:c5:00.0: amdgpu: MES failed to respond to msg=REMOVE_QUEUE",
                CauseKind::DeviceLost,
            ),
            (
                "amdgpu 0000:bd:00.0: [gfxhub] page fault (src_id:0 ring:153 vmid:8 pasid:32770)",
                CauseKind::DeviceFault,
            ),
        ] {
            let found = cause(ABORT, &[], &["usb 1-1: new device", line]);
            assert_eq!(found.kind, kind, "{line}");
            assert!(!found.text.contains("usb"), "{}", found.text);
        }
    }

    #[test]
    fn only_what_comes_from_outside_is_external() {
        assert!(cause(KILL, &[], &[]).kind.is_external());
        assert!(!cause(ABORT, &[], &[]).kind.is_external());
        assert!(!cause(11, &[], &[]).kind.is_external());
        assert_eq!(cause(7 << 8, &[], &[]).kind, CauseKind::Exited);
    }
}
