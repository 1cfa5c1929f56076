//! Engines of others that are installed: which llama.cpp they are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Because, Known,
    software::{upstream, version_of},
};
use crate::root::{Command, ReadError, Root};

/// Programs of others that run models and can be asked what they are.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Engines {
    /// The `llama-server` that a shell would start.
    pub llama_server: LlamaServer,
    /// Version of the Ollama that a shell would start, such as `0.12.3`; a server that runs may be another.
    pub ollama: Known<String>,
}

/// What `llama-server --version` says.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct LlamaServer {
    /// llama.cpp's build number, such as 10246. Builds from a clone without its history call themselves 0 or 1, which is not known then.
    pub build: Known<u32>,
    /// The commit, shortened.
    pub commit: Known<String>,
    /// Backends that it named when it started: `ROCm`, `Vulkan`, `CUDA`, `CPU`… Newer builds name none before they need one.
    pub backends: Known<Vec<String>>,
}

/// Numbers below this count something else than llama.cpp's commits; this one is of June 2023.
const BUILD_MIN: u32 = 1000;

impl Engines {
    /// Asks the programs.
    pub(super) fn ask(root: &Root) -> Self {
        std::thread::scope(|scope| {
            let ollama = scope.spawn(|| told_by_ollama(root.command(Command::Ollama)));
            let llama_server = LlamaServer::of(root.command(Command::LlamaServer));
            Self {
                llama_server,
                ollama: super::joined(ollama),
            }
        })
    }

    /// With the version of a package where its program tells none.
    pub(super) fn or_packaged(self, packages: &Known<BTreeMap<String, String>>) -> Self {
        let of_package =
            || version_of(packages, &["ollama"]).map(|text| upstream(&text).to_owned());
        Self {
            ollama: self.ollama.or_else(of_package),
            ..self
        }
    }
}

impl LlamaServer {
    fn of(answer: Result<String, ReadError>) -> Self {
        let text = match answer {
            Ok(text) => text,
            Err(error) => {
                return Self {
                    build: error.clone().into(),
                    commit: error.clone().into(),
                    backends: error.into(),
                };
            }
        };
        let source = Command::LlamaServer.typed();
        let told = text.lines().find_map(version);
        let untold = || format!("{source} tells no version");
        let build = match told {
            Some((build, _)) if build >= BUILD_MIN => Known::value(build, &source),
            Some((build, _)) => {
                let why = format!("{source} calls it build {build}, which counts nothing");
                Known::unknown(Because::Malformed, why)
            }
            None => Known::unknown(Because::Malformed, untold()),
        };
        let commit = match told {
            Some((_, commit)) => Known::value(commit.to_owned(), &source),
            None => Known::unknown(Because::Malformed, untold()),
        };
        let backends = backends(&text);
        let backends = if backends.is_empty() {
            Known::unknown(Because::Absent, format!("{source} names no backend"))
        } else {
            Known::value(backends, source)
        };
        Self {
            build,
            commit,
            backends,
        }
    }
}

/// The build and the commit in `version: 8204 (7a99dc85e)`, since September 2026 `version: 0.4.1-dev (build 10991, commit 930e2fa59)`.
fn version(line: &str) -> Option<(u32, &str)> {
    let (before, within) = line.strip_prefix("version: ")?.split_once('(')?;
    let within = within.split(')').next()?;
    let (build, commit) = match within.strip_prefix("build ") {
        Some(told) => {
            let (build, commit) = told.split_once(',')?;
            (build, commit.trim().strip_prefix("commit ")?)
        }
        None => (before, within),
    };
    let is_commit =
        (4..=40).contains(&commit.len()) && commit.bytes().all(|byte| byte.is_ascii_alphanumeric());
    Some((build.trim().parse().ok()?, commit)).filter(|_| is_commit)
}

/// Backends named by what older builds say when they start: `load_backend: loaded ROCm backend from …`, or of those that have theirs built in
/// `ggml_cuda_init: found 1 ROCm devices` and `ggml_vulkan: Found 1 Vulkan devices`.
fn backends(text: &str) -> Vec<String> {
    let mut backends = Vec::new();
    for line in text.lines().take(256) {
        let loaded = line
            .strip_prefix("load_backend: loaded ")
            .and_then(|rest| rest.split_once(" backend"))
            .map(|(name, _)| name);
        let built_in = || {
            let line = line.strip_prefix("ggml_cuda_init: ");
            let found = line.and_then(|rest| rest.strip_prefix("found "));
            let failed = line.and_then(|rest| rest.strip_prefix("failed to initialize "));
            let name = match (found, failed) {
                (Some(found), _) => found.split(' ').nth(1),
                (None, Some(failed)) => failed.split(':').next(),
                (None, None) => None,
            };
            name.filter(|name| ["ROCm", "CUDA"].contains(name))
        };
        let vulkan = || line.starts_with("ggml_vulkan: ").then_some("Vulkan");
        let Some(name) = loaded.or_else(built_in).or_else(vulkan) else {
            continue;
        };
        let plain = name.len() <= 16 && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if plain && !backends.iter().any(|known| known == name) {
            backends.push(name.to_owned());
        }
    }
    backends
}

/// The version of the program itself: asked without a server, it says `Warning: client version is 0.12.3`.
fn told_by_ollama(answer: Result<String, ReadError>) -> Known<String> {
    let text = match answer {
        Ok(text) => text,
        Err(error) => return error.into(),
    };
    let source = Command::Ollama.typed();
    let after = |words: &str| {
        let (_, version) = text.split_once(words)?;
        version.split_ascii_whitespace().next()
    };
    // Where a server answers and is the same, only its version is told.
    let version = after("client version is ").or_else(|| after("ollama version is "));
    let plain = version.filter(|version| {
        version.len() <= 32
            && version
                .bytes()
                .next()
                .is_some_and(|byte| byte.is_ascii_digit())
    });
    match plain {
        Some(version) => Known::value(version.to_owned(), source),
        None => Known::unknown(Because::Malformed, format!("{source} tells no version")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // The answers are from issues of llama.cpp (20142, 28161, PR 28971), Lemonade (3342) and Ollama (6369, 10901).

    #[test]
    fn both_forms_of_a_version_are_read() {
        for (line, expected) in [
            ("version: 8204 (7a99dc85e)", Some((8204, "7a99dc85e"))),
            (
                "version: 0.4.1-dev (build 10991, commit 930e2fa59)",
                Some((10991, "930e2fa59")),
            ),
            ("version: 0 (unknown)", Some((0, "unknown"))),
            ("version: 1.2.3", None),
            ("version: x (7a99dc85e)", None),
            ("version: 8204 (../../x)", None),
            ("built with GNU 11.4.0 for Linux x86_64", None),
        ] {
            assert_eq!(version(line), expected, "{line}");
        }
    }

    #[test]
    fn a_build_without_history_has_a_commit_and_no_number() {
        let told = LlamaServer::of(Ok(
            "version: 0.2.0-dev (build 1, commit c1d0e7a00)\nbuilt with GNU\n".to_owned(),
        ));
        assert_eq!(told.build.why().unwrap().0, Because::Malformed);
        assert_eq!(told.commit.get().unwrap(), "c1d0e7a00");
        assert_eq!(told.backends.why().unwrap().0, Because::Absent);
    }

    #[test]
    fn backends_are_told_by_what_a_program_loads_and_finds() {
        for (text, expected) in [
            (
                "load_backend: loaded RPC backend from /x/libggml-rpc.so\nggml_vulkan: Found 1 Vulkan devices:\nggml_vulkan: 0 = AMD Radeon Graphics (RADV GFX1151) (radv) | uma: 1\nload_backend: loaded Vulkan backend from /x\nload_backend: loaded CPU backend from /x\n",
                &["RPC", "Vulkan", "CPU"][..],
            ),
            (
                "ggml_cuda_init: found 1 ROCm devices:\n  Device 0: AMD Radeon Graphics, gfx1151 (0x1151)\n",
                &["ROCm"],
            ),
            (
                "ggml_cuda_init: failed to initialize ROCm: no ROCm-capable device is detected\n",
                &["ROCm"],
            ),
            ("ggml_cuda_init: found many things\n", &[]),
            ("load_backend: loaded ../x backend from /x\n", &[]),
        ] {
            assert_eq!(backends(text), expected);
        }
    }

    #[test]
    fn of_ollama_the_program_counts_and_not_the_server() {
        for (text, expected) in [
            (
                "Warning: could not connect to a running Ollama instance\nWarning: client version is 0.3.4\n",
                Some("0.3.4"),
            ),
            (
                "ollama version is 0.7.1\nWarning: client version is 0.8.0\n",
                Some("0.8.0"),
            ),
            ("ollama version is 0.12.3\n", Some("0.12.3")),
            ("ollama version is \n", None),
            ("", None),
        ] {
            let told = told_by_ollama(Ok(text.to_owned()));
            assert_eq!(told.get().map(String::as_str), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_breaks_the_readers(text in "(version: |ggml_cuda_init: |found |load_backend: loaded | backend|\\(build |, commit |[0-9a-z(),: \n])*") {
            let _ = LlamaServer::of(Ok(text.clone()));
            let _ = told_by_ollama(Ok(text));
        }
    }
}
