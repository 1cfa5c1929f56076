//! Device nodes, and who may use them.

use serde::{Deserialize, Serialize};

use super::Known;

/// Device nodes, and who may use them.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Access {
    /// `/dev/kfd`, which ROCm needs.
    pub kfd: Known<DeviceNode>,
    /// `/dev/dri/renderD*`, which Vulkan and ROCm need. The GPU that matters comes first.
    pub render: Known<Vec<DeviceNode>>,
    /// `/dev/accel/accel0`, which the NPU's programs need.
    pub accel: Known<DeviceNode>,
    /// Number of the user of the process that looked.
    pub user: Known<u32>,
    /// Names of its groups; numbers of groups that have none.
    pub groups: Known<Vec<String>>,
    /// Whether `render` is a group of this machine.
    pub render_group_exists: Known<bool>,
    /// Rules of udev that open AMD's device nodes to everybody, with their files.
    pub open_rules: Known<Vec<String>>,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    /// Its path.
    pub path: String,
    /// Its permissions in octal digits, such as `0660`.
    pub mode: String,
    /// The name of its group; the number if it has none.
    pub group: String,
    /// Whether the process that looked may read and write it; `None` if nobody can tell.
    pub usable: Option<bool>,
}
