//! What the supervisor asks of a worker.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{
    BenchSpec, ChatPrompt, GenerationSpec, LoadOptions, ModelHandle, RequestId, Resume, Token,
};

/// A frame from the supervisor to a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// First frame. Answered by [`crate::Event::Hello`], or by the end of the stream if the versions differ.
    Hello {
        /// The supervisor's [`crate::PROTOCOL_VERSION`].
        protocol: u32,
    },
    /// Load a model. Answered by any number of `Loading`, then `Loaded` or `Failed`. Running streams go on meanwhile.
    Load {
        /// Names this request.
        request: RequestId,
        /// Name of the model from here on.
        model: ModelHandle,
        /// The GGUF file; the first one if it is split.
        path: PathBuf,
        /// How to load it.
        options: LoadOptions,
    },
    /// Free a model; its running requests end as cancelled. Answered by `Unloaded`, also if it was not loaded.
    Unload {
        /// Names this request.
        request: RequestId,
        /// What to free.
        model: ModelHandle,
    },
    /// Generate. Answered by `Generation` events that end with `Done` or `Failed`.
    Generate {
        /// Names this request.
        request: RequestId,
        /// By which model.
        model: ModelHandle,
        /// What to generate.
        spec: Box<GenerationSpec>,
        /// Where to go on, if another worker has begun with it. `Started` comes again, and nothing else that had come.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resume: Option<Box<Resume>>,
    },
    /// End a generation at the next step. Its choices finish as cancelled, then comes `Done`. Unknown ids are ignored.
    Cancel {
        /// The request to end.
        request: RequestId,
    },
    /// Text to token ids. Answered by `Tokens` or `Failed`.
    Tokenize {
        /// Names this request.
        request: RequestId,
        /// Whose vocabulary.
        model: ModelHandle,
        /// What to cut up.
        text: String,
        /// Add the tokens the model expects at the start (BOS).
        add_special: bool,
        /// Read control tokens such as `<|im_start|>` in the text as such rather than as letters.
        parse_special: bool,
    },
    /// Token ids to text. Answered by `Text` or `Failed`.
    Detokenize {
        /// Names this request.
        request: RequestId,
        /// Whose vocabulary.
        model: ModelHandle,
        /// What to spell out.
        tokens: Vec<Token>,
    },
    /// Applies the chat template only. Answered by `Text` or `Failed`.
    RenderChat {
        /// Names this request.
        request: RequestId,
        /// Whose template.
        model: ModelHandle,
        /// What to render.
        chat: ChatPrompt,
    },
    /// Measure prefill and decode on a context of its own. Answered by `BenchProgress`, then `Bench` or `Failed`.
    Bench {
        /// Names this request.
        request: RequestId,
        /// The GGUF file; the first one if it is split.
        path: PathBuf,
        /// What to measure.
        spec: BenchSpec,
    },
    /// Find out what a model would take, without reading or allocating its weights. Answered by `Estimated` or `Failed`.
    Estimate {
        /// Names this request.
        request: RequestId,
        /// The GGUF file; the first one if it is split.
        path: PathBuf,
        /// How it would be loaded.
        options: LoadOptions,
    },
    /// Change how many bytes of memory the stored prompts of a model may take. What is beyond them is dropped, and the memory given back to
    /// the system. Answered by `CacheBudget` when that is done, or `Failed`.
    SetCacheBudget {
        /// Names this request.
        request: RequestId,
        /// Whose prompts.
        model: ModelHandle,
        /// Most bytes from now on.
        ram_bytes: u64,
    },
    /// Heartbeat. Answered by `Pong` at once, also while models compute.
    Ping {
        /// Comes back in the answer.
        sequence: u64,
    },
    /// Answered by `Status`.
    Status {
        /// Names this request.
        request: RequestId,
    },
    /// Cancel everything, free everything, exit with status 0. So does the end of the stream.
    Shutdown,
}
