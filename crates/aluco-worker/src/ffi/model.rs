//! A loaded model: weights, vocabulary, metadata.

use std::{
    ffi::{CString, c_char, c_void},
    path::Path,
    ptr::NonNull,
    sync::{Arc, OnceLock},
};

use aluco_proto::{Token, WeightLoading};
use llama_cpp_sys_4 as sys;

use super::{Engine, EngineError, backend::take_error_lines, guarded};

/// How to load weights.
#[derive(Debug, Clone)]
pub struct ModelOptions {
    /// Layers on the device; `None` for all.
    pub gpu_layers: Option<u32>,
    /// How the file is read.
    pub weight_loading: WeightLoading,
}

/// A loaded model. Clones share the weights, which are freed with the last one.
#[derive(Clone)]
pub struct Model {
    inner: Arc<Inner>,
}

struct Inner {
    model: NonNull<sys::llama_model>,
    vocab: NonNull<sys::llama_vocab>,
    vocabulary: u32,
    token_bytes_max: OnceLock<usize>,
}

// SAFETY: after loading, a llama_model is only read (llama.cpp's own server shares one between threads), and it is freed once, by
// the last owner.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: made by llama_model_load_from_file and freed only here; contexts hold an `Arc` of this.
        unsafe { sys::llama_model_free(self.model.as_ptr()) };
    }
}

impl Model {
    /// Loads a GGUF file (the first one if it is split). `progress` hears the share of weights read, 0 to 1, and returns false to
    /// give up.
    pub fn load(
        engine: Engine,
        path: &Path,
        options: &ModelOptions,
        progress: impl FnMut(f32) -> bool,
    ) -> Result<Self, EngineError> {
        Self::open(engine, path, options, false, progress)
    }

    /// Reads the header of a GGUF file and lays its tensors out without memory for them: all that can be done with such a model and
    /// its contexts is to ask what they would hold.
    pub fn outline(
        engine: Engine,
        path: &Path,
        options: &ModelOptions,
    ) -> Result<Self, EngineError> {
        Self::open(engine, path, options, true, |_| true)
    }

    fn open(
        _engine: Engine,
        path: &Path,
        options: &ModelOptions,
        is_outline: bool,
        mut progress: impl FnMut(f32) -> bool,
    ) -> Result<Self, EngineError> {
        let failed = |reason: String| EngineError::Load {
            path: path.display().to_string(),
            reason,
        };
        let c_path = CString::new(path.as_os_str().as_encoded_bytes())
            .map_err(|_| EngineError::NulByte("the path"))?;
        let _ = take_error_lines();
        let mut progress: &mut dyn FnMut(f32) -> bool = &mut progress;
        // SAFETY: the parameters are the library's defaults with plain values changed; `progress` lives until the call returns, and
        // its address is only used during the call, on this thread.
        let model = unsafe {
            let mut params = sys::llama_model_default_params();
            params.n_gpu_layers = options
                .gpu_layers
                .map_or(-1, |layers| layers.min(i32::MAX as u32) as i32);
            params.load_mode = match options.weight_loading {
                WeightLoading::Auto => sys::LLAMA_LOAD_MODE_AUTO,
                WeightLoading::Mmap => sys::LLAMA_LOAD_MODE_MMAP,
                WeightLoading::Read => sys::LLAMA_LOAD_MODE_NONE,
                WeightLoading::DirectIo => sys::LLAMA_LOAD_MODE_DIRECT_IO,
            };
            if is_outline {
                params.no_alloc = true;
                // A mapping would be an allocation, which llama.cpp checks by assertion.
                params.load_mode = sys::LLAMA_LOAD_MODE_NONE;
            }
            params.progress_callback = Some(on_progress);
            params.progress_callback_user_data = (&raw mut progress).cast();
            sys::llama_model_load_from_file(c_path.as_ptr(), params)
        };
        let model = NonNull::new(model).ok_or_else(|| failed(take_error_lines()))?;
        // SAFETY: the model was just made and is not null.
        let (vocab, vocabulary, decodes, encodes) = unsafe {
            let vocab = sys::llama_model_get_vocab(model.as_ptr());
            (
                NonNull::new(vocab.cast_mut()),
                sys::llama_vocab_n_tokens(vocab),
                sys::llama_model_has_decoder(model.as_ptr()),
                sys::llama_model_has_encoder(model.as_ptr()),
            )
        };
        let Some(vocab) = vocab else {
            // SAFETY: as in `Inner::drop`, which does not run here.
            unsafe { sys::llama_model_free(model.as_ptr()) };
            return Err(failed("it has no vocabulary".to_owned()));
        };
        let model = Self {
            inner: Arc::new(Inner {
                model,
                vocab,
                vocabulary: vocabulary.max(0) as u32,
                token_bytes_max: OnceLock::new(),
            }),
        };
        if !decodes || encodes {
            return Err(failed(
                "it is no decoder-only model, and Aluco generates with those".to_owned(),
            ));
        }
        Ok(model)
    }

    pub(super) fn as_ptr(&self) -> *mut sys::llama_model {
        self.inner.model.as_ptr()
    }

    fn vocab(&self) -> *const sys::llama_vocab {
        self.inner.vocab.as_ptr()
    }

    /// Size of the vocabulary; token ids are below it.
    pub fn vocabulary(&self) -> u32 {
        self.inner.vocabulary
    }

    /// Bytes of the longest token. Looks at all of them the first time.
    pub fn token_bytes_max(&self) -> usize {
        *self.inner.token_bytes_max.get_or_init(|| {
            let tokens = 0..self.vocabulary() as Token;
            let bytes = tokens.map(|token| self.token_bytes(token, true).len());
            bytes.max().unwrap_or(0)
        })
    }

    /// llama.cpp's one-line description, such as `llama 135M Q4_1`.
    pub fn description(&self) -> String {
        // SAFETY: the buffer is as long as said.
        Self::text(|buffer, bytes| unsafe { sys::llama_model_desc(self.as_ptr(), buffer, bytes) })
            .unwrap_or_default()
    }

    /// A scalar of the GGUF metadata as text.
    pub fn metadata(&self, key: &str) -> Option<String> {
        let key = CString::new(key).ok()?;
        // SAFETY: the key is terminated, the buffer is as long as said.
        Self::text(|buffer, bytes| unsafe {
            sys::llama_model_meta_val_str(self.as_ptr(), key.as_ptr(), buffer, bytes)
        })
    }

    /// Bytes of all tensors.
    pub fn weights_bytes(&self) -> u64 {
        // SAFETY: the model lives.
        unsafe { sys::llama_model_size(self.as_ptr()) }
    }

    /// Parameters.
    pub fn parameters(&self) -> u64 {
        // SAFETY: the model lives.
        unsafe { sys::llama_model_n_params(self.as_ptr()) }
    }

    /// Length that the model was trained for, in tokens.
    pub fn context_train_tokens(&self) -> u32 {
        // SAFETY: the model lives.
        unsafe { sys::llama_model_n_ctx_train(self.as_ptr()) }.max(0) as u32
    }

    /// True for recurrent and hybrid architectures, whose state cannot be cut at any token.
    pub fn is_recurrent(&self) -> bool {
        // SAFETY: the model lives.
        unsafe {
            sys::llama_model_is_recurrent(self.as_ptr())
                || sys::llama_model_is_hybrid(self.as_ptr())
        }
    }

    /// Length of its sliding windows, in tokens; 0 if attention sees everything.
    pub fn window_tokens(&self) -> u32 {
        // SAFETY: the model lives.
        unsafe { sys::llama_model_n_swa(self.as_ptr()) }.max(0) as u32
    }

    /// True if windows do not move with each token: they begin at multiples of their length.
    pub fn window_is_chunked(&self) -> bool {
        self.metadata("general.architecture").as_deref() == Some("llama4")
    }

    /// False for models whose memory ends the process when sequences are to share cells: nothing of it can even be tried.
    pub fn memory_can_be_shared(&self) -> bool {
        self.metadata("general.architecture").as_deref() != Some("deepseek4")
    }

    /// True if the file brings a chat template.
    pub fn has_chat_template(&self) -> bool {
        // SAFETY: the model lives; NULL asks for the default template.
        !unsafe { sys::llama_model_chat_template(self.as_ptr(), std::ptr::null()) }.is_null()
    }

    /// The token that begins a sequence, where the model wants one.
    pub fn begin_token(&self) -> Option<Token> {
        // SAFETY: the vocabulary lives as long as the model.
        unsafe {
            sys::llama_vocab_get_add_bos(self.vocab()).then(|| sys::llama_vocab_bos(self.vocab()))
        }
    }

    /// True if the model ends its answer with this token.
    pub fn is_end_of_generation(&self, token: Token) -> bool {
        // SAFETY: llama.cpp checks ids that are out of range by assertion, so they are kept out.
        self.knows(token) && unsafe { sys::llama_vocab_is_eog(self.vocab(), token) }
    }

    /// True if the token is a control token such as `<|im_start|>`.
    pub fn is_control(&self, token: Token) -> bool {
        // SAFETY: as above.
        self.knows(token) && unsafe { sys::llama_vocab_is_control(self.vocab(), token) }
    }

    /// True if the id is within the vocabulary.
    pub fn knows(&self, token: Token) -> bool {
        u32::try_from(token).is_ok_and(|token| token < self.inner.vocabulary)
    }

    /// Text to tokens. `add_special` adds BOS and its like where the model wants them, `parse_special` reads control tokens in the
    /// text as such.
    pub fn tokenize(
        &self,
        text: &str,
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<Token>, EngineError> {
        let length = i32::try_from(text.len()).map_err(|_| EngineError::Failed {
            call: "llama_tokenize",
            reason: "the text is over 2 GiB".to_owned(),
        })?;
        // No token is shorter than a byte, and a few may be added.
        let mut tokens: Vec<Token> = vec![0; text.len() + 8];
        let count = guarded("llama_tokenize", |message, message_bytes| {
            // SAFETY: text and buffer are as long as said, the vocabulary lives.
            unsafe {
                aluco_tokenize(
                    self.vocab(),
                    text.as_ptr().cast(),
                    length,
                    tokens.as_mut_ptr(),
                    tokens.len() as i32,
                    add_special,
                    parse_special,
                    message,
                    message_bytes,
                )
            }
        })?;
        let count = usize::try_from(count).map_err(|_| EngineError::Failed {
            call: "llama_tokenize",
            reason: format!("status {count}"),
        })?;
        tokens.truncate(count);
        Ok(tokens)
    }

    /// The bytes of one token, which need not be whole characters. Control tokens are empty unless `special`.
    ///
    /// # Panics
    /// If llama.cpp cannot spell a token of its own vocabulary.
    pub fn token_bytes(&self, token: Token, special: bool) -> Vec<u8> {
        if !self.knows(token) {
            return Vec::new();
        }
        let mut bytes = vec![0_u8; 64];
        loop {
            let length = guarded("llama_token_to_piece", |message, message_bytes| {
                // SAFETY: the buffer is as long as said, the id is within the vocabulary.
                unsafe {
                    aluco_token_to_piece(
                        self.vocab(),
                        token,
                        bytes.as_mut_ptr().cast(),
                        bytes.len() as i32,
                        special,
                        message,
                        message_bytes,
                    )
                }
            });
            // A token without its text would be a wrong answer; the supervisor makes an error of the panic.
            let length = length.unwrap_or_else(|error| panic!("token {token}: {error}"));
            if let Ok(length) = usize::try_from(length) {
                bytes.truncate(length);
                return bytes;
            }
            // A negative answer is the length needed.
            bytes.resize(length.unsigned_abs() as usize, 0);
        }
    }

    /// Tokens to text, control tokens spelled out; bytes that are not UTF-8 are replaced.
    pub fn detokenize(&self, tokens: &[Token]) -> Result<String, EngineError> {
        if let Some(token) = tokens.iter().find(|token| !self.knows(**token)) {
            return Err(EngineError::Failed {
                call: "llama_detokenize",
                reason: format!(
                    "token {token} is not in the vocabulary of {}",
                    self.inner.vocabulary
                ),
            });
        }
        let mut bytes = vec![0_u8; tokens.len() * 8 + 64];
        loop {
            let length = guarded("llama_detokenize", |message, message_bytes| {
                // SAFETY: both buffers are as long as said, the ids are within the vocabulary.
                unsafe {
                    aluco_detokenize(
                        self.vocab(),
                        tokens.as_ptr(),
                        tokens.len() as i32,
                        bytes.as_mut_ptr().cast(),
                        bytes.len() as i32,
                        message,
                        message_bytes,
                    )
                }
            })?;
            if let Ok(length) = usize::try_from(length) {
                bytes.truncate(length);
                return Ok(String::from_utf8_lossy(&bytes).into_owned());
            }
            bytes.resize(length.unsigned_abs() as usize, 0);
        }
    }

    /// Runs a llama.cpp call that writes a string, again with more room if it did not fit.
    fn text(call: impl Fn(*mut c_char, usize) -> i32) -> Option<String> {
        let mut buffer = vec![0_u8; 128];
        loop {
            let length = usize::try_from(call(buffer.as_mut_ptr().cast(), buffer.len())).ok()?;
            if length < buffer.len() {
                buffer.truncate(length);
                return Some(String::from_utf8_lossy(&buffer).into_owned());
            }
            buffer.resize(length + 1, 0);
        }
    }
}

unsafe extern "C" fn on_progress(progress: f32, user_data: *mut c_void) -> bool {
    // SAFETY: `Model::load` passes the address of this very type, which lives until loading ends.
    let callback = unsafe { &mut *user_data.cast::<&mut dyn FnMut(f32) -> bool>() };
    callback(progress)
}

unsafe extern "C" {
    fn aluco_tokenize(
        vocab: *const sys::llama_vocab,
        text: *const c_char,
        text_len: i32,
        tokens: *mut Token,
        n_tokens_max: i32,
        add_special: bool,
        parse_special: bool,
        message: *mut c_char,
        message_bytes: usize,
    ) -> i32;
    fn aluco_token_to_piece(
        vocab: *const sys::llama_vocab,
        token: Token,
        text: *mut c_char,
        text_len_max: i32,
        special: bool,
        message: *mut c_char,
        message_bytes: usize,
    ) -> i32;
    fn aluco_detokenize(
        vocab: *const sys::llama_vocab,
        tokens: *const Token,
        n_tokens: i32,
        text: *mut c_char,
        text_len_max: i32,
        message: *mut c_char,
        message_bytes: usize,
    ) -> i32;
}
