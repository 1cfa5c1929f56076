//! Power profiles, governors, and where the power comes from.

use serde::{Deserialize, Serialize};

use super::Known;

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
