//! Power profiles, governors, and where the power comes from.

use serde::{Deserialize, Serialize};

use super::{Because, Known, read};
use crate::root::{Command, ReadError, Root};

/// Power profiles, governors, and where the power comes from.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Power {
    /// The firmware's profile: `performance`, `balanced`, `quiet`, `low-power`…
    pub platform_profile: Known<String>,
    /// Profiles that the firmware offers.
    pub platform_profile_choices: Known<Vec<String>>,
    /// The profile of TuneD.
    pub tuned_profile: Known<String>,
    /// The profile of power-profiles-daemon.
    pub power_profile: Known<String>,
    /// The power mode of boards with the AXB35 controller, if its module is loaded.
    pub board_mode: Known<String>,
    /// Driver of the processor's clocks, such as `amd-pstate-epp`.
    pub scaling_driver: Known<String>,
    /// State of `amd_pstate`: `active`, `passive`, `guided`.
    pub amd_pstate: Known<String>,
    /// Governor of the first core.
    pub governor: Known<String>,
    /// Preference between energy and speed, of the first core.
    pub energy_preference: Known<String>,
    /// Whether there is a battery.
    pub battery: Known<bool>,
    /// Whether the mains are plugged in.
    pub mains: Known<bool>,
    /// Whether the battery is being emptied.
    pub discharging: Known<bool>,
}

const CPUFREQ: &str = "/sys/devices/system/cpu/cpu0/cpufreq";
const SUPPLIES: &str = "/sys/class/power_supply";
const TUNED: &str = "/etc/tuned/active_profile";

impl Power {
    /// `tuned` and `profile` are what the two commands said.
    pub(super) fn collect(
        root: &Root,
        tuned: Result<String, ReadError>,
        profile: Result<String, ReadError>,
    ) -> Self {
        let cpufreq = |name: &str| read::line(root, &format!("{CPUFREQ}/{name}"));
        let profiles = "/sys/firmware/acpi/platform_profile";
        let supplies = supplies(root);
        let told = |find: fn(&[Supply]) -> Option<bool>, what: &str| match &supplies {
            Known::Value { value, source } => match find(value) {
                Some(told) => Known::value(told, source),
                None => Known::unknown(Because::Absent, format!("{source} has no {what}")),
            },
            Known::Unknown { unknown, because } => Known::unknown(*because, unknown),
        };
        Self {
            platform_profile: read::line(root, profiles),
            platform_profile_choices: read::line(root, &format!("{profiles}_choices"))
                .map(|text| text.split_ascii_whitespace().map(str::to_owned).collect()),
            tuned_profile: tuned_profile(tuned).or_else(|| read::line(root, TUNED)),
            power_profile: match profile {
                Ok(text) if !text.trim().is_empty() => Known::value(
                    text.trim().chars().take(64).collect(),
                    Command::PowerProfile.typed(),
                ),
                Ok(_) => Known::unknown(
                    Because::Malformed,
                    format!("{} says nothing", Command::PowerProfile.typed()),
                ),
                Err(error) => error.into(),
            },
            board_mode: read::line(root, "/sys/class/ec_su_axb35/apu/power_mode"),
            scaling_driver: cpufreq("scaling_driver"),
            amd_pstate: read::line(root, "/sys/devices/system/cpu/amd_pstate/status"),
            governor: cpufreq("scaling_governor"),
            energy_preference: cpufreq("energy_performance_preference"),
            battery: told(
                |supplies| Some(supplies.iter().any(|supply| supply.kind == "Battery")),
                "battery",
            ),
            mains: told(
                |supplies| {
                    let mut mains = supplies.iter().filter_map(|supply| supply.online);
                    mains
                        .next()
                        .map(|first| first || mains.any(|online| online))
                },
                "mains",
            ),
            discharging: told(
                |supplies| {
                    let mut states = supplies.iter().filter_map(|supply| supply.discharging);
                    states
                        .next()
                        .map(|first| first || states.any(|state| state))
                },
                "battery",
            ),
        }
    }
}

fn tuned_profile(answer: Result<String, ReadError>) -> Known<String> {
    let typed = Command::TunedActive.typed();
    match answer {
        Ok(text) => {
            let profile = text
                .lines()
                .find_map(|line| line.strip_prefix("Current active profile:"));
            match profile.map(str::trim) {
                Some(name) if !name.is_empty() => Known::value(name.to_owned(), typed),
                _ => Known::unknown(Because::Absent, format!("{typed} names no profile")),
            }
        }
        Err(error) => error.into(),
    }
}

/// A battery or a plug.
struct Supply {
    kind: String,
    online: Option<bool>,
    discharging: Option<bool>,
}

fn supplies(root: &Root) -> Known<Vec<Supply>> {
    let names = match root.names(SUPPLIES) {
        Ok(names) => names,
        Err(error) if error.because == Because::Absent && root.has("/sys/class") => {
            return Known::value(Vec::new(), error.to_string());
        }
        Err(error) => return error.into(),
    };
    let supplies = names.iter().take(32).map(|name| {
        let file = |file: &str| read::line(root, &format!("{SUPPLIES}/{name}/{file}"));
        let kind = file("type").get().cloned().unwrap_or_default();
        // The batteries of mice and headsets power those only.
        let device = file("scope").get().is_some_and(|scope| scope == "Device");
        Supply {
            online: (kind == "Mains")
                .then(|| file("online").get().map(|online| online == "1"))
                .flatten(),
            discharging: (kind == "Battery" && !device)
                .then(|| file("status").get().map(|status| status == "Discharging"))
                .flatten(),
            kind: if device { String::new() } else { kind },
        }
    });
    Known::value(supplies.collect(), SUPPLIES)
}
