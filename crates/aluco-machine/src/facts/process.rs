//! Programs that want the same memory: those that use the GPU, and those that serve models.

use serde::{Deserialize, Serialize};

use super::Known;

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
