//! Settings for AI programs that lie around in the environment: the leftovers of old advice.

use serde::{Deserialize, Serialize};

use super::{Because, Known, Processes, Role, read};
use crate::root::Root;

/// Settings for AI programs in environments: `HSA_*`, `HIP_*`, `ROCBLAS_*`, `ROCR_*`, `GGML_*`, `LLAMA_*`, `OLLAMA_*`, `VK_*`, `AMD_*`, `RADV_*`,
/// `GPU_*`, `CUDA_*`, `MKL_*` and `LD_LIBRARY_PATH`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Environment {
    /// Of `/etc/environment`, `/etc/environment.d`, `/etc/profile.d`, `/etc/security/pam_env.conf` and the units of known services.
    pub configured: Known<Vec<Setting>>,
    /// Of the process that looked.
    pub own: Known<Vec<Setting>>,
    /// Of running programs that serve models, as far as their environment is readable.
    pub running: Known<Vec<Setting>>,
}

/// One variable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// Its value; that of keys and tokens is never taken.
    pub value: String,
    /// The file that sets it.
    pub file: String,
}

/// What the names of settings for AI programs begin with.
const BEGINNINGS: &[&str] = &[
    "AMD_", "CUDA_", "GGML_", "GPU_", "HIP_", "HSA_", "LLAMA_", "MKL_", "OLLAMA_", "RADV_",
    "ROCBLAS_", "ROCR_", "TORCH_", "PYTORCH_", "VK_",
];

/// Words in a name whose value is nobody's business.
const SECRETS: &[&str] = &[
    "KEY",
    "TOKEN",
    "SECRET",
    "PASS",
    "AUTH",
    "CREDENTIAL",
    "COOKIE",
];

/// Services that run models.
pub(crate) const SERVICES: &[&str] = &[
    "aluco",
    "comfyui",
    "lemonade",
    "lemonade-server",
    "llama-server",
    "llama-swap",
    "localai",
    "ollama",
    "vllm",
];

/// Where units are, in the order of systemd.
pub(crate) const UNITS: &[&str] = &["/etc/systemd/system", "/usr/lib/systemd/system"];

/// Files and folders of settings for all users.
pub(crate) const FILES: &[&str] = &["/etc/environment", "/etc/security/pam_env.conf"];
pub(crate) const FOLDERS: &[(&str, &str)] =
    &[("/etc/environment.d", ".conf"), ("/etc/profile.d", ".sh")];

impl Environment {
    pub(super) fn collect(root: &Root, processes: &Processes) -> Self {
        let own = "/proc/self/environ";
        let running = processes.rivals.clone().map(|rivals| {
            let models = rivals.iter().filter(|rival| rival.role == Role::Models);
            let settings = models.flat_map(|rival| {
                let path = format!("/proc/{}/environ", rival.pid);
                let words = root.words(&path).unwrap_or_default();
                settings(&words, &path)
            });
            settings.take(512).collect()
        });
        Self {
            configured: configured(root),
            own: match root.words(own) {
                Ok(words) => Known::value(settings(&words, own), own),
                Err(error) => error.into(),
            },
            running,
        }
    }

    /// The value of a variable wherever it is set: in the process that looked, in files, in running programs.
    pub fn value(&self, name: &str) -> Option<&Setting> {
        [&self.own, &self.configured, &self.running]
            .into_iter()
            .filter_map(Known::get)
            .flatten()
            .find(|setting| setting.name == name)
    }
}

/// The files that are looked at, those of units with whether they are units.
pub(crate) fn configuration_files(root: &Root) -> Vec<(String, bool)> {
    let mut paths: Vec<(String, bool)> = FILES
        .iter()
        .map(|path| ((*path).to_owned(), false))
        .collect();
    for (folder, ending) in FOLDERS {
        let names = read::with_ending(root, folder, ending);
        paths.extend(names.iter().map(|name| (format!("{folder}/{name}"), false)));
    }
    for folder in UNITS {
        for service in SERVICES {
            let unit = format!("{folder}/{service}.service");
            let more = format!("{unit}.d");
            let names = read::with_ending(root, &more, ".conf");
            paths.push((unit, true));
            paths.extend(names.iter().map(|name| (format!("{more}/{name}"), true)));
        }
    }
    paths
}

fn configured(root: &Root) -> Known<Vec<Setting>> {
    let mut found = Vec::new();
    let mut refused = None;
    for (path, unit) in configuration_files(root) {
        match root.text(&path) {
            Ok(text) => {
                let words = if unit {
                    unit_words(&text)
                } else {
                    shell_words(&text)
                };
                found.extend(settings(&words, &path));
            }
            Err(error) if error.because == Because::Absent => {}
            Err(error) => refused = Some(error),
        }
    }
    found.truncate(512);
    match refused {
        Some(error) if found.is_empty() => error.into(),
        _ => Known::value(found, "/etc"),
    }
}

/// Whether a variable is one of those that are told.
pub(crate) fn matters(name: &str) -> bool {
    let begins = BEGINNINGS.iter().any(|begin| name.starts_with(begin));
    let secret = SECRETS.iter().any(|word| name.contains(word));
    (begins || name == "LD_LIBRARY_PATH") && !secret && name.len() <= 128
}

/// Of `NAME=value` those that matter.
fn settings(words: &[String], file: &str) -> Vec<Setting> {
    let settings = words.iter().filter_map(|word| {
        let (name, value) = word.split_once('=')?;
        let name = name.trim();
        let value = read::unquoted(value);
        matters(name).then(|| Setting {
            name: name.to_owned(),
            value: value.chars().take(256).collect(),
            file: file.to_owned(),
        })
    });
    settings.collect()
}

/// `NAME=value` and `export NAME=value`, one a line. What a shell would compute is taken as it is written.
fn shell_words(text: &str) -> Vec<String> {
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'));
    let words = lines.map(|line| {
        let line = line.strip_prefix("export ").unwrap_or(line);
        line.trim_end_matches(';').to_owned()
    });
    words.collect()
}

/// The words of `Environment=` lines, each of which may stand in quotes.
fn unit_words(text: &str) -> Vec<String> {
    let lines = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Environment="));
    lines.flat_map(super::kernel::arguments).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_found_in_each_form_and_secrets_never() {
        let shell = shell_words(
            "# HSA_A=0\nexport HSA_B=\"1\"\nHSA_C=2;\nHF_TOKEN=x\nHSA_TOKEN=x\nOLLAMA_API_KEY=x\n",
        );
        let found = settings(&shell, "/f");
        let told: Vec<_> = found.iter().map(|set| (&*set.name, &*set.value)).collect();
        assert_eq!(told, [("HSA_B", "1"), ("HSA_C", "2")]);
        let unit = unit_words(
            "[Service]\nEnvironment=\"OLLAMA_HOST=0.0.0.0\" HSA_X=1\nExecStart=HSA_Y=1\n",
        );
        assert_eq!(unit, ["OLLAMA_HOST=0.0.0.0", "HSA_X=1"]);
    }
}
