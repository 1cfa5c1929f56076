//! The few commands that know what no file tells.

use std::{
    env,
    fs::File,
    io::{self, Read},
    os::{
        fd::AsFd,
        unix::{fs::PermissionsExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command as Process, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    process::{Pid, Signal, kill_process_group},
};

use super::ReadError;
use crate::facts::Because;

/// A command that may be asked. None of them changes anything, and none needs root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Command {
    /// Vulkan's devices and their drivers.
    Vulkaninfo,
    /// What Vulkan's devices can do.
    VulkanFeatures,
    /// Versions of the packages that matter, where packages are RPMs.
    Rpm,
    /// Versions of the packages that matter, where packages are debs.
    DpkgQuery,
    /// Versions of the packages that matter, where packages are pacman's.
    Pacman,
    /// The profile of power-profiles-daemon.
    PowerProfile,
    /// The profile of TuneD.
    TunedActive,
    /// The NPUs that XRT sees.
    XrtSmi,
    /// Which build of llama.cpp is installed.
    LlamaServer,
    /// Which Ollama is installed.
    Ollama,
}

/// Packages that facts are told of, under the names of all distributions. Those that are not installed are left out of the answers.
pub(crate) const PACKAGES: &[&str] = &[
    "linux-firmware",
    "linux-firmware-amdgpu",
    "amd-gpu-firmware",
    "firmware-amd-graphics",
    "amdgpu-dkms",
    "amdgpu-dkms-firmware",
    "amdxdna-dkms",
    "amdvlk",
    "mesa-vulkan-drivers",
    "mesa",
    "vulkan-radeon",
    "rocm-core",
    "rocm-hip-runtime",
    "rocm-runtime",
    "hip-runtime-amd",
    "libxrt2",
    "libxrt-npu2",
    "xrt",
    "xrt-plugin-amdxdna",
    "fastflowlm",
    "lemonade-server",
    "ollama",
    "tuned",
    "power-profiles-daemon",
];

impl Command {
    /// Bytes that an answer may have. What Vulkan's devices can do fills a few hundred thousand.
    pub const BYTES_MAX: usize = 1 << 20;

    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Vulkaninfo,
        Self::VulkanFeatures,
        Self::Rpm,
        Self::DpkgQuery,
        Self::Pacman,
        Self::PowerProfile,
        Self::TunedActive,
        Self::XrtSmi,
        Self::LlamaServer,
        Self::Ollama,
    ];

    /// The name of its answer below `/commands` of a replayed machine.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vulkaninfo => "vulkaninfo",
            Self::VulkanFeatures => "vulkaninfo-features",
            Self::Rpm => "rpm",
            Self::DpkgQuery => "dpkg-query",
            Self::Pacman => "pacman",
            Self::PowerProfile => "powerprofilesctl",
            Self::TunedActive => "tuned-adm",
            Self::XrtSmi => "xrt-smi",
            Self::LlamaServer => "llama-server",
            Self::Ollama => "ollama",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::VulkanFeatures => "vulkaninfo",
            _ => self.name(),
        }
    }

    /// As one would type it.
    pub fn typed(self) -> String {
        let mut typed = self.program().to_owned();
        for argument in self.arguments() {
            typed.push(' ');
            typed.push_str(argument);
        }
        typed
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Vulkaninfo => &["--summary"],
            Self::VulkanFeatures => &[],
            Self::Rpm => &["-q", "--qf", "%{NAME} %{VERSION}-%{RELEASE}\\n"],
            Self::DpkgQuery => &["-W", "-f", "${db:Status-Abbrev} ${Package} ${Version}\\n"],
            Self::Pacman => &["-Q"],
            Self::PowerProfile => &["get"],
            Self::TunedActive => &["active"],
            Self::XrtSmi => &["examine"],
            Self::LlamaServer | Self::Ollama => &["--version"],
        }
    }

    /// Variables that it gets. None of these commands needs a screen, and none shall take hold of the GPU or ask another machine.
    fn environment(self) -> &'static [(&'static str, &'static str)] {
        match self {
            // Older builds start their backends before they read their arguments.
            Self::LlamaServer => &[
                ("HIP_VISIBLE_DEVICES", "-1"),
                ("CUDA_VISIBLE_DEVICES", "-1"),
            ],
            // The variable may name any machine. Nothing answers here, and the program then tells its own version.
            Self::Ollama => &[("OLLAMA_HOST", "127.0.0.1:9")],
            _ => &[],
        }
    }

    /// Whether a script of this name is left alone: it may do anything, such as start a server in a container.
    fn only_as_binary(self) -> bool {
        matches!(self, Self::LlamaServer | Self::Ollama)
    }

    /// Whether what it writes to standard error belongs to the answer.
    fn answers_on_both(self) -> bool {
        matches!(self, Self::LlamaServer | Self::Ollama)
    }

    /// How long it may take. Vulkan's drivers look at the hardware.
    fn patience(self) -> Duration {
        Duration::from_millis(match self {
            Self::Vulkaninfo | Self::VulkanFeatures | Self::XrtSmi | Self::LlamaServer => 1500,
            Self::Rpm | Self::DpkgQuery | Self::Pacman => 500,
            Self::PowerProfile | Self::TunedActive | Self::Ollama => 300,
        })
    }

    pub(super) fn run(self) -> Result<String, ReadError> {
        let failed = |error: &io::Error| {
            let because = match error.kind() {
                io::ErrorKind::NotFound => Because::Absent,
                io::ErrorKind::PermissionDenied => Because::Permission,
                io::ErrorKind::TimedOut => Because::TimedOut,
                io::ErrorKind::FileTooLarge => Because::TooLarge,
                _ => Because::Failed,
            };
            let detail = if because == Because::Failed {
                error.to_string()
            } else {
                String::new()
            };
            ReadError::new(self.typed(), because).detail(detail)
        };
        let program = if self.only_as_binary() {
            let program = found(self.program()).ok_or(io::ErrorKind::NotFound.into());
            let program = program.map_err(|error: io::Error| failed(&error))?;
            if !is_binary(&program) {
                let error = ReadError::new(self.typed(), Because::NotApplicable);
                return Err(error.detail("it is a script, and may start a server"));
            }
            program
        } else {
            self.program().into()
        };
        let mut process = Process::new(program);
        process
            .args(self.arguments())
            .env("LC_ALL", "C")
            .envs(self.environment().iter().copied())
            .env_remove("DISPLAY")
            .env_remove("WAYLAND_DISPLAY");
        if matches!(self, Self::Rpm | Self::DpkgQuery | Self::Pacman) {
            process.args(PACKAGES);
        }
        let bytes = self
            .answer(process, self.patience())
            .map_err(|error| failed(&error))?;
        String::from_utf8(bytes).map_err(|_| ReadError::new(self.typed(), Because::NotText))
    }

    /// What it writes, if it ends in time.
    fn answer(self, process: Process, patience: Duration) -> io::Result<Vec<u8>> {
        let (output, mut child) = self.start(process)?;
        let read = read_until(output, Instant::now() + patience);
        if read.is_err() {
            // Some of them are scripts around the program.
            let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
        }
        // A process that a driver holds cannot be killed and is not waited for; whoever ends us ends it.
        std::thread::spawn(move || child.wait());
        read
    }

    fn start(self, mut process: Process) -> io::Result<(io::PipeReader, Child)> {
        let (output, input) = io::pipe()?;
        if self.answers_on_both() {
            process.stderr(input.try_clone()?);
        } else {
            process.stderr(Stdio::null());
        }
        // `process` holds the ends that are written to, and must be gone for the answer to end.
        let child = process
            .stdin(Stdio::null())
            .stdout(input)
            .process_group(0)
            .spawn()?;
        Ok((output, child))
    }
}

/// The file that a shell would start for this name.
fn found(program: &str) -> Option<PathBuf> {
    let folders = env::var_os("PATH")?;
    let mut places = env::split_paths(&folders).filter(|folder| folder.is_absolute());
    places.find_map(|folder| {
        let place = folder.join(program);
        let about = place.metadata().ok()?;
        let runs = about.is_file() && about.permissions().mode() & 0o111 != 0;
        runs.then_some(place)
    })
}

fn is_binary(program: &Path) -> bool {
    let mut magic = [0; 4];
    let read = File::open(program).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && magic == *b"\x7fELF"
}

/// Reads to the end or until the deadline.
fn read_until(mut output: impl Read + AsFd, deadline: Instant) -> io::Result<Vec<u8>> {
    let flags = fcntl_getfl(&output)?;
    fcntl_setfl(&output, flags | OFlags::NONBLOCK)?;
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match output.read(&mut piece) {
            Ok(0) => return Ok(bytes),
            Ok(count) if bytes.len() + count > Command::BYTES_MAX => {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                let left = Timespec {
                    tv_sec: left.as_secs() as i64,
                    tv_nsec: i64::from(left.subsec_nanos()),
                };
                match poll(&mut [PollFd::new(&output, PollFlags::IN)], Some(&left)) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::fd::AsRawFd};

    use super::*;

    #[test]
    fn a_script_is_told_from_a_binary() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("llama-server");
        for (content, expected) in [
            (&b"#!/bin/sh\nexec podman run x\n"[..], false),
            (b"\x7fELF\x02\x01", true),
            (b"\x7fE", false),
        ] {
            fs::write(&script, content).unwrap();
            assert_eq!(is_binary(&script), expected);
        }
        assert!(!is_binary(folder.path()));
    }

    #[test]
    fn a_command_that_does_not_end_is_given_up_with_all_that_it_started() {
        // Once it had time enough to begin, whatever else this machine does.
        let began = [1, 4, 16, 64].into_iter().any(|quarters| {
            let (reader, writer) = io::pipe().unwrap();
            let ours = format!("/proc/{}/fd/{}", std::process::id(), writer.as_raw_fd());
            let mut process = Process::new("sh");
            let script = "exec 3>\"$0\"; (echo began >&3; exec sleep 600) & wait";
            process.args(["-c", script, &ours]);
            let patience = Duration::from_millis(250 * quarters);
            let answer = Command::XrtSmi.answer(process, patience);
            assert_eq!(answer.unwrap_err().kind(), io::ErrorKind::TimedOut);
            drop(writer);
            // It ends when nobody is left who could write to it.
            let rest = read_until(reader, Instant::now() + Duration::from_secs(60));
            rest.unwrap() == b"began\n"
        });
        assert!(began);
    }

    #[test]
    fn both_streams_are_one_answer_where_they_should_be() {
        for (command, expected) in [
            (Command::LlamaServer, "out\nerr\n"),
            (Command::XrtSmi, "out\n"),
        ] {
            let mut process = Process::new("sh");
            process.args(["-c", "echo out; echo err >&2"]);
            let answer = command.answer(process, Duration::from_secs(60)).unwrap();
            assert_eq!(String::from_utf8(answer).unwrap(), expected);
        }
    }
}
