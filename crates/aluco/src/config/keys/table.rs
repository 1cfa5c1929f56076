//! The keys themselves: what each is called, takes and shows.

use std::{collections::BTreeMap, net::IpAddr, ops::RangeInclusive};

use aluco_fleet::{KeepAlive, ModelConfig};
use aluco_proto::{Backend, FlashAttention, KvType, Speculation, WeightLoading};
use aluco_server::{Isolation, ResumableStreams};
use serde_json::{Value, json};

use super::{
    super::{LogFormat, Raw, units},
    Key, PLAIN, Part,
};

/// The KV types by name.
pub(crate) const KV_TYPES: [(&str, KvType); 8] = [
    ("f16", KvType::F16),
    ("bf16", KvType::Bf16),
    ("f32", KvType::F32),
    ("q8_0", KvType::Q8_0),
    ("q5_1", KvType::Q5_1),
    ("q5_0", KvType::Q5_0),
    ("q4_1", KvType::Q4_1),
    ("q4_0", KvType::Q4_0),
];

const BACKENDS: [(&str, Option<Backend>); 4] = [
    ("auto", None),
    ("cpu", Some(Backend::Cpu)),
    ("vulkan", Some(Backend::Vulkan)),
    ("rocm", Some(Backend::Rocm)),
];

const WEIGHT_LOADING: [(&str, WeightLoading); 4] = [
    ("auto", WeightLoading::Auto),
    ("mmap", WeightLoading::Mmap),
    ("read", WeightLoading::Read),
    ("direct", WeightLoading::DirectIo),
];

const SPECULATION: [(&str, Speculation); 2] =
    [("auto", Speculation::Auto), ("off", Speculation::Off)];

const ISOLATION: [(&str, Isolation); 2] = [("shared", Isolation::Shared), ("key", Isolation::Key)];

const RESUME_STREAMS: [(&str, ResumableStreams); 3] = [
    ("always", ResumableStreams::Always),
    ("on-request", ResumableStreams::OnRequest),
    ("off", ResumableStreams::Off),
];

const LOG_FORMATS: [(&str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];

const U32_MAX: u64 = u32::MAX as u64;

/// Smallest limit of a request body: hardly a question fits into less.
const BODY_BYTES_MIN: u64 = 1024;

/// The times between two tokens that can be asked for, in milliseconds.
const TPOT_MS: RangeInclusive<f64> = 0.1..=60_000.0;

/// All keys, in the order in which they are shown.
pub(crate) static KEYS: &[Key] = &[
    Key {
        name: "host",
        env: "ALUCO_HOST",
        aliases: &["OLLAMA_HOST"],
        value_name: "ADDRESS",
        help: "Address to listen on; any that other machines reach needs an API key",
        part: Part::Listen,
        set: |settings, raw| {
            let host = raw.text()?;
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            if bare != "localhost" && bare.parse::<IpAddr>().is_err() {
                return Err(format!(
                    "expected an IP address or \"localhost\", found \"{host}\""
                ));
            }
            bare.clone_into(&mut settings.host);
            Ok(())
        },
        get: |settings| json!(settings.host),
        ..PLAIN
    },
    Key {
        name: "port",
        env: "ALUCO_PORT",
        aliases: &["OLLAMA_HOST"],
        value_name: "PORT",
        help: "Port to listen on; 0 takes a free one",
        part: Part::Listen,
        set: |settings, raw| {
            settings.port = raw.count(0..=65_535)? as u16;
            Ok(())
        },
        get: |settings| json!(settings.port),
        ..PLAIN
    },
    Key {
        name: "url",
        env: "ALUCO_URL",
        aliases: &["OLLAMA_HOST"],
        value_name: "URL",
        help: "Server to talk to; by default the one at host and port",
        part: Part::Connection,
        set: |settings, raw| {
            let url = raw.text()?;
            if !url.starts_with("http://") && !url.starts_with("https://") {
                return Err(format!(
                    "expected a URL such as \"http://127.0.0.1:13313\", found \"{url}\""
                ));
            }
            settings.url = Some(url.trim_end_matches('/').to_owned());
            Ok(())
        },
        get: |settings| json!(settings.server_url()),
        ..PLAIN
    },
    Key {
        name: "api_keys",
        flag: Some("api-key"),
        env: "ALUCO_API_KEY",
        value_name: "KEY",
        help: "Key that clients must send; may be given more than once",
        part: Part::Connection,
        repeated: true,
        secret: true,
        set: |settings, raw| {
            settings.api_keys = raw.list()?;
            Ok(())
        },
        get: |settings| json!(settings.api_keys),
        ..PLAIN
    },
    Key {
        name: "models_folder",
        env: "ALUCO_MODELS_FOLDER",
        aliases: &["OLLAMA_MODELS"],
        value_name: "FOLDER",
        help: "Where imported models lie",
        part: Part::Store,
        path: true,
        set: |settings, raw| {
            settings.models_folder = raw.path()?;
            Ok(())
        },
        get: |settings| json!(settings.models_folder),
        ..PLAIN
    },
    Key {
        name: "hub_cache",
        env: "ALUCO_HUB_CACHE",
        aliases: &["HF_HUB_CACHE", "HF_HOME"],
        value_name: "FOLDER",
        help: "The Hugging Face cache, where pulled models lie",
        part: Part::Store,
        path: true,
        set: |settings, raw| {
            settings.hub_cache = raw.path()?;
            Ok(())
        },
        get: |settings| json!(settings.hub_cache),
        ..PLAIN
    },
    Key {
        name: "hub_endpoint",
        env: "ALUCO_HUB_ENDPOINT",
        aliases: &["HF_ENDPOINT"],
        value_name: "URL",
        help: "The Hugging Face hub or a mirror of it",
        part: Part::Store,
        set: |settings, raw| {
            raw.text()?
                .trim_end_matches('/')
                .clone_into(&mut settings.hub_endpoint);
            Ok(())
        },
        get: |settings| json!(settings.hub_endpoint),
        ..PLAIN
    },
    Key {
        name: "hub_token",
        // No flag: every user of the machine can read command lines.
        flag: Some(""),
        env: "ALUCO_HUB_TOKEN",
        aliases: &["HF_TOKEN", "HF_TOKEN_PATH"],
        value_name: "TOKEN",
        help: "Access token for the hub",
        part: Part::Store,
        secret: true,
        set: |settings, raw| {
            settings.hub_token = Some(raw.text()?);
            Ok(())
        },
        get: |settings| json!(settings.hub_token),
        ..PLAIN
    },
    Key {
        name: "context",
        env: "ALUCO_CONTEXT",
        aliases: &["OLLAMA_CONTEXT_LENGTH"],
        value_name: "TOKENS",
        help: "Tokens that a model can have in view, shared by the answers it writes at once",
        set: |settings, raw| {
            settings.load.context_tokens = raw.count_or_auto(1..=U32_MAX)?;
            Ok(())
        },
        get: |settings| auto(settings.load.context_tokens),
        ..PLAIN
    },
    Key {
        name: "parallel",
        env: "ALUCO_PARALLEL",
        aliases: &["OLLAMA_NUM_PARALLEL"],
        value_name: "N",
        help: "Answers (sequences) that one model writes at once",
        set: |settings, raw| {
            settings.load.sequences_max = raw.count(1..=256)? as u32;
            Ok(())
        },
        get: |settings| json!(settings.load.sequences_max),
        ..PLAIN
    },
    Key {
        name: "batch",
        env: "ALUCO_BATCH",
        value_name: "TOKENS",
        help: "Most tokens that are handed to the model at once",
        set: |settings, raw| {
            settings.load.batch_tokens = raw.count(1..=U32_MAX)? as u32;
            Ok(())
        },
        get: |settings| json!(settings.load.batch_tokens),
        ..PLAIN
    },
    Key {
        name: "micro_batch",
        env: "ALUCO_MICRO_BATCH",
        value_name: "TOKENS",
        help: "Most tokens of these that the device computes in one step",
        set: |settings, raw| {
            settings.load.micro_batch_tokens = raw.count(1..=U32_MAX)? as u32;
            Ok(())
        },
        get: |settings| json!(settings.load.micro_batch_tokens),
        ..PLAIN
    },
    Key {
        name: "threads",
        env: "ALUCO_THREADS",
        value_name: "N",
        help: "Threads that compute on the CPU",
        set: |settings, raw| {
            settings.load.threads = raw.count_or_auto(1..=1024)?;
            Ok(())
        },
        get: |settings| auto(settings.load.threads),
        ..PLAIN
    },
    Key {
        name: "gpu_layers",
        env: "ALUCO_GPU_LAYERS",
        value_name: "N",
        help: "Layers of the model that are computed on the GPU",
        set: |settings, raw| {
            settings.load.gpu_layers = raw.count_or_auto(0..=U32_MAX)?;
            Ok(())
        },
        get: |settings| auto(settings.load.gpu_layers),
        ..PLAIN
    },
    Key {
        name: "flash_attention",
        env: "ALUCO_FLASH_ATTENTION",
        aliases: &["OLLAMA_FLASH_ATTENTION"],
        value_name: "on|off|auto",
        help: "Attention in one pass, which takes less memory (flash attention)",
        set: |settings, raw| {
            settings.load.flash_attention = match raw.switch_or_auto()? {
                None => FlashAttention::Auto,
                Some(true) => FlashAttention::On,
                Some(false) => FlashAttention::Off,
            };
            Ok(())
        },
        get: |settings| {
            json!(match settings.load.flash_attention {
                FlashAttention::Auto => "auto",
                FlashAttention::On => "on",
                FlashAttention::Off => "off",
            })
        },
        ..PLAIN
    },
    Key {
        name: "kv_type_k",
        env: "ALUCO_KV_TYPE_K",
        aliases: &["OLLAMA_KV_CACHE_TYPE"],
        value_name: "TYPE",
        help: "How exactly the keys of the context are kept, such as f16 or the half as large q8_0",
        set: |settings, raw| {
            settings.load.kv_type_k = raw.choice(&KV_TYPES)?;
            Ok(())
        },
        get: |settings| json!(settings.load.kv_type_k.name()),
        ..PLAIN
    },
    Key {
        name: "kv_type_v",
        env: "ALUCO_KV_TYPE_V",
        aliases: &["OLLAMA_KV_CACHE_TYPE"],
        value_name: "TYPE",
        help: "How exactly the values of the context are kept, such as f16 or the half as large q8_0",
        set: |settings, raw| {
            settings.load.kv_type_v = raw.choice(&KV_TYPES)?;
            Ok(())
        },
        get: |settings| json!(settings.load.kv_type_v.name()),
        ..PLAIN
    },
    Key {
        name: "cache_device",
        env: "ALUCO_CACHE_DEVICE",
        value_name: "TOKENS",
        help: "Tokens of ended conversations that stay on the device; auto is an eighth of the context",
        set: |settings, raw| {
            settings.load.cache.device_tokens = raw.count_or_auto(0..=U32_MAX)?;
            Ok(())
        },
        get: |settings| auto(settings.load.cache.device_tokens),
        ..PLAIN
    },
    Key {
        name: "cache_ram",
        env: "ALUCO_CACHE_RAM",
        value_name: "SIZE",
        help: "Memory for prompts that were computed before, per model; 0 keeps none",
        set: |settings, raw| {
            settings.load.cache.ram_bytes = raw.size_or_auto()?;
            Ok(())
        },
        get: |settings| auto_size(settings.load.cache.ram_bytes),
        ..PLAIN
    },
    Key {
        name: "cache_disk",
        env: "ALUCO_CACHE_DISK",
        value_name: "SIZE",
        help: "Disk for prompts that were computed before, of all models; 0 keeps none",
        set: |settings, raw| {
            settings.load.cache.disk_bytes = raw.size_or_auto()?;
            Ok(())
        },
        get: |settings| auto_size(settings.load.cache.disk_bytes),
        ..PLAIN
    },
    Key {
        name: "cache_dir",
        env: "ALUCO_CACHE_DIR",
        value_name: "FOLDER",
        help: "Where prompts that were computed before lie on disk",
        path: true,
        set: |settings, raw| {
            settings.cache_folder = raw.path()?;
            Ok(())
        },
        get: |settings| json!(settings.cache_folder),
        ..PLAIN
    },
    Key {
        name: "tpot_ms",
        env: "ALUCO_TPOT_MS",
        value_name: "MS",
        help: "Longest time between two tokens of a stream that others' prompts may cause, or auto",
        set: |settings, raw| {
            settings.load.tpot_ms = raw.number_or_auto(TPOT_MS)?;
            Ok(())
        },
        get: |settings| {
            let ms = settings.load.tpot_ms;
            ms.map_or_else(|| json!("auto"), |ms| json!(ms))
        },
        ..PLAIN
    },
    Key {
        name: "speculation",
        env: "ALUCO_SPECULATION",
        value_name: "auto|off",
        help: "Guessing tokens from the conversation, where it measures faster",
        set: |settings, raw| {
            settings.load.speculation = raw.choice(&SPECULATION)?;
            Ok(())
        },
        get: |settings| json!(named(&SPECULATION, settings.load.speculation)),
        ..PLAIN
    },
    Key {
        name: "weight_loading",
        env: "ALUCO_WEIGHT_LOADING",
        value_name: "HOW",
        help: "How weights are read: auto, mmap, read or direct",
        set: |settings, raw| {
            settings.load.weight_loading = raw.choice(&WEIGHT_LOADING)?;
            Ok(())
        },
        get: |settings| json!(named(&WEIGHT_LOADING, settings.load.weight_loading)),
        ..PLAIN
    },
    Key {
        name: "backend",
        env: "ALUCO_BACKEND",
        value_name: "NAME",
        help: "What computes: auto, cpu, vulkan or rocm",
        set: |settings, raw| {
            settings.backend = raw.choice(&BACKENDS)?;
            Ok(())
        },
        get: |settings| json!(named(&BACKENDS, settings.backend)),
        ..PLAIN
    },
    Key {
        name: "worker",
        env: "ALUCO_WORKER",
        value_name: "FILE",
        help: "Worker binary to use instead of the best one beside aluco",
        path: true,
        set: |settings, raw| {
            settings.worker = Some(raw.path()?);
            Ok(())
        },
        get: |settings| json!(settings.worker),
        ..PLAIN
    },
    Key {
        name: "models_max",
        env: "ALUCO_MODELS_MAX",
        aliases: &["OLLAMA_MAX_LOADED_MODELS"],
        value_name: "N",
        help: "Models loaded at once",
        part: Part::Fleet,
        set: |settings, raw| {
            settings.models_max = raw.count(1..=1024)? as usize;
            Ok(())
        },
        get: |settings| json!(settings.models_max),
        ..PLAIN
    },
    Key {
        name: "memory_limit",
        env: "ALUCO_MEMORY_LIMIT",
        value_name: "SIZE",
        help: "Memory that all models may hold together, such as 96GiB, or auto: what there is",
        part: Part::Fleet,
        set: |settings, raw| {
            settings.memory_limit = raw.size_or_auto()?;
            Ok(())
        },
        get: |settings| auto_size(settings.memory_limit),
        ..PLAIN
    },
    Key {
        name: "memory_reserve",
        env: "ALUCO_MEMORY_RESERVE",
        value_name: "SIZE",
        help: "Memory that models leave free for other programs, or auto: 4 %, at least 2 GiB",
        part: Part::Fleet,
        set: |settings, raw| {
            settings.memory_reserve = raw.size_or_auto()?;
            Ok(())
        },
        get: |settings| auto_size(settings.memory_reserve),
        ..PLAIN
    },
    Key {
        name: "queue_max",
        env: "ALUCO_QUEUE_MAX",
        aliases: &["OLLAMA_MAX_QUEUE"],
        value_name: "N",
        help: "Requests that may wait for one model",
        part: Part::Fleet,
        set: |settings, raw| {
            settings.queue_max = raw.count(0..=1_000_000)? as usize;
            Ok(())
        },
        get: |settings| json!(settings.queue_max),
        ..PLAIN
    },
    Key {
        name: "keep_alive",
        env: "ALUCO_KEEP_ALIVE",
        aliases: &["OLLAMA_KEEP_ALIVE"],
        value_name: "TIME",
        help: "How long an idle model stays loaded, such as 5m or forever",
        part: Part::Fleet,
        set: |settings, raw| {
            settings.keep_alive = raw.keep_alive()?;
            Ok(())
        },
        get: |settings| json!(settings.keep_alive),
        ..PLAIN
    },
    Key {
        name: "preload",
        env: "ALUCO_PRELOAD",
        value_name: "MODEL",
        help: "Model to load at the start; may be given more than once",
        part: Part::Fleet,
        repeated: true,
        set: |settings, raw| {
            settings.preload = raw.list()?;
            Ok(())
        },
        get: |settings| json!(settings.preload),
        ..PLAIN
    },
    Key {
        name: "pin",
        env: "ALUCO_PIN",
        value_name: "MODEL",
        help: "Model that stays once it is loaded; may be given more than once",
        part: Part::Fleet,
        repeated: true,
        set: |settings, raw| {
            settings.pinned = raw.list()?;
            Ok(())
        },
        get: |settings| json!(settings.pinned),
        ..PLAIN
    },
    Key {
        name: "models",
        // A section of the file: too much for one word.
        flag: Some(""),
        env: "ALUCO_MODELS",
        value_name: "TABLE",
        help: "What differs for one model: [models.\"NAME\"] with keep_alive",
        part: Part::Fleet,
        set: |settings, raw| {
            settings.models = models(raw)?;
            Ok(())
        },
        get: |settings| {
            let models = settings.models.iter().map(|(name, model)| {
                let keep_alive = model
                    .keep_alive
                    .map(|it| ("keep_alive".to_owned(), json!(it)));
                (
                    name.clone(),
                    Value::Object(keep_alive.into_iter().collect()),
                )
            });
            Value::Object(models.collect())
        },
        ..PLAIN
    },
    Key {
        name: "cache_isolation",
        env: "ALUCO_CACHE_ISOLATION",
        value_name: "shared|key",
        help: "Whose computed prompts are used: everybody's, or only those of the same API key",
        part: Part::Fleet,
        set: |settings, raw| {
            settings.cache_isolation = raw.choice(&ISOLATION)?;
            Ok(())
        },
        get: |settings| json!(named(&ISOLATION, settings.cache_isolation)),
        ..PLAIN
    },
    Key {
        name: "prompt_rules",
        env: "ALUCO_PROMPT_RULES",
        value_name: "FILE",
        help: "Rules that take out of prompts what changes without need; see prompt-rules.toml",
        part: Part::Fleet,
        path: true,
        set: |settings, raw| {
            settings.prompt_rules = Some(raw.path()?);
            Ok(())
        },
        get: |settings| json!(settings.prompt_rules),
        ..PLAIN
    },
    Key {
        name: "resume_streams",
        env: "ALUCO_RESUME_STREAMS",
        value_name: "WHICH",
        help: "Streams that go on when their client is gone and can be resumed: always, on-request or off",
        part: Part::Fleet,
        set: |settings, raw| {
            settings.resume_streams = raw.choice(&RESUME_STREAMS)?;
            Ok(())
        },
        get: |settings| json!(named(&RESUME_STREAMS, settings.resume_streams)),
        ..PLAIN
    },
    Key {
        name: "resume_grace",
        env: "ALUCO_RESUME_GRACE",
        value_name: "TIME",
        help: "How long such a stream goes on without a client",
        part: Part::Fleet,
        set: |settings, raw| {
            settings.resume_grace = raw.duration()?;
            Ok(())
        },
        get: |settings| json!(KeepAlive::For(settings.resume_grace)),
        ..PLAIN
    },
    Key {
        name: "body_max",
        env: "ALUCO_BODY_MAX",
        value_name: "SIZE",
        help: "Largest request body, such as 64MiB",
        part: Part::Fleet,
        set: |settings, raw| {
            settings.body_bytes_max = raw.size(BODY_BYTES_MIN)?;
            Ok(())
        },
        get: |settings| json!(units::write_size(settings.body_bytes_max)),
        ..PLAIN
    },
    Key {
        name: "shutdown_limit",
        env: "ALUCO_SHUTDOWN_LIMIT",
        value_name: "TIME",
        help: "How long running requests may go on at shutdown",
        part: Part::Fleet,
        set: |settings, raw| {
            settings.shutdown_limit = raw.duration()?;
            Ok(())
        },
        get: |settings| json!(KeepAlive::For(settings.shutdown_limit)),
        ..PLAIN
    },
    Key {
        name: "log_level",
        env: "ALUCO_LOG_LEVEL",
        value_name: "LEVEL",
        help: "off, error, warn, info, debug, trace, or a list such as info,aluco::worker=warn",
        part: Part::Log,
        set: |settings, raw| {
            settings.log_level = raw.log_levels()?;
            Ok(())
        },
        get: |settings| json!(settings.log_level),
        ..PLAIN
    },
    Key {
        name: "log_format",
        env: "ALUCO_LOG_FORMAT",
        value_name: "FORMAT",
        help: "text or json",
        part: Part::Log,
        set: |settings, raw| {
            settings.log_format = raw.choice(&LOG_FORMATS)?;
            Ok(())
        },
        get: |settings| json!(named(&LOG_FORMATS, settings.log_format)),
        ..PLAIN
    },
];

/// The sections `[models."NAME"]`.
fn models(raw: &Raw) -> Result<BTreeMap<String, ModelConfig>, String> {
    let mut models = BTreeMap::new();
    for (name, section) in raw.table()? {
        let mut model = ModelConfig::default();
        let within = |problem: String| format!("\"{name}\": {problem}");
        for (key, value) in section.table().map_err(within)? {
            match key.as_str() {
                "keep_alive" => {
                    let keep_alive = value.keep_alive();
                    model.keep_alive =
                        Some(keep_alive.map_err(|it| within(format!("keep_alive: {it}")))?);
                }
                _ => {
                    return Err(within(format!("unknown key `{key}`; there is keep_alive")));
                }
            }
        }
        models.insert(name, model);
    }
    Ok(models)
}

fn auto(value: Option<u32>) -> Value {
    value.map_or_else(|| json!("auto"), |value| json!(value))
}

fn auto_size(bytes: Option<u64>) -> Value {
    bytes.map_or_else(|| json!("auto"), |bytes| json!(units::write_size(bytes)))
}

fn named<T: Copy + PartialEq>(choices: &[(&'static str, T)], value: T) -> &'static str {
    choices
        .iter()
        .find(|(_, choice)| *choice == value)
        .map_or("", |(name, _)| name)
}
