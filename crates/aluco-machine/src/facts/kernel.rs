//! The kernel that runs.

use serde::{Deserialize, Serialize};

use super::{Because, Known, read};
use crate::root::Root;

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

/// The kernel's own limit of its arguments is below this on every machine.
const ARGUMENTS_MAX: usize = 512;

impl Kernel {
    pub(super) fn collect(root: &Root) -> Self {
        let path = "/proc/sys/kernel/osrelease";
        let firmware = "/sys/firmware/efi";
        let uefi = match root.node(firmware) {
            Ok(_) => Known::value(true, firmware),
            Err(error) => match (error.because, root.has("/sys/firmware")) {
                (Because::Absent, true) => Known::value(false, error.to_string()),
                _ => error.into(),
            },
        };
        let architecture = read::line(root, "/proc/sys/kernel/arch");
        Self {
            release: read::line(root, path),
            version: read::parsed(root, path, "the release of a kernel", KernelVersion::parse),
            arguments: match root.text("/proc/cmdline") {
                // What comes after two dashes is for the first process.
                Ok(text) => {
                    let words = arguments(&text).into_iter();
                    let own = words.take_while(|word| word != "--").collect();
                    Known::value(own, "/proc/cmdline")
                }
                Err(error) => error.into(),
            },
            architecture: if root.is_live() {
                architecture.or_else(|| Known::value(std::env::consts::ARCH.to_owned(), "aluco"))
            } else {
                architecture
            },
            taint: read::number(root, "/proc/sys/kernel/tainted"),
            uefi,
        }
    }

    /// The value of an argument such as `ttm.pages_limit`, the last one if it is given more than once; empty if it has none.
    pub fn argument(&self, name: &str) -> Option<&str> {
        let arguments = self.arguments.get()?.iter().rev();
        arguments
            .map(|argument| argument.split_once('=').unwrap_or((argument, "")))
            .find_map(|(given, value)| same_name(given, name).then_some(value))
    }
}

/// The kernel takes a dash in the name of a parameter for an underscore.
fn same_name(a: &str, b: &str) -> bool {
    let letters = |name: &str| name.replace('-', "_");
    letters(a) == letters(b)
}

impl KernelVersion {
    /// Reads `6.17.0-35-generic`.
    pub fn parse(release: &str) -> Option<Self> {
        let (numbers, rest) =
            match release.find(|letter: char| letter != '.' && !letter.is_ascii_digit()) {
                Some(end) => release.split_at(end),
                None => (release, ""),
            };
        let mut parts = numbers.trim_end_matches('.').split('.').map(str::parse);
        let major = parts.next()?.ok()?;
        let minor = parts.next()?.ok()?;
        let patch = parts.next().unwrap_or(Ok(0)).ok()?;
        let rest = rest.trim_start_matches(['-', '+', '_']);
        let digits = rest.len()
            - rest
                .trim_start_matches(|letter: char| letter.is_ascii_digit())
                .len();
        let build = rest[..digits].parse().ok();
        // Fedora's `100.fc43.x86_64` ends in the machine type, Ubuntu's `35-generic` in the flavour.
        let mut words = rest.split(['-', '.']).filter(|word| {
            let number = word.bytes().all(|byte| byte.is_ascii_digit());
            !number && !matches!(*word, "x86_64" | "aarch64" | "arm64" | "amd64")
        });
        Some(Self {
            major,
            minor,
            patch,
            build,
            flavour: words.next_back().unwrap_or_default().to_owned(),
            text: format!("{major}.{minor}.{patch}"),
        })
    }
}

/// Arguments as the kernel parts them: at white space that is not in double quotes.
pub(crate) fn arguments(text: &str) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut argument = String::new();
    let mut quoted = false;
    for letter in text.trim().chars() {
        match letter {
            '"' => quoted = !quoted,
            letter if letter.is_whitespace() && !quoted => {
                if !argument.is_empty() {
                    arguments.push(std::mem::take(&mut argument));
                }
            }
            letter => argument.push(letter),
        }
    }
    if !argument.is_empty() {
        arguments.push(argument);
    }
    arguments.truncate(ARGUMENTS_MAX);
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_distributions_are_read() {
        let cases = [
            ("7.1.3-100.fc43.x86_64", "7.1.3", Some(100), "fc43"),
            ("6.17.0-35-generic", "6.17.0", Some(35), "generic"),
            ("6.14.0-1014-oem", "6.14.0", Some(1014), "oem"),
            ("7.2.0-1-cachyos", "7.2.0", Some(1), "cachyos"),
            ("7.2.0-arch1-1", "7.2.0", None, "arch1"),
            ("7.1.0", "7.1.0", None, ""),
            ("6.19-rc3", "6.19.0", None, "rc3"),
        ];
        for (release, text, build, flavour) in cases {
            let version = KernelVersion::parse(release).unwrap();
            assert_eq!(
                (&*version.text, version.build, &*version.flavour),
                (text, build, flavour),
                "{release}"
            );
        }
        for rubbish in ["", "7", "generic", "99999999999.1.1", ".1.2"] {
            assert_eq!(KernelVersion::parse(rubbish), None, "{rubbish}");
        }
    }

    #[test]
    fn arguments_in_quotes_keep_their_spaces() {
        assert_eq!(
            arguments("quiet  dyndbg=\"file a +p\"\tro\n"),
            ["quiet", "dyndbg=file a +p", "ro"]
        );
    }

    #[test]
    fn the_last_of_two_arguments_counts() {
        let kernel = Kernel {
            arguments: Known::value(arguments("ttm.pages-limit=1 ttm.pages_limit=2 quiet"), ""),
            ..Kernel::default()
        };
        assert_eq!(kernel.argument("ttm.pages_limit"), Some("2"));
        assert_eq!(kernel.argument("quiet"), Some(""));
        assert_eq!(kernel.argument("splash"), None);
    }
}
