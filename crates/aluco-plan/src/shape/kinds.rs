//! Which layers look back a window, which have a recurrent state, and how large that is, by architecture.

use aluco_model::gguf::Value;

use super::{Keys, State};

/// Architectures whose layers have a window in a fixed order, unless the file has another: its period, and whether the full layer is
/// the first of the period rather than the last.
const PERIODS: [(&str, u64, bool); 17] = [
    ("afmoe", 4, false),
    ("cohere2", 4, false),
    ("cohere2moe", 4, true),
    ("exaone-moe", 4, false),
    ("exaone4", 4, false),
    ("gemma2", 2, false),
    ("gemma3", 6, false),
    ("gemma3n", 5, false),
    ("gpt-oss", 2, false),
    ("laguna", 4, true),
    ("limite", 4, false),
    ("llama4", 4, false),
    ("mellum", 4, false),
    ("muse-glimmer", 4, false),
    ("olmo2", 4, false),
    ("plamo3", 8, false),
    ("smallthinker", 4, true),
];

/// Windows that llama.cpp sets itself.
const WINDOWS: [(&str, u64); 4] = [
    ("gemma2", 4096),
    ("llama4", 8192),
    ("exaone-moe", 128),
    ("exaone4", 4096),
];

/// Architectures all of whose layers are recurrent.
const RECURRENT: [&str; 6] = ["mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"];

/// Architectures whose layers without heads for keys and values are recurrent.
const HEADLESS: [&str; 10] = [
    "jamba",
    "granitehybrid",
    "lfm2",
    "lfm2moe",
    "lfm3",
    "plamo2",
    "kimi-linear",
    "kimi-k3",
    "bailingmoe3",
    "glm5-next",
];

/// Architectures with attention in every n-th layer, and that number unless the file has another.
const INTERVALS: [(&str, u64); 5] = [
    ("qwen3next", 4),
    ("qwen35", 4),
    ("qwen35moe", 4),
    ("qwen4exp", 4),
    ("minimax-01", 8),
];

/// Keys of caches beside those of keys and values, which are not predicted.
const UNKNOWN: [&str; 5] = [
    "attention.indexer.",
    "attention.compress_ratios",
    "attention.kv_source_",
    "decoder_block_count",
    "ple.",
];

/// The keys that are beyond what is predicted.
pub(super) fn unknown(keys: &Keys<'_>) -> Vec<String> {
    keys.names()
        .filter(|name| UNKNOWN.iter().any(|start| name.starts_with(start)))
        .map(str::to_owned)
        .collect()
}

/// Which layers have a sliding window.
pub(super) struct SwaRule {
    /// Its length in tokens; 0 if no layer has one.
    pub(super) window: u64,
    layers: Vec<bool>,
}

impl SwaRule {
    pub(super) fn of(keys: &Keys<'_>, layers: u64) -> Self {
        let none = Self {
            window: 0,
            layers: Vec::new(),
        };
        let stated = keys.number("attention.sliding_window");
        let preset = WINDOWS.iter().find(|row| row.0 == keys.architecture);
        let window = match (keys.architecture, stated) {
            ("phi3", _) | ("llama4", Some(0)) => return none,
            // Only the large one has windows.
            ("exaone4", _) if layers != 64 => return none,
            ("llama4", _) => 8192,
            (_, stated) => stated.or(preset.map(|row| row.1)).unwrap_or(0),
        };
        if window == 0 {
            return none;
        }
        let pattern = keys.get("attention.sliding_window_pattern");
        let each = pattern.and_then(Value::as_array).and_then(|array| {
            let flags = array.whole()?.iter();
            let flag = |value: &Value| value.as_bool().or(value.as_u64().map(|number| number != 0));
            flags.map(flag).collect::<Option<Vec<bool>>>()
        });
        let period = PERIODS.iter().find(|row| row.0 == keys.architecture);
        let flags = match (each, period) {
            (Some(each), _) => each,
            (None, Some(&(_, period, full_first))) => {
                let period = pattern.and_then(Value::as_u64).unwrap_or(period);
                (0..layers)
                    .map(|index| match (index.checked_rem(period), full_first) {
                        (None, _) => true,
                        (Some(place), true) => place != 0,
                        (Some(place), false) => place + 1 < period,
                    })
                    .collect()
            }
            (None, None) if keys.architecture == "lfm2" => vec![true; layers as usize],
            (None, None) => return none,
        };
        Self {
            window,
            layers: flags,
        }
    }

    pub(super) fn is_windowed(&self, index: u64) -> bool {
        self.layers.get(index as usize).copied().unwrap_or(false)
    }
}

/// Which layers have attention, and which a recurrent state.
pub(super) enum HybridRule {
    /// All have attention.
    Attention,
    /// All have a state.
    State,
    /// All have both.
    Both,
    /// Those without heads for keys and values have a state.
    Headless,
    /// As `Headless`, and layers with a feed-forward network have neither.
    Single,
    /// For each layer, whether it has a state.
    Each(Vec<bool>),
    /// Every n-th layer has attention.
    Interval(u64),
}

impl HybridRule {
    pub(super) fn of(keys: &Keys<'_>) -> Self {
        let architecture = keys.architecture;
        if RECURRENT.contains(&architecture) {
            return Self::State;
        }
        if HEADLESS.contains(&architecture) {
            return Self::Headless;
        }
        match architecture {
            "falcon-h1" => return Self::Both,
            "nemotron_h" | "nemotron_h_moe" => return Self::Single,
            _ => {}
        }
        let Some(&(_, interval)) = INTERVALS.iter().find(|row| row.0 == architecture) else {
            return Self::Attention;
        };
        let each = keys.get("attention.recurrent_layers").and_then(|value| {
            let flags = value.as_array()?.whole()?.iter();
            let flag = |value: &Value| value.as_bool().or(value.as_u64().map(|number| number != 0));
            flags.map(flag).collect::<Option<Vec<bool>>>()
        });
        match each {
            Some(each) => Self::Each(each),
            None => Self::Interval(keys.number("full_attention_interval").unwrap_or(interval)),
        }
    }

    pub(super) fn has_attention(&self, index: u64, kv_heads: u64, feed_forward: u64) -> bool {
        match self {
            Self::Attention | Self::Both => true,
            Self::State => false,
            Self::Single => kv_heads > 0 && feed_forward == 0,
            Self::Headless | Self::Each(_) | Self::Interval(_) => {
                !self.has_state(index, kv_heads, feed_forward)
            }
        }
    }

    pub(super) fn has_state(&self, index: u64, kv_heads: u64, feed_forward: u64) -> bool {
        match self {
            Self::Attention => false,
            Self::State | Self::Both => true,
            Self::Headless => kv_heads == 0,
            Self::Single => kv_heads == 0 && feed_forward == 0,
            Self::Each(flags) => flags.get(index as usize).copied().unwrap_or(false),
            Self::Interval(interval) => (index + 1).checked_rem(*interval) != Some(0),
        }
    }
}

/// True for a layer that reads the keys and values of an earlier one.
pub(super) fn reads_earlier_cells(keys: &Keys<'_>, index: u64) -> bool {
    match keys.architecture {
        "gemma3n" => index >= 20,
        "gemma4" => {
            let layers = keys.number("block_count").unwrap_or(0);
            let shared = keys.number("attention.shared_kv_layers").unwrap_or(0);
            index >= layers.saturating_sub(shared)
        }
        _ => false,
    }
}

/// The state of a recurrent layer: `llama_hparams::n_embd_r` and `n_embd_s`.
pub(super) fn state(keys: &Keys<'_>, embedding: u64, heads: u64, key_length: u64) -> State {
    let number = |key: &str| keys.number(key).unwrap_or(0);
    let product = |factors: &[u64]| {
        factors
            .iter()
            .fold(1, |all: u64, &one| all.saturating_mul(one))
    };
    let head_size = number("wkv.head_size");
    if head_size > 0 {
        let shifts = keys.number("token_shift_count").unwrap_or(2);
        return State {
            rolling: product(&[shifts, embedding]),
            recurrent: product(&[embedding, head_size]),
            inner: embedding,
            width: embedding,
        };
    }
    let kernel = number("ssm.conv_kernel");
    let short = number("shortconv.l_cache");
    if short > 0 {
        return State {
            rolling: product(&[embedding, short - 1]),
            recurrent: 0,
            inner: embedding,
            width: product(&[3, embedding]),
        };
    }
    let delta = number("kda.head_dim");
    if delta > 0 {
        let inner = product(&[heads, delta]);
        return State {
            rolling: product(&[3, if kernel > 0 { kernel - 1 } else { 3 }, inner]),
            recurrent: product(&[delta, delta, heads]),
            inner,
            width: product(&[3, inner]),
        };
    }
    if keys.architecture == "minimax-01" {
        return State {
            rolling: 0,
            recurrent: product(&[key_length, key_length, heads]),
            inner: product(&[key_length, heads]),
            width: product(&[3, key_length, heads]),
        };
    }
    let (inner, size) = (number("ssm.inner_size"), number("ssm.state_size"));
    let channels = inner.saturating_add(product(&[2, number("ssm.group_count"), size]));
    State {
        rolling: product(&[kernel.saturating_sub(1), channels]),
        recurrent: product(&[size, inner]),
        inner,
        width: channels,
    }
}
