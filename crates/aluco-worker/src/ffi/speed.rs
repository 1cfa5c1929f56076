//! How fast the devices themselves are, without any model: copies and one matrix product, through ggml alone.

use std::{
    ptr::{self, NonNull},
    time::{Duration, Instant},
};

use super::{Engine, EngineError, copied};
use aluco_proto::DeviceSpeed;
use llama_cpp_sys_4 as sys;

/// Bytes of the arrays that are copied: more than the caches hold, little enough for any device.
const COPY_BYTES: usize = 256 << 20;

/// Sides of the matrix product: that of prefill in a model of some 8B parameters, with the micro-batch of 512 tokens.
const ROWS: i64 = 4096;
const INNER: i64 = 4096;
const COLUMNS: i64 = 512;

/// Each figure is taken over at least this long, after one round that does not count.
const TIME_MIN: Duration = Duration::from_millis(400);

impl Engine {
    /// Measures every device with `threads` on the CPU's; about two seconds each.
    ///
    /// # Errors
    /// [`EngineError::Failed`] if a device cannot be opened, has no room, or fails to compute.
    pub fn device_speeds(self, threads: i32) -> Result<Vec<DeviceSpeed>, EngineError> {
        // SAFETY: the device list is fixed after the start, of which `self` is the proof; indices are within its count.
        let devices = unsafe {
            (0..sys::ggml_backend_dev_count())
                .map(|index| sys::ggml_backend_dev_get(index))
                .filter(|device| {
                    sys::ggml_backend_dev_type(*device) != sys::GGML_BACKEND_DEVICE_TYPE_ACCEL
                })
                .collect::<Vec<_>>()
        };
        devices
            .into_iter()
            .map(|device| measure(device, threads))
            .collect()
    }
}

fn measure(device: sys::ggml_backend_dev_t, threads: i32) -> Result<DeviceSpeed, EngineError> {
    let backend = Backend::open(device, threads)?;
    let copies = Work::new(&backend, |context| {
        let elements = (COPY_BYTES / size_of::<f32>()) as i64;
        // SAFETY: the context is that of the work, which outlives its tensors; it has room for them by `Work::new`.
        unsafe {
            let from = sys::ggml_new_tensor_1d(context, sys::GGML_TYPE_F32, elements);
            let to = sys::ggml_new_tensor_1d(context, sys::GGML_TYPE_F32, elements);
            (from, sys::ggml_cpy(context, from, to))
        }
    })?;
    let mut bytes = vec![1_u8; COPY_BYTES];
    let upload = per_second(COPY_BYTES, || {
        copies.set(&bytes);
        Ok(())
    })?;
    let download = per_second(COPY_BYTES, || {
        copies.get(&mut bytes);
        Ok(())
    })?;
    drop(bytes);
    let copy = per_second(2 * COPY_BYTES, || copies.compute())?;
    drop(copies);

    let product = Work::new(&backend, |context| {
        // SAFETY: as above.
        unsafe {
            let weights = sys::ggml_new_tensor_2d(context, sys::GGML_TYPE_F16, INNER, ROWS);
            let inputs = sys::ggml_new_tensor_2d(context, sys::GGML_TYPE_F32, INNER, COLUMNS);
            (weights, sys::ggml_mul_mat(context, weights, inputs))
        }
    })?;
    let operations = 2 * usize::try_from(ROWS * INNER * COLUMNS).unwrap_or(0);
    let matrix = per_second(operations, || product.compute())?;
    // SAFETY: the device lives as long as the process; its names are terminated strings.
    let (name, description) = unsafe {
        (
            copied(sys::ggml_backend_dev_name(device)),
            copied(sys::ggml_backend_dev_description(device)),
        )
    };
    Ok(DeviceSpeed {
        device: name,
        description: description.trim().to_owned(),
        upload,
        download,
        copy,
        matrix,
    })
}

/// Units per second of a job that does `units` at each call.
fn per_second(
    units: usize,
    mut job: impl FnMut() -> Result<(), EngineError>,
) -> Result<f64, EngineError> {
    job()?;
    let start = Instant::now();
    let mut rounds = 0_u32;
    while rounds == 0 || start.elapsed() < TIME_MIN {
        job()?;
        rounds += 1;
    }
    Ok(units as f64 * f64::from(rounds) / start.elapsed().as_secs_f64())
}

fn failed(call: &'static str, reason: &str) -> EngineError {
    EngineError::Failed {
        call,
        reason: reason.to_owned(),
    }
}

/// An open device.
struct Backend(sys::ggml_backend_t);

impl Backend {
    fn open(device: sys::ggml_backend_dev_t, threads: i32) -> Result<Self, EngineError> {
        // SAFETY: the device comes from ggml's list; a NULL parameter string is allowed.
        let backend = unsafe { sys::ggml_backend_dev_init(device, ptr::null()) };
        if backend.is_null() {
            return Err(failed(
                "ggml_backend_dev_init",
                "the device cannot be opened",
            ));
        }
        // SAFETY: the backend was just made; the number of threads is only set where it is the CPU's.
        unsafe {
            if sys::ggml_backend_is_cpu(backend) {
                sys::ggml_backend_cpu_set_n_threads(backend, threads.max(1));
            }
        }
        Ok(Self(backend))
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // SAFETY: made by `open`, freed once.
        unsafe { sys::ggml_backend_free(self.0) }
    }
}

/// One operation of a device and the tensors it works on.
struct Work<'a> {
    backend: &'a Backend,
    context: NonNull<sys::ggml_context>,
    buffer: sys::ggml_backend_buffer_t,
    first: *mut sys::ggml_tensor,
    graph: *mut sys::ggml_cgraph,
}

impl<'a> Work<'a> {
    /// `build` makes at most eight tensors in the context and gives back the one to fill and the one to compute.
    fn new(
        backend: &'a Backend,
        build: impl FnOnce(*mut sys::ggml_context) -> (*mut sys::ggml_tensor, *mut sys::ggml_tensor),
    ) -> Result<Self, EngineError> {
        // SAFETY: a context without memory of its own for data, with room for eight tensors and a graph; the buffer belongs to the
        // backend, which outlives this by its lifetime.
        unsafe {
            let parameters = sys::ggml_init_params {
                mem_size: 8 * sys::ggml_tensor_overhead() + sys::ggml_graph_overhead(),
                mem_buffer: ptr::null_mut(),
                no_alloc: true,
            };
            let context = NonNull::new(sys::ggml_init(parameters))
                .ok_or_else(|| failed("ggml_init", "no memory"))?;
            let (first, last) = build(context.as_ptr());
            let graph = sys::ggml_new_graph(context.as_ptr());
            sys::ggml_build_forward_expand(graph, last);
            let buffer = sys::ggml_backend_alloc_ctx_tensors(context.as_ptr(), backend.0);
            if buffer.is_null() {
                sys::ggml_free(context.as_ptr());
                return Err(failed(
                    "ggml_backend_alloc_ctx_tensors",
                    "the device has no room",
                ));
            }
            // What is computed with must be numbers: zeros are.
            sys::ggml_backend_buffer_clear(buffer, 0);
            Ok(Self {
                backend,
                context,
                buffer,
                first,
                graph,
            })
        }
    }

    fn set(&self, bytes: &[u8]) {
        // SAFETY: the tensor is allocated and as long as the slice, by the assertion.
        unsafe {
            assert_eq!(sys::ggml_nbytes(self.first), bytes.len());
            sys::ggml_backend_tensor_set(self.first, bytes.as_ptr().cast(), 0, bytes.len());
        }
    }

    fn get(&self, bytes: &mut [u8]) {
        // SAFETY: as in `set`.
        unsafe {
            assert_eq!(sys::ggml_nbytes(self.first), bytes.len());
            sys::ggml_backend_tensor_get(self.first, bytes.as_mut_ptr().cast(), 0, bytes.len());
        }
    }

    /// Computes and waits for the end.
    fn compute(&self) -> Result<(), EngineError> {
        // SAFETY: graph and tensors are allocated on this backend.
        let status = unsafe { sys::ggml_backend_graph_compute(self.backend.0, self.graph) };
        if status == sys::GGML_STATUS_SUCCESS {
            Ok(())
        } else {
            Err(failed(
                "ggml_backend_graph_compute",
                &format!("status {status}"),
            ))
        }
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        // SAFETY: both were made by `new` and are freed once; nothing computes any more, since `compute` waits.
        unsafe {
            sys::ggml_backend_buffer_free(self.buffer);
            sys::ggml_free(self.context.as_ptr());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_copies_and_multiplies() {
        let speeds = Engine::start().device_speeds(2).unwrap();
        let cpu = speeds.iter().find(|speed| speed.device == "CPU").unwrap();
        for figure in [cpu.upload, cpu.download, cpu.copy, cpu.matrix] {
            assert!(figure.is_finite() && figure > 1e7, "{cpu:?}");
        }
    }
}
