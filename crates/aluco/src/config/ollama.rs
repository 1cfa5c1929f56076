//! Variables of Ollama and Hugging Face, translated into our keys.
//!
//! Ollama's meaning is kept where it has one for us, with these differences, each on purpose:
//! * `OLLAMA_HOST` without a port leaves the port alone, so that both servers can run side by side; `:PORT` does not open every
//!   interface as it does there.
//! * `OLLAMA_MODELS` holds Ollama's own layout, which is not ours: imports go to the folder `aluco` in it, on the disk that was meant.
//! * 0 for `OLLAMA_NUM_PARALLEL`, `OLLAMA_MAX_LOADED_MODELS` and `OLLAMA_CONTEXT_LENGTH` means "you decide", so it sets nothing.

use std::path::Path;

use super::Raw;

/// Values for our keys that another program's variable gives. An empty variable gives none.
pub(crate) fn translate(variable: &str, value: &str) -> Vec<(&'static str, Raw)> {
    let value = value.trim().trim_matches(['"', '\'']).trim();
    if value.is_empty() {
        return Vec::new();
    }
    let word = || Raw::Word(value.to_owned());
    let unless_zero = |key| match value {
        "0" => Vec::new(),
        _ => vec![(key, word())],
    };
    match variable {
        "OLLAMA_HOST" => host(value),
        "OLLAMA_MODELS" => {
            let folder = Path::new(value).join("aluco");
            vec![(
                "models_folder",
                Raw::Word(folder.to_string_lossy().into_owned()),
            )]
        }
        "OLLAMA_NUM_PARALLEL" => unless_zero("parallel"),
        "OLLAMA_MAX_LOADED_MODELS" => unless_zero("models_max"),
        "OLLAMA_CONTEXT_LENGTH" => unless_zero("context"),
        "OLLAMA_MAX_QUEUE" => vec![("queue_max", word())],
        "OLLAMA_KEEP_ALIVE" => vec![("keep_alive", word())],
        "OLLAMA_FLASH_ATTENTION" => vec![("flash_attention", word())],
        "OLLAMA_KV_CACHE_TYPE" => vec![("kv_type_k", word()), ("kv_type_v", word())],
        "HF_HOME" => {
            let folder = Path::new(value).join("hub");
            vec![(
                "hub_cache",
                Raw::Word(folder.to_string_lossy().into_owned()),
            )]
        }
        "HF_HUB_CACHE" => vec![("hub_cache", word())],
        "HF_ENDPOINT" => vec![("hub_endpoint", word())],
        "HF_TOKEN" => vec![("hub_token", word())],
        _ => Vec::new(),
    }
}

/// All variables that [`translate`] knows, weakest first.
pub(crate) const VARIABLES: [&str; 13] = [
    "OLLAMA_HOST",
    "OLLAMA_MODELS",
    "OLLAMA_NUM_PARALLEL",
    "OLLAMA_MAX_LOADED_MODELS",
    "OLLAMA_CONTEXT_LENGTH",
    "OLLAMA_MAX_QUEUE",
    "OLLAMA_KEEP_ALIVE",
    "OLLAMA_FLASH_ATTENTION",
    "OLLAMA_KV_CACHE_TYPE",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_ENDPOINT",
    "HF_TOKEN",
];

/// `host`, `host:port`, `:port`, `[ipv6]:port`, each with an optional scheme before and a path behind. The server takes host and port;
/// a scheme or a path, or a name that is no address, only makes sense for a client and gives the URL.
fn host(value: &str) -> Vec<(&'static str, Raw)> {
    let (scheme, rest) = match value.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, value),
    };
    let (authority, path) = match rest.split_once('/') {
        Some((authority, path)) => (authority, path.trim_end_matches('/')),
        None => (rest, ""),
    };
    let (host, port) = split_port(authority);
    let port = match (port, scheme) {
        (Some(port), _) => Some(port.to_owned()),
        (None, Some("http")) => Some("80".to_owned()),
        (None, Some("https")) => Some("443".to_owned()),
        (None, _) => None,
    };
    let is_address = host.is_empty()
        || host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok();
    let mut values = Vec::new();
    if is_address {
        if !host.is_empty() {
            values.push(("host", Raw::Word(host.to_owned())));
        }
        if let Some(port) = &port {
            values.push(("port", Raw::Word(port.clone())));
        }
    }
    if !is_address || scheme == Some("https") || !path.is_empty() {
        let scheme = scheme.unwrap_or("http");
        let host = if host.is_empty() { "127.0.0.1" } else { host };
        let port = port.unwrap_or_else(|| super::PORT.to_string());
        let mut url = format!("{scheme}://{host}:{port}");
        if !path.is_empty() {
            url = format!("{url}/{path}");
        }
        values.push(("url", Raw::Word(url)));
    }
    values
}

fn split_port(authority: &str) -> (&str, Option<&str>) {
    if authority.parse::<std::net::Ipv6Addr>().is_ok() {
        return (authority, None);
    }
    match authority.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') => (host, Some(port)),
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(variable: &str, value: &str) -> String {
        let values: Vec<String> = translate(variable, value)
            .into_iter()
            .map(|(key, raw)| match raw {
                Raw::Word(text) => format!("{key}={text}"),
                other => panic!("{other:?}"),
            })
            .collect();
        values.join(" ")
    }

    #[test]
    fn every_documented_form_of_the_host_is_read() {
        for (value, expected) in [
            ("", ""),
            ("0.0.0.0", "host=0.0.0.0"),
            ("127.0.0.1:8080", "host=127.0.0.1 port=8080"),
            (":8080", "port=8080"),
            ("localhost:1", "host=localhost port=1"),
            ("::1", "host=::1"),
            ("[::1]", "host=[::1]"),
            ("[::1]:8080", "host=[::1] port=8080"),
            ("\"0.0.0.0:11434\"", "host=0.0.0.0 port=11434"),
            ("http://0.0.0.0", "host=0.0.0.0 port=80"),
            ("http://127.0.0.1:11434/", "host=127.0.0.1 port=11434"),
            (
                "https://10.0.0.1",
                "host=10.0.0.1 port=443 url=https://10.0.0.1:443",
            ),
            ("box.lan", "url=http://box.lan:13313"),
            ("https://box.lan/llm", "url=https://box.lan:443/llm"),
            ("http://box.lan:9/a/b/", "url=http://box.lan:9/a/b"),
        ] {
            assert_eq!(written("OLLAMA_HOST", value), expected, "{value}");
        }
    }

    #[test]
    fn zero_lets_us_decide_where_ollama_says_so() {
        assert_eq!(written("OLLAMA_NUM_PARALLEL", "0"), "");
        assert_eq!(written("OLLAMA_NUM_PARALLEL", "2"), "parallel=2");
        assert_eq!(written("OLLAMA_MAX_LOADED_MODELS", "0"), "");
        assert_eq!(written("OLLAMA_CONTEXT_LENGTH", "0"), "");
        assert_eq!(written("OLLAMA_KEEP_ALIVE", "0"), "keep_alive=0");
        assert_eq!(written("OLLAMA_MAX_QUEUE", "0"), "queue_max=0");
    }

    #[test]
    fn imports_stay_out_of_the_layout_of_ollama() {
        assert_eq!(
            written("OLLAMA_MODELS", "/data/ollama"),
            "models_folder=/data/ollama/aluco"
        );
        assert_eq!(written("HF_HOME", "/data/hf"), "hub_cache=/data/hf/hub");
    }

    #[test]
    fn every_variable_of_the_list_sets_something() {
        for variable in VARIABLES {
            assert!(!translate(variable, "1").is_empty(), "{variable}");
        }
    }
}
