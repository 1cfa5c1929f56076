//! llama.cpp as a whole: start, log, devices, build.

use std::{
    ffi::{CStr, c_char, c_void},
    sync::{Mutex, OnceLock},
};

use llama_cpp_sys_4 as sys;

use super::copied;

/// Proof that llama.cpp is initialised. Models can only be loaded with one in hand.
#[derive(Debug, Clone, Copy)]
pub struct Engine(());

/// Where this llama.cpp comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineBuild {
    /// Number of commits, as in the tag `b12032`; 0 if the sources did not say.
    pub number: i32,
    /// Commit, `unknown` if the sources did not say.
    pub commit: String,
    /// Version of the library, such as `0.8.0-dev`.
    pub version: String,
}

/// A device that ggml found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// ggml's name, such as `CPU` or `Vulkan0`.
    pub name: String,
    /// What the device calls itself.
    pub description: String,
    /// Which ggml backend drives it, such as `CPU` or `Vulkan`.
    pub backend: String,
    /// True for a GPU, integrated or not.
    pub is_gpu: bool,
    /// Free bytes, as the driver tells.
    pub free_bytes: u64,
    /// Bytes in all, as the driver tells.
    pub total_bytes: u64,
}

/// What the CPU code of this build needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuBuild {
    /// Features that ggml was compiled with, in ggml's spelling.
    pub features: Vec<&'static str>,
}

impl Engine {
    /// Starts llama.cpp once per process and sends its log to `tracing` (target `llama.cpp`).
    pub fn start() -> Self {
        static STARTED: OnceLock<()> = OnceLock::new();
        STARTED.get_or_init(|| {
            // SAFETY: called once, before any other call; the callback needs no user data.
            unsafe {
                assert_eq!(
                    aluco_guard_batch_bytes(),
                    size_of::<sys::llama_batch>(),
                    "guard.cpp has another llama_batch than the bindings"
                );
                assert_eq!(aluco_early_cpu_check_is_linked(), 1);
                sys::llama_log_set(Some(on_log), std::ptr::null_mut());
                sys::ggml_set_abort_callback(Some(on_abort));
                // The `common` library has a log of its own, which writes to stderr; what it says of chat templates is of no use there.
                sys::common_shim_log_pause();
                sys::llama_backend_init();
            }
        });
        Self(())
    }

    /// Where this llama.cpp comes from.
    pub fn build(self) -> EngineBuild {
        // SAFETY: constants of the library.
        unsafe {
            EngineBuild {
                number: aluco_build_number(),
                commit: copied(aluco_build_commit()),
                version: copied(sys::llama_version()),
            }
        }
    }

    /// Every device that ggml found, the CPU included.
    pub fn devices(self) -> Vec<Device> {
        // SAFETY: the device list is fixed after the start; the indices are within its count.
        unsafe {
            (0..sys::ggml_backend_dev_count())
                .map(|index| {
                    let device = sys::ggml_backend_dev_get(index);
                    let (mut free, mut total) = (0, 0);
                    sys::ggml_backend_dev_memory(device, &raw mut free, &raw mut total);
                    let kind = sys::ggml_backend_dev_type(device);
                    Device {
                        name: copied(sys::ggml_backend_dev_name(device)),
                        description: copied(sys::ggml_backend_dev_description(device))
                            .trim()
                            .to_owned(),
                        backend: copied(sys::ggml_backend_reg_name(
                            sys::ggml_backend_dev_backend_reg(device),
                        )),
                        is_gpu: kind == sys::GGML_BACKEND_DEVICE_TYPE_GPU
                            || kind == sys::GGML_BACKEND_DEVICE_TYPE_IGPU,
                        free_bytes: free as u64,
                        total_bytes: total as u64,
                    }
                })
                .collect()
        }
    }
}

impl CpuBuild {
    /// What ggml's CPU code was compiled for. Needs no started engine, so that it can be asked before any such code runs.
    pub fn compiled() -> Self {
        // SAFETY: these functions return constants that were fixed when ggml was compiled.
        let features = unsafe {
            [
                ("SSE3", sys::ggml_cpu_has_sse3()),
                ("SSSE3", sys::ggml_cpu_has_ssse3()),
                ("AVX", sys::ggml_cpu_has_avx()),
                ("AVX2", sys::ggml_cpu_has_avx2()),
                ("FMA", sys::ggml_cpu_has_fma()),
                ("F16C", sys::ggml_cpu_has_f16c()),
                ("BMI2", sys::ggml_cpu_has_bmi2()),
                ("AVX_VNNI", sys::ggml_cpu_has_avx_vnni()),
                ("AVX512", sys::ggml_cpu_has_avx512()),
                ("AVX512_VBMI", sys::ggml_cpu_has_avx512_vbmi()),
                ("AVX512_VNNI", sys::ggml_cpu_has_avx512_vnni()),
                ("AVX512_BF16", sys::ggml_cpu_has_avx512_bf16()),
                ("AMX_INT8", sys::ggml_cpu_has_amx_int8()),
                ("NEON", sys::ggml_cpu_has_neon()),
                ("ARM_FMA", sys::ggml_cpu_has_arm_fma()),
                ("FP16_VA", sys::ggml_cpu_has_fp16_va()),
                ("DOTPROD", sys::ggml_cpu_has_dotprod()),
                ("MATMUL_INT8", sys::ggml_cpu_has_matmul_int8()),
                ("SVE", sys::ggml_cpu_has_sve()),
            ]
        };
        Self {
            features: features
                .iter()
                .filter(|(_, has)| *has != 0)
                .map(|(name, _)| *name)
                .collect(),
        }
    }
}

/// Error lines that llama.cpp logged, kept so that a failed load can say why.
static ERROR_LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());
const ERROR_LINES_MAX: usize = 8;

/// Takes the error lines logged since the last call, in one line of text.
pub(super) fn take_error_lines() -> String {
    let lines = std::mem::take(
        &mut *ERROR_LINES
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner),
    );
    if lines.is_empty() {
        "it gave no reason".to_owned()
    } else {
        lines.join("; ")
    }
}

/// llama.cpp logs in pieces; a line is complete at its newline.
struct PartialLine {
    level: sys::ggml_log_level,
    text: String,
}

unsafe extern "C" fn on_log(level: sys::ggml_log_level, text: *const c_char, _: *mut c_void) {
    static PARTIAL: Mutex<PartialLine> = Mutex::new(PartialLine {
        level: sys::GGML_LOG_LEVEL_INFO,
        text: String::new(),
    });
    if text.is_null() {
        return;
    }
    // SAFETY: llama.cpp passes a terminated string that lives during the call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let mut partial = PARTIAL
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if level != sys::GGML_LOG_LEVEL_CONT {
        partial.level = level;
    }
    partial.text.push_str(&text);
    while let Some(end) = partial.text.find('\n') {
        let line: String = partial.text.drain(..=end).collect();
        emit(partial.level, line.trim_end());
    }
}

fn emit(level: sys::ggml_log_level, line: &str) {
    // Progress dots and blank separators are no messages.
    if line.trim_matches('.').trim().is_empty() {
        return;
    }
    match level {
        sys::GGML_LOG_LEVEL_ERROR => {
            let mut lines = ERROR_LINES
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            if lines.len() < ERROR_LINES_MAX {
                lines.push(line.to_owned());
            }
            drop(lines);
            tracing::error!(target: "llama.cpp", "{line}");
        }
        sys::GGML_LOG_LEVEL_WARN => tracing::warn!(target: "llama.cpp", "{line}"),
        // llama.cpp's "info" is a page of detail per load: debug by our measure.
        sys::GGML_LOG_LEVEL_INFO => tracing::debug!(target: "llama.cpp", "{line}"),
        _ => tracing::trace!(target: "llama.cpp", "{line}"),
    }
}

unsafe extern "C" fn on_abort(message: *const c_char) {
    // SAFETY: ggml passes a terminated string that lives during the call. The process ends right after it, so the message goes
    // to stderr, where the supervisor keeps the last lines for the cause of death.
    eprintln!("ggml aborted: {}", unsafe { copied(message) });
}

unsafe extern "C" {
    fn aluco_guard_batch_bytes() -> usize;
    fn aluco_early_cpu_check_is_linked() -> i32;
    fn aluco_build_number() -> i32;
    fn aluco_build_commit() -> *const c_char;
}

/// Buffers from this size on, in bytes, are mapped for themselves: cells, compute buffers and stored prompts of all but toy models. A list over
/// the largest vocabularies (262,144 tokens of 12 bytes) stays below it, as it may come and go with each token.
const MAPPED_BUFFER_BYTES: i32 = 4 << 20;

/// Has large buffers go back to the system when they are freed. By itself glibc raises the size from which it maps a buffer for itself to that of
/// the largest one freed, up to 32 MiB: what a model or the prefix store gave up would then stay with the process, in one heap per thread. Call it
/// before other threads run.
pub fn map_large_buffers() {
    // SAFETY: it takes two numbers, and no other thread allocates yet.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BUFFER_BYTES);
    }
}

/// Gives memory that was freed back to the system, as far as the C library keeps it for later. Takes milliseconds.
pub fn give_back_freed_memory() {
    // SAFETY: it may be called at any time and from any thread.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
