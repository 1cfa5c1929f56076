//! The few commands that know what no file tells.

use std::{
    io::{self, Read},
    os::fd::AsFd,
    process::{Command as Process, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
};

use super::ReadError;
use crate::facts::Because;

/// A command that may be asked. None of them changes anything, and none needs root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Command {
    /// Vulkan's devices and their drivers.
    Vulkaninfo,
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
    /// Bytes that an answer may have.
    pub const BYTES_MAX: usize = 256 << 10;

    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Vulkaninfo,
        Self::Rpm,
        Self::DpkgQuery,
        Self::Pacman,
        Self::PowerProfile,
        Self::TunedActive,
    ];

    /// The name of its answer below `/commands` of a replayed machine.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vulkaninfo => "vulkaninfo",
            Self::Rpm => "rpm",
            Self::DpkgQuery => "dpkg-query",
            Self::Pacman => "pacman",
            Self::PowerProfile => "powerprofilesctl",
            Self::TunedActive => "tuned-adm",
        }
    }

    /// As one would type it.
    pub fn typed(self) -> String {
        let mut typed = self.name().to_owned();
        for argument in self.arguments() {
            typed.push(' ');
            typed.push_str(argument);
        }
        typed
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Vulkaninfo => &["--summary"],
            Self::Rpm => &["-q", "--qf", "%{NAME} %{VERSION}-%{RELEASE}\\n"],
            Self::DpkgQuery => &["-W", "-f", "${db:Status-Abbrev} ${Package} ${Version}\\n"],
            Self::Pacman => &["-Q"],
            Self::PowerProfile => &["get"],
            Self::TunedActive => &["active"],
        }
    }

    /// How long it may take. Vulkan's drivers look at the hardware.
    fn patience(self) -> Duration {
        Duration::from_millis(match self {
            Self::Vulkaninfo => 1500,
            Self::Rpm | Self::DpkgQuery | Self::Pacman => 500,
            Self::PowerProfile | Self::TunedActive => 300,
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
        let mut process = Process::new(self.name());
        process.args(self.arguments()).env("LC_ALL", "C");
        if matches!(self, Self::Rpm | Self::DpkgQuery | Self::Pacman) {
            process.args(PACKAGES);
        }
        let mut child = process
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| failed(&error))?;
        let deadline = Instant::now() + self.patience();
        let output = child.stdout.take().expect("it was asked for");
        let read = read_until(output, deadline);
        if read.is_err() {
            let _ = child.kill();
        }
        // A process that a driver holds cannot be killed and is not waited for; whoever ends us ends it.
        std::thread::spawn(move || child.wait());
        let bytes = read.map_err(|error| failed(&error))?;
        String::from_utf8(bytes).map_err(|_| ReadError::new(self.typed(), Because::NotText))
    }
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
