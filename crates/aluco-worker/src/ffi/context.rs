//! A context: KV cells, and the steps computed over them.

use std::{
    ffi::{CStr, c_char},
    ops::Range,
    ptr::NonNull,
};

use aluco_proto::{DeviceMemory, FlashAttention, KvType, Token};
use llama_cpp_sys_4 as sys;

use super::{EngineError, Model, backend::take_error_lines, guarded};

/// Names a sequence within a context, from 0 to `sequences_max` - 1.
pub type SequenceId = i32;

/// What a context is made for.
#[derive(Debug, Clone)]
pub struct ContextOptions {
    /// KV cells, shared by all sequences.
    pub context_tokens: u32,
    /// Sequences.
    pub sequences_max: u32,
    /// Most tokens in one call of [`Context::decode`].
    pub batch_tokens: u32,
    /// Most tokens in one device step.
    pub micro_batch_tokens: u32,
    /// Threads of the CPU backend.
    pub threads: u32,
    /// Element type of the K cache.
    pub kv_type_k: KvType,
    /// Element type of the V cache.
    pub kv_type_v: KvType,
    /// Fused attention.
    pub flash_attention: FlashAttention,
}

/// Tokens for one step: which token, where in which sequence, and whether its logits are wanted.
#[derive(Debug, Default)]
pub struct Batch {
    tokens: Vec<Token>,
    positions: Vec<i32>,
    sequences: Vec<SequenceId>,
    logits: Vec<i8>,
}

/// A part of what a sequence is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatePart {
    /// All of it.
    Whole,
    /// What cannot be cut: the cells of sliding windows, recurrent state.
    Undivided,
}

impl StatePart {
    fn flags(self) -> u32 {
        match self {
            Self::Whole => sys::LLAMA_STATE_SEQ_FLAGS_NONE,
            Self::Undivided => sys::LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY,
        }
    }
}

/// How a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decoded {
    /// The batch is computed.
    Done,
    /// There are not enough free KV cells (or not contiguous as the backend needs them); nothing changed.
    NoCells,
}

/// KV cells of one model and the means to compute over them. Belongs to one thread at a time.
pub struct Context {
    raw: NonNull<sys::llama_context>,
    // After `raw`, so that the weights outlive it.
    model: Model,
    sequences_max: u32,
    scratch: Option<SequenceId>,
    rows: i32,
}

// SAFETY: a llama_context has no thread affinity; `&mut self` on every call that changes it keeps it to one thread at a time.
unsafe impl Send for Context {}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: made by llama_init_from_model and freed only here.
        unsafe { sys::llama_free(self.raw.as_ptr()) };
    }
}

impl Batch {
    /// Adds a token; returns its row, by which its logits can be had if `logits`.
    pub fn push(
        &mut self,
        token: Token,
        position: u32,
        sequence: SequenceId,
        logits: bool,
    ) -> usize {
        self.tokens.push(token);
        self.positions.push(position as i32);
        self.sequences.push(sequence);
        self.logits.push(i8::from(logits));
        self.tokens.len() - 1
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.sequences.clear();
        self.logits.clear();
    }

    /// Tokens in the batch.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// True if there is nothing to compute.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }
}

impl Context {
    /// Changes how many threads of the CPU backend compute from the next step on.
    pub fn set_threads(&mut self, threads: u32) {
        let threads = threads.max(1) as i32;
        // SAFETY: the context is alive, and `&mut self` rules out a step that runs.
        unsafe { sys::llama_set_n_threads(self.raw.as_ptr(), threads, threads) }
    }

    /// Makes a context with one pool of cells for all sequences.
    pub fn new(model: &Model, options: &ContextOptions) -> Result<Self, EngineError> {
        let _ = take_error_lines();
        let scratch = model
            .memory_can_be_shared()
            .then_some(options.sequences_max as SequenceId);
        // SAFETY: the library's defaults with plain values changed; the model is kept alive by the clone below.
        let context = unsafe {
            let mut params = sys::llama_context_default_params();
            params.n_ctx = options.context_tokens;
            params.n_batch = options.batch_tokens;
            params.n_ubatch = options.micro_batch_tokens.min(options.batch_tokens);
            // One more for what is taken out and put in, where that is possible.
            params.n_seq_max = options.sequences_max + u32::from(scratch.is_some());
            params.n_threads = options.threads.max(1) as i32;
            params.n_threads_batch = options.threads.max(1) as i32;
            params.flash_attn_type = match options.flash_attention {
                FlashAttention::Auto => sys::LLAMA_FLASH_ATTN_TYPE_AUTO,
                FlashAttention::On => sys::LLAMA_FLASH_ATTN_TYPE_ENABLED,
                FlashAttention::Off => sys::LLAMA_FLASH_ATTN_TYPE_DISABLED,
            };
            params.type_k = ggml_type(options.kv_type_k);
            params.type_v = ggml_type(options.kv_type_v);
            // One pool of cells: a sequence may use them all, and sequences can share a prefix.
            params.kv_unified = true;
            // Sliding windows stay at their true size; nothing here rewinds a sequence.
            params.swa_full = false;
            params.no_perf = true;
            sys::llama_init_from_model(model.as_ptr(), params)
        };
        let context = NonNull::new(context).ok_or_else(|| EngineError::Context {
            context_tokens: options.context_tokens,
            reason: take_error_lines(),
        })?;
        Ok(Self {
            raw: context,
            model: model.clone(),
            sequences_max: options.sequences_max,
            scratch,
            rows: 0,
        })
    }

    /// The model it computes with.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// KV cells, which llama.cpp may have rounded up.
    pub fn context_tokens(&self) -> u32 {
        // SAFETY: the context lives.
        unsafe { sys::llama_n_ctx(self.raw.as_ptr()) }
    }

    /// Most tokens in one call of [`Self::decode`].
    pub fn batch_tokens(&self) -> u32 {
        // SAFETY: the context lives.
        unsafe { sys::llama_n_batch(self.raw.as_ptr()) }
    }

    /// Most tokens in one device step.
    pub fn micro_batch_tokens(&self) -> u32 {
        // SAFETY: the context lives.
        unsafe { sys::llama_n_ubatch(self.raw.as_ptr()) }
    }

    /// Sequences that it has room for.
    pub fn sequences_max(&self) -> u32 {
        self.sequences_max
    }

    /// Computes a batch and waits for it. Its logits are there until the next call.
    ///
    /// # Panics
    /// If the batch is larger than [`Self::batch_tokens`], or names a token or sequence that does not exist: llama.cpp would end
    /// the process over it.
    pub fn decode(&mut self, batch: &mut Batch) -> Result<Decoded, EngineError> {
        assert!(
            batch.len() <= self.batch_tokens() as usize,
            "batch over the limit"
        );
        assert!(
            batch.tokens.iter().all(|token| self.model.knows(*token)),
            "token outside the vocabulary"
        );
        assert!(
            batch
                .sequences
                .iter()
                .all(|sequence| (0..self.sequences_max as i32).contains(sequence)),
            "sequence out of range"
        );
        let mut counts = vec![1_i32; batch.len()];
        let mut sequences: Vec<*mut SequenceId> =
            batch.sequences.iter_mut().map(std::ptr::from_mut).collect();
        let raw = sys::llama_batch {
            n_tokens: batch.len() as i32,
            token: batch.tokens.as_mut_ptr(),
            embd: std::ptr::null_mut(),
            pos: batch.positions.as_mut_ptr(),
            n_seq_id: counts.as_mut_ptr(),
            seq_id: sequences.as_mut_ptr(),
            logits: batch.logits.as_mut_ptr(),
        };
        let status = guarded("llama_decode", |message, message_bytes| {
            // SAFETY: every array of the batch has n_tokens entries and lives until the call returns.
            unsafe { aluco_decode(self.raw.as_ptr(), &raw const raw, message, message_bytes) }
        })?;
        match status {
            0 => {
                self.rows = batch.len() as i32;
                Ok(Decoded::Done)
            }
            1 => Ok(Decoded::NoCells),
            status => Err(EngineError::Failed {
                call: "llama_decode",
                reason: format!("status {status}; {}", take_error_lines()),
            }),
        }
    }

    /// The logits of a row of the last batch, one per token of the vocabulary. The row must have been pushed with `logits`.
    pub fn logits(&mut self, row: usize) -> Result<&[f32], EngineError> {
        let failed = |reason: &str| EngineError::Failed {
            call: "llama_get_logits_ith",
            reason: reason.to_owned(),
        };
        let row = i32::try_from(row)
            .ok()
            .filter(|row| *row < self.rows)
            .ok_or_else(|| failed("no such row"))?;
        let mut logits = std::ptr::null_mut();
        let status = guarded("llama_get_logits_ith", |message, message_bytes| {
            // SAFETY: the row is within the last batch; a row without logits gives a NULL.
            unsafe {
                aluco_logits(
                    self.raw.as_ptr(),
                    row,
                    &raw mut logits,
                    message,
                    message_bytes,
                )
            }
        })?;
        if status != 0 {
            return Err(failed("this row has no logits"));
        }
        // SAFETY: llama.cpp keeps one float per vocabulary entry at this address until the next decode, which needs `&mut self`.
        Ok(unsafe { std::slice::from_raw_parts(logits, self.model.vocabulary() as usize) })
    }

    fn memory(&self) -> sys::llama_memory_t {
        // SAFETY: the context lives.
        unsafe { sys::llama_get_memory(self.raw.as_ptr()) }
    }

    /// Makes `to` a second name for all cells of `from`; `to` must be empty. Attention cells are shared, recurrent state is copied at
    /// the next step.
    pub fn share_sequence(&mut self, from: SequenceId, to: SequenceId) -> Result<(), EngineError> {
        self.copy_cells(from, to, -1, -1)
    }

    /// Makes `to` a second name for the attention cells of `from` at these positions, and for its state of other kinds as it is.
    pub fn share_positions(
        &mut self,
        from: SequenceId,
        to: SequenceId,
        positions: Range<u32>,
    ) -> Result<(), EngineError> {
        self.copy_cells(from, to, positions.start as i32, positions.end as i32)
    }

    fn copy_cells(
        &mut self,
        from: SequenceId,
        to: SequenceId,
        begin: i32,
        end: i32,
    ) -> Result<(), EngineError> {
        guarded("llama_memory_seq_cp", |message, message_bytes| {
            // SAFETY: the context lives and the pool is unified, which this call needs.
            unsafe { aluco_seq_cp(self.memory(), from, to, begin, end, message, message_bytes) }
        })
        .map(|_| ())
    }

    /// The sequence that is nobody's: for taking cells out and putting them in. `None` if that would end the process.
    pub fn scratch(&self) -> Option<SequenceId> {
        self.scratch
    }

    /// This part of what a sequence is, for [`Self::import`] of a context with the same model and options.
    pub fn export(
        &mut self,
        sequence: SequenceId,
        part: StatePart,
    ) -> Result<Vec<u8>, EngineError> {
        let flags = part.flags();
        let mut bytes = 0;
        guarded("llama_state_seq_get_size", |message, message_bytes| {
            // SAFETY: the context lives.
            unsafe {
                aluco_seq_size(
                    self.raw.as_ptr(),
                    sequence,
                    flags,
                    &raw mut bytes,
                    message,
                    message_bytes,
                )
            }
        })?;
        let mut data = vec![0_u8; bytes];
        let mut written = 0;
        guarded("llama_state_seq_get_data", |message, message_bytes| {
            // SAFETY: the buffer is as long as said.
            unsafe {
                aluco_seq_export(
                    self.raw.as_ptr(),
                    sequence,
                    flags,
                    data.as_mut_ptr(),
                    data.len(),
                    &raw mut written,
                    message,
                    message_bytes,
                )
            }
        })?;
        if written == 0 || written > data.len() {
            return Err(EngineError::Failed {
                call: "llama_state_seq_get_data",
                reason: format!("{written} of {} bytes", data.len()),
            });
        }
        data.truncate(written);
        Ok(data)
    }

    /// Replaces this part of a sequence by what was exported. Fails if there are no free cells.
    pub fn import(
        &mut self,
        sequence: SequenceId,
        part: StatePart,
        data: &[u8],
    ) -> Result<(), EngineError> {
        let status = guarded("llama_state_seq_set_data", |message, message_bytes| {
            // SAFETY: the data is as long as said, and llama.cpp checks what it reads against its own context.
            unsafe {
                aluco_seq_import(
                    self.raw.as_ptr(),
                    sequence,
                    part.flags(),
                    data.as_ptr(),
                    data.len(),
                    message,
                    message_bytes,
                )
            }
        })?;
        if status == 0 {
            Ok(())
        } else {
            Err(EngineError::Failed {
                call: "llama_state_seq_set_data",
                reason: take_error_lines(),
            })
        }
    }

    /// Frees all cells of a sequence that no other shares.
    pub fn remove_sequence(&mut self, sequence: SequenceId) -> Result<(), EngineError> {
        self.remove_cells(sequence, -1, "a whole sequence could not be removed")
    }

    /// Frees the cells of a sequence from this position on. Only where memory can be cut at any token: a window would be silently wrong
    /// afterwards, recurrent state refuses.
    pub fn truncate_sequence(
        &mut self,
        sequence: SequenceId,
        begin: u32,
    ) -> Result<(), EngineError> {
        let refused = "the end of a sequence could not be removed";
        self.remove_cells(sequence, begin as i32, refused)
    }

    fn remove_cells(
        &mut self,
        sequence: SequenceId,
        begin: i32,
        refused: &str,
    ) -> Result<(), EngineError> {
        let status = guarded("llama_memory_seq_rm", |message, message_bytes| {
            // SAFETY: the context lives; the whole of a sequence can be removed in every memory class, and what cannot is refused.
            unsafe { aluco_seq_rm(self.memory(), sequence, begin, message, message_bytes) }
        })?;
        if status == 0 {
            return Ok(());
        }
        Err(EngineError::Failed {
            call: "llama_memory_seq_rm",
            reason: refused.to_owned(),
        })
    }

    /// Empties all sequences.
    pub fn clear(&mut self) {
        // SAFETY: the context lives.
        unsafe { sys::llama_memory_clear(self.memory(), false) };
    }

    /// The first position of a sequence; `None` if it is empty. With a window or recurrent state this is the first that is still there.
    pub fn first_position(&self, sequence: SequenceId) -> Option<u32> {
        // SAFETY: the context lives.
        u32::try_from(unsafe { sys::llama_memory_seq_pos_min(self.memory(), sequence) }).ok()
    }

    /// The last position of a sequence; `None` if it is empty.
    pub fn last_position(&self, sequence: SequenceId) -> Option<u32> {
        // SAFETY: the context lives.
        u32::try_from(unsafe { sys::llama_memory_seq_pos_max(self.memory(), sequence) }).ok()
    }

    /// What the context and its model hold, by buffer type, as llama.cpp accounts for it.
    pub fn memory_breakdown(&self) -> Vec<DeviceMemory> {
        const ENTRIES_MAX: usize = 64;
        let mut entries = [sys::llama_memory_breakdown_entry {
            buft_name: [0; 128],
            model: 0,
            context: 0,
            compute: 0,
        }; ENTRIES_MAX];
        // SAFETY: the buffer has as many entries as said.
        let count = unsafe {
            sys::llama_memory_breakdown_collect(
                self.raw.as_ptr(),
                entries.as_mut_ptr(),
                ENTRIES_MAX,
            )
        };
        entries[..count.min(ENTRIES_MAX)]
            .iter()
            .map(|entry| DeviceMemory {
                // SAFETY: the shim terminates the name within its array.
                device: unsafe { CStr::from_ptr(entry.buft_name.as_ptr()) }
                    .to_string_lossy()
                    .into_owned(),
                weights_bytes: entry.model as u64,
                context_bytes: entry.context as u64,
                compute_bytes: entry.compute as u64,
                ..DeviceMemory::default()
            })
            .collect()
    }
}

fn ggml_type(kv_type: KvType) -> sys::ggml_type {
    match kv_type {
        KvType::F32 => sys::GGML_TYPE_F32,
        KvType::F16 => sys::GGML_TYPE_F16,
        KvType::Bf16 => sys::GGML_TYPE_BF16,
        KvType::Q8_0 => sys::GGML_TYPE_Q8_0,
        KvType::Q5_1 => sys::GGML_TYPE_Q5_1,
        KvType::Q5_0 => sys::GGML_TYPE_Q5_0,
        KvType::Q4_1 => sys::GGML_TYPE_Q4_1,
        KvType::Q4_0 => sys::GGML_TYPE_Q4_0,
    }
}

unsafe extern "C" {
    fn aluco_decode(
        context: *mut sys::llama_context,
        batch: *const sys::llama_batch,
        message: *mut c_char,
        message_bytes: usize,
    ) -> i32;
    fn aluco_logits(
        context: *mut sys::llama_context,
        row: i32,
        logits: *mut *mut f32,
        message: *mut c_char,
        message_bytes: usize,
    ) -> i32;
    fn aluco_seq_size(
        context: *mut sys::llama_context,
        sequence: SequenceId,
        flags: u32,
        bytes: *mut usize,
        message: *mut c_char,
        message_bytes: usize,
    ) -> i32;
    fn aluco_seq_export(
        context: *mut sys::llama_context,
        sequence: SequenceId,
        flags: u32,
        data: *mut u8,
        bytes: usize,
        written: *mut usize,
        message: *mut c_char,
        message_bytes: usize,
    ) -> i32;
    fn aluco_seq_import(
        context: *mut sys::llama_context,
        sequence: SequenceId,
        flags: u32,
        data: *const u8,
        bytes: usize,
        message: *mut c_char,
        message_bytes: usize,
    ) -> i32;
    fn aluco_seq_cp(
        memory: sys::llama_memory_t,
        from: SequenceId,
        to: SequenceId,
        begin: i32,
        end: i32,
        message: *mut c_char,
        message_bytes: usize,
    ) -> i32;
    fn aluco_seq_rm(
        memory: sys::llama_memory_t,
        sequence: SequenceId,
        begin: i32,
        message: *mut c_char,
        message_bytes: usize,
    ) -> i32;
}
