//! One change of the machine's settings: what it does, why, when it holds, and how to see that it does.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{content::Content, runner::CommandLine, tree::FileState};

/// One change of the machine's settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What is done, in a few words: `let the GPU use 112 GiB`.
    pub title: String,
    /// Why, one sentence for each rule that asked for it.
    pub reasons: Vec<Reason>,
    /// From when on it holds.
    pub effect: Effect,
    /// How to see that the running machine took it.
    pub checks: Vec<Check>,
    /// What is done.
    pub action: Action,
}

/// Which rule asks for a change, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// `MEM-02`
    pub rule: String,
    /// One sentence.
    pub text: String,
    /// Where that is known from.
    pub sources: Vec<String>,
}

/// From when on a change holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// At once.
    Now,
    /// From the user's next login on.
    Login,
    /// After the next boot.
    Reboot,
}

/// What is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Action {
    /// A file gets another content, appears or goes.
    File(FileChange),
    /// A command changes a setting.
    Command(CommandChange),
    /// A command builds something from files: the boot loader's configuration, the initramfs. It runs after an apply, and again
    /// after an undo has put the files back.
    Rebuild {
        /// The command.
        command: CommandLine,
    },
}

/// A file that gets another content, appears or goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChange {
    /// As the machine itself sees it.
    pub path: PathBuf,
    /// What it was when the plan was made; `None`: it was not there.
    pub old: Option<FileState>,
    /// What it becomes; `None`: it goes.
    pub new: Option<Content>,
}

/// A command that changes a setting, and the one that takes it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandChange {
    /// The command.
    pub command: CommandLine,
    /// What takes it back.
    pub undo: CommandLine,
    /// The files that it changes, as paths or as `FOLDER/*.ending`: their contents are kept, so that an undo is exact.
    pub touches: Vec<PathBuf>,
}

/// How to see that the running machine took a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Check {
    /// The kernel was started with this argument.
    KernelArgument {
        /// `ttm.pages_limit=29360128`
        argument: String,
    },
    /// The kernel was started without this argument, whatever its value.
    NoKernelArgument {
        /// `amdgpu.gttsize`
        name: String,
    },
    /// A module has a parameter of this value.
    ModuleParameter {
        /// `ttm`
        module: String,
        /// `pages_limit`
        parameter: String,
        /// `29360128`
        value: String,
    },
    /// A setting below `/proc/sys`.
    Sysctl {
        /// `vm.swappiness`
        key: String,
        /// `10`
        value: String,
    },
    /// A file below `/sys` or elsewhere begins with a line of this text.
    Line {
        /// `/sys/firmware/acpi/platform_profile`
        path: String,
        /// `performance`
        text: String,
    },
    /// A group has a member.
    GroupMember {
        /// `render`
        group: String,
        /// `anna`
        user: String,
    },
    /// A unit of systemd is masked.
    Masked {
        /// `sleep.target`
        unit: String,
    },
}

impl Change {
    /// The rules that ask for it.
    pub fn rules(&self) -> Vec<&str> {
        self.reasons
            .iter()
            .map(|reason| reason.rule.as_str())
            .collect()
    }
}
