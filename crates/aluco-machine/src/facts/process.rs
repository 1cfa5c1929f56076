//! Programs that want the same memory: those that use the GPU, and those that serve models.

mod build_tree;

use std::{cell::OnceCell, collections::BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Because, Known};
use crate::root::Root;

/// Programs that use the GPU, serve models or show the screen.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Processes {
    /// They, in the order of their numbers.
    pub rivals: Known<Vec<Process>>,
    /// Processes whose open files could not be looked at, so that more may use the GPU.
    pub hidden: Known<u32>,
}

/// A program that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// What it is known for.
    pub role: Role,
    /// Its arguments that matter: flags of llama.cpp's programs about mapping, layers, attention, batches and RPC. Never keys, paths or prompts.
    pub flags: Vec<String>,
    /// Whether it holds `/dev/kfd`; `None` if its open files cannot be looked at.
    pub uses_kfd: Option<bool>,
    /// Whether it holds a node below `/dev/dri`; `None` if its open files cannot be looked at.
    pub uses_render: Option<bool>,
    /// Main memory that the GPU uses for it, in bytes; `None` if the driver does not tell.
    pub gtt_bytes: Option<u64>,
    /// Whether its video encoder was used; `None` if the driver does not tell.
    pub encodes_video: Option<bool>,
    /// Whether flash attention of this llama.cpp was built on rocWMMA, as its build tree says; `None` if it does not run from one. A capture leaves
    /// people's folders out, so that its replay does not know.
    pub rocwmma: Option<bool>,
}

/// What a program is known for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It runs models: ollama, llama-server, lemonade, vllm, ComfyUI…
    Models,
    /// It is part of Aluco.
    Aluco,
    /// It shows the screen.
    Display,
    /// It records or streams video.
    Video,
    /// Nothing of these; it uses the GPU.
    Other,
}

/// Processes that are looked at, and open files of each.
const PROCESSES_MAX: usize = 4096;
const FILES_MAX: usize = 1024;

const MODELS: &[&str] = &[
    "ollama",
    "llama-server",
    "llama-cli",
    "llama-swap",
    "llama-bench",
    "llamafile",
    "rpc-server",
    "ggml-rpc-server",
    "lemonade",
    "lemonade-server",
    "lemonade-router",
    "lemond",
    "flm",
    "local-ai",
    "koboldcpp",
    "lms",
    "sd-server",
    "whisper-server",
    "vllm",
    "vllm::enginecore",
];
const DISPLAY: &[&str] = &[
    "xorg",
    "xwayland",
    "gnome-shell",
    "kwin_wayland",
    "kwin_x11",
    "plasmashell",
    "sway",
    "hyprland",
    "weston",
    "cosmic-comp",
    "gamescope",
    "gamescope-wl",
    "niri",
    "labwc",
    "mutter",
];
const VIDEO: &[&str] = &[
    "obs",
    "sunshine",
    "ffmpeg",
    "gpu-screen-reco",
    "gst-launch-1.0",
    "wf-recorder",
    "jellyfin",
];

/// Programs in Python tell themselves only in their arguments.
const PYTHON_MODELS: &[&str] = &[
    "vllm",
    "comfyui",
    "lemonade",
    "sglang",
    "tabbyapi",
    "text-generation",
    "llama_cpp",
];

/// Flags of llama.cpp's programs that decide how they use memory. What follows them is kept if it is short and plain.
const FLAGS: &[&str] = &[
    "--no-mmap",
    "--mmap",
    "--mlock",
    "--load-mode",
    "-dio",
    "--direct-io",
    "-ngl",
    "--n-gpu-layers",
    "--gpu-layers",
    "-fa",
    "--flash-attn",
    "-b",
    "--batch-size",
    "-ub",
    "--ubatch-size",
    "-c",
    "--ctx-size",
    "-ctk",
    "--cache-type-k",
    "-ctv",
    "--cache-type-v",
    "-ncmoe",
    "--n-cpu-moe",
    "-cmoe",
    "--cpu-moe",
    "-np",
    "--parallel",
    "-t",
    "--threads",
    "--rpc",
    "-nkvo",
    "--no-kv-offload",
];

/// Flags whose value is left out: it is an address.
const BARE: &[&str] = &["--rpc"];

impl Processes {
    pub(super) fn collect(root: &Root) -> Self {
        let names = match root.names("/proc") {
            Ok(names) => names,
            Err(error) => {
                return Self {
                    rivals: error.clone().into(),
                    hidden: error.into(),
                };
            }
        };
        let gpu = root.has("/dev/kfd") || root.has("/dev/dri");
        let own = if root.is_live() {
            std::process::id()
        } else {
            0
        };
        let mut rivals = Vec::new();
        let mut hidden = 0_u32;
        let pids = names.iter().filter_map(|name| name.parse::<u32>().ok());
        for pid in pids.filter(|pid| *pid != own).take(PROCESSES_MAX) {
            let comm = match root.text(&format!("/proc/{pid}/comm")) {
                Ok(comm) => comm,
                // A process that ended meanwhile is none.
                Err(error) if error.because == Because::Absent => continue,
                Err(_) => {
                    hidden += 1;
                    continue;
                }
            };
            let name: String = comm.trim().chars().take(64).collect();
            let words = Words::new(root, pid);
            let role = role(&name, &words);
            if role.is_none() && !gpu {
                continue;
            }
            let files = Files::read(root, pid);
            if files.is_none() && gpu && !words.get().is_empty() {
                hidden += 1;
            }
            let uses = files
                .as_ref()
                .is_some_and(|files| files.kfd || files.render);
            if role.is_none() && !uses {
                continue;
            }
            let told = files.as_ref().filter(|files| files.render);
            rivals.push(Process {
                pid,
                role: role.unwrap_or(Role::Other),
                flags: if role == Some(Role::Models) {
                    flags(words.get())
                } else {
                    Vec::new()
                },
                uses_kfd: files.as_ref().map(|files| files.kfd),
                uses_render: files.as_ref().map(|files| files.render),
                gtt_bytes: told.and_then(|files| files.gtt_bytes),
                encodes_video: told.and_then(|files| files.encodes),
                rocwmma: if name.starts_with("llama") {
                    build_tree::rocwmma(root, pid)
                } else {
                    None
                },
                name,
            });
        }
        Self {
            rivals: Known::value(rivals, "/proc"),
            hidden: Known::value(hidden, "/proc"),
        }
    }
}

/// The arguments of a process, read when they are asked for.
struct Words<'a> {
    root: &'a Root,
    pid: u32,
    read: OnceCell<Vec<String>>,
}

impl<'a> Words<'a> {
    fn new(root: &'a Root, pid: u32) -> Self {
        Self {
            root,
            pid,
            read: OnceCell::new(),
        }
    }

    fn get(&self) -> &[String] {
        self.read.get_or_init(|| {
            let path = format!("/proc/{}/cmdline", self.pid);
            self.root.words(&path).unwrap_or_default()
        })
    }
}

fn role(name: &str, words: &Words<'_>) -> Option<Role> {
    let name = name.to_ascii_lowercase();
    let among = |names: &[&str]| names.contains(&&*name);
    if name.starts_with("aluco") {
        Some(Role::Aluco)
    } else if among(MODELS) {
        Some(Role::Models)
    } else if among(DISPLAY) {
        Some(Role::Display)
    } else if among(VIDEO) {
        Some(Role::Video)
    } else if name.starts_with("python") || name == "uvicorn" || name.starts_with("pt_main") {
        let python = words.get().iter().take(4).any(|word| {
            let word = word.to_ascii_lowercase();
            PYTHON_MODELS.iter().any(|program| word.contains(program))
        });
        python.then_some(Role::Models)
    } else {
        None
    }
}

/// The flags that matter. Nothing else of a command line leaves: it may hold keys, prompts and names.
pub(crate) fn flags(words: &[String]) -> Vec<String> {
    let plain = |value: &str| {
        let letters = value
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
        letters && value.len() <= 12 && (!value.starts_with('-') || value.parse::<i64>().is_ok())
    };
    let mut flags = Vec::new();
    let mut words = words.iter().skip(1).take(256).peekable();
    while let Some(word) = words.next() {
        let (flag, joined) = match word.split_once('=') {
            Some((flag, value)) => (flag, Some(value)),
            None => (&**word, None),
        };
        if !FLAGS.contains(&flag) {
            continue;
        }
        let value = joined.or_else(|| words.peek().map(|next| &***next));
        match value.filter(|value| !BARE.contains(&flag) && plain(value)) {
            Some(value) => flags.push(format!("{flag} {value}")),
            None => flags.push(flag.to_owned()),
        }
    }
    flags
}

/// The program, and of one in Python the module that makes it one that runs models; no path.
pub(crate) fn program(words: &[String]) -> Vec<String> {
    let name = words
        .first()
        .map_or("", |word| super::read::last_name(word));
    let mut program = vec![name.chars().take(64).collect()];
    let python = words.iter().skip(1).take(3).find_map(|word| {
        let word = word.to_ascii_lowercase();
        let mut names = PYTHON_MODELS.iter();
        names.find(|name| word.contains(**name))
    });
    program.extend(python.map(|name| (*name).to_owned()));
    program
}

/// What the open files of a process tell of the GPU.
#[derive(Debug, Default)]
struct Files {
    kfd: bool,
    render: bool,
    gtt_bytes: Option<u64>,
    encodes: Option<bool>,
}

impl Files {
    fn read(root: &Root, pid: u32) -> Option<Self> {
        let folder = format!("/proc/{pid}/fd");
        let mut files = Self::default();
        // Several files may belong to one client of the driver, which tells its memory for each.
        let mut clients = BTreeSet::new();
        for name in root.names(&folder).ok()?.iter().take(FILES_MAX) {
            let Ok(target) = root.link(&format!("{folder}/{name}")) else {
                continue;
            };
            if target == "/dev/kfd" {
                files.kfd = true;
            }
            if !target.starts_with("/dev/dri/") {
                continue;
            }
            files.render = true;
            if let Ok(text) = root.text(&format!("/proc/{pid}/fdinfo/{name}"))
                && clients.insert(field(&text, "drm-client-id").map(str::to_owned))
            {
                files.add(&text);
            }
        }
        Some(files)
    }

    fn add(&mut self, fdinfo: &str) {
        let kib = |name: &str| {
            let (number, unit) = field(fdinfo, name)?.split_once(' ')?;
            let scale = match unit.trim() {
                "KiB" => 1 << 10,
                "MiB" => 1 << 20,
                _ => return None,
            };
            number.parse::<u64>().ok()?.checked_mul(scale)
        };
        if let Some(bytes) = kib("drm-memory-gtt").or_else(|| kib("drm-resident-gtt")) {
            self.gtt_bytes = Some(self.gtt_bytes.unwrap_or(0).saturating_add(bytes));
        }
        let encoders = ["drm-engine-enc", "drm-engine-enc_1"];
        let times = encoders.iter().filter_map(|name| {
            let (number, _) = field(fdinfo, name)?.split_once(' ')?;
            number.parse::<u64>().ok()
        });
        let busy = times.sum::<u64>() > 0;
        self.encodes = Some(self.encodes.unwrap_or(false) || busy);
    }
}

/// The value of `name:\tvalue`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let rest = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(rest.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_flags_that_matter_leave_a_command_line() {
        let words: Vec<String> = "llama-server -m /home/x/m.gguf --api-key s -ngl 99 --rpc 10.0.0.2:1 -fa --no-mmap -c=4096 -t /etc/passwd -ub -1"
            .split(' ')
            .map(str::to_owned)
            .collect();
        assert_eq!(
            flags(&words),
            [
                "-ngl 99",
                "--rpc",
                "-fa",
                "--no-mmap",
                "-c 4096",
                "-t",
                "-ub -1"
            ]
        );
    }

    #[test]
    fn memory_is_told_in_either_unit() {
        let mut files = Files::default();
        files.add("drm-memory-gtt:\t4 KiB\ndrm-engine-enc:\t0 ns\n");
        files.add("drm-resident-gtt:\t1 MiB\n");
        assert_eq!(files.gtt_bytes, Some((1 << 20) + 4096));
        assert_eq!(files.encodes, Some(false));
        files.add("drm-memory-gtt:\tlots KiB\ndrm-engine-enc_1:\t5 ns\n");
        assert_eq!(files.gtt_bytes, Some((1 << 20) + 4096));
        assert_eq!(files.encodes, Some(true));
    }
}
