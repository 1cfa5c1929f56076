//! Parameters of the kernel modules that matter: as they are, and as they are configured.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Because, Known, read};
use crate::root::Root;

/// Parameters of the kernel modules that matter.
///
/// Each map is unknown with [`Because::Absent`](super::Because::Absent) if the module is not loaded. The values are the kernel's texts, without line end.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Modules {
    /// `ttm`: `pages_limit`, `page_pool_size`, in pages of 4 KiB.
    pub ttm: Known<BTreeMap<String, String>>,
    /// `amdttm`, which only the amdgpu-dkms package brings.
    pub amdttm: Known<BTreeMap<String, String>>,
    /// `amdgpu`: `gttsize` in MiB, `cwsr_enable`, `noretry`, `ppfeaturemask`…
    pub amdgpu: Known<BTreeMap<String, String>>,
    /// `amdxdna`, the driver of the NPU.
    pub amdxdna: Known<BTreeMap<String, String>>,
    /// Version of an amdgpu from outside the kernel's tree; absent for the kernel's own.
    pub amdgpu_version: Known<String>,
    /// Version of an amdxdna from outside the kernel's tree; absent for the kernel's own.
    pub amdxdna_version: Known<String>,
    /// `options` lines of modprobe's configuration for these modules, in the order in which they are read.
    pub options: Known<Vec<ModuleOption>>,
    /// Modules that modprobe's configuration forbids.
    pub blacklist: Known<Vec<String>>,
}

/// One `module.name=value`, from modprobe's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleOption {
    /// The module.
    pub module: String,
    /// The parameter.
    pub name: String,
    /// Its value; empty if it was given none.
    pub value: String,
    /// The file that says so.
    pub file: String,
}

/// The modules whose settings are told.
pub(crate) const MODULES: &[&str] = &["ttm", "amdttm", "amdgpu", "amdxdna"];

/// Where modprobe reads its settings, in the order in which files hide others of their name.
pub(crate) const FOLDERS: &[&str] = &[
    "/etc/modprobe.d",
    "/run/modprobe.d",
    "/usr/local/lib/modprobe.d",
    "/usr/lib/modprobe.d",
    "/lib/modprobe.d",
];

impl Modules {
    pub(super) fn collect(root: &Root) -> Self {
        let mut options = Vec::new();
        let mut blacklist = Vec::new();
        let files = read::layered(root, FOLDERS, ".conf");
        let mut refused = None;
        for file in &files {
            match root.text(file) {
                Ok(text) => settings(&text, file, &mut options, &mut blacklist),
                Err(error) => refused = Some(error),
            }
        }
        let source = FOLDERS[0];
        // A file that cannot be read may hold what matters, unless something that matters was found already.
        let (options, blacklist) = match refused {
            Some(error) if options.is_empty() => (error.clone().into(), error.into()),
            _ => (
                Known::value(options, source),
                Known::value(blacklist, source),
            ),
        };
        let version = |module: &str| {
            let path = format!("/sys/module/{module}/version");
            read::line(root, &path)
        };
        Self {
            ttm: parameters(root, "ttm"),
            amdttm: parameters(root, "amdttm"),
            amdgpu: parameters(root, "amdgpu"),
            amdxdna: parameters(root, "amdxdna"),
            amdgpu_version: version("amdgpu"),
            amdxdna_version: version("amdxdna"),
            options,
            blacklist,
        }
    }
}

fn parameters(root: &Root, module: &str) -> Known<BTreeMap<String, String>> {
    let folder = format!("/sys/module/{module}");
    if let Err(error) = root.node(&folder) {
        return match error.because {
            Because::Absent => Known::unknown(
                Because::Absent,
                format!("the module {module} is not loaded"),
            ),
            _ => error.into(),
        };
    }
    let folder = format!("{folder}/parameters");
    let names = match root.names(&folder) {
        Ok(names) => names,
        // A module without parameters has no such folder.
        Err(error) if error.because == Because::Absent => Vec::new(),
        Err(error) => return error.into(),
    };
    let mut refused = None;
    let mut parameters = BTreeMap::new();
    for name in names.into_iter().take(512) {
        match root.text(&format!("{folder}/{name}")) {
            Ok(text) => {
                let value: String = text.trim().chars().take(256).collect();
                parameters.insert(name, value);
            }
            Err(error) => refused = Some(error),
        }
    }
    match refused {
        Some(error) if parameters.is_empty() => error.into(),
        _ => Known::value(parameters, folder),
    }
}

/// Reads a file of modprobe's. A backslash at the end of a line joins the next one to it.
fn settings(text: &str, file: &str, options: &mut Vec<ModuleOption>, blacklist: &mut Vec<String>) {
    let joined = text.replace("\\\n", " ");
    for line in joined.lines() {
        let line = line.trim();
        if line.starts_with('#') || options.len() > 1024 {
            continue;
        }
        let mut words = super::kernel::arguments(line).into_iter();
        let (command, module) = (words.next(), words.next());
        let Some(module) = module.map(|name| name.replace('-', "_")) else {
            continue;
        };
        if !MODULES.contains(&&*module) {
            continue;
        }
        match command.as_deref() {
            Some("blacklist") => blacklist.push(module),
            Some("options") => options.extend(words.filter_map(|word| {
                let (name, value) = word.split_once('=').unwrap_or((&word, ""));
                (!name.is_empty()).then(|| ModuleOption {
                    module: module.clone(),
                    name: name.to_owned(),
                    value: value.chars().take(256).collect(),
                    file: file.to_owned(),
                })
            })),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_told_one_by_one_and_comments_are_not() {
        let text = "# options ttm pages_limit=1\noptions ttm pages_limit=2 \\\n  page_pool_size=3\noptions snd x=1\nblacklist amdgpu\nblacklist pcspkr\noptions amdgpu =x gttsize\noptions\n";
        let (mut options, mut blacklist) = (Vec::new(), Vec::new());
        settings(text, "/f", &mut options, &mut blacklist);
        let told: Vec<_> = options
            .iter()
            .map(|option| (&*option.module, &*option.name, &*option.value))
            .collect();
        assert_eq!(
            told,
            [
                ("ttm", "pages_limit", "2"),
                ("ttm", "page_pool_size", "3"),
                ("amdgpu", "gttsize", "")
            ]
        );
        assert_eq!(blacklist, ["amdgpu"]);
    }
}
