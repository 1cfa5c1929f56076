//! The kernel that runs.

use serde::{Deserialize, Serialize};

use super::Known;

/// The kernel that runs.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Kernel {
    /// Its release, such as `6.17.0-35-generic`.
    pub release: Known<String>,
    /// What the release says.
    pub version: Known<KernelVersion>,
    /// Its arguments, one by one. A value in quotes keeps its spaces and loses the quotes.
    pub arguments: Known<Vec<String>>,
    /// Machine type, such as `x86_64` or `aarch64`.
    pub architecture: Known<String>,
    /// The taint bits; bit 12 is a module from outside the tree, bit 9 a warning, bit 7 an oops.
    pub taint: Known<u64>,
    /// Whether it was started by UEFI.
    pub uefi: Known<bool>,
}

/// The parts of a kernel's release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelVersion {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number, 0 if there is none.
    pub patch: u32,
    /// The first number after the dash: Ubuntu's ABI number, Fedora's release.
    pub build: Option<u32>,
    /// The last word: `generic`, `oem`, `cachyos`, `fc43`…; empty if there is none.
    pub flavour: String,
    /// The three numbers with dots, for comparing: `6.17.0`.
    pub text: String,
}
