//! Device nodes, and who may use them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Because, Known, read};
use crate::root::{Node, NodeKind, Root};

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

const STATUS: &str = "/proc/self/status";
const GROUPS: &str = "/etc/group";
const RULES: &str = "/etc/udev/rules.d";

/// `/etc/group` of a machine with many users.
pub(crate) const GROUPS_BYTES_MAX: usize = 256 << 10;

impl Access {
    /// `render_minor` is that of the GPU that matters.
    pub(super) fn collect(root: &Root, render_minor: Option<u32>) -> Self {
        let status = root.text(STATUS);
        let ids = |name: &str| {
            read::told(&status, STATUS, name, |text| {
                let line = text.lines().find_map(|line| line.strip_prefix(name))?;
                let ids = line.strip_prefix(':')?.split_ascii_whitespace();
                let ids: Option<Vec<u32>> = ids.take(1024).map(|id| id.parse().ok()).collect();
                ids
            })
        };
        // Real, effective, saved and of the file system.
        let effective = |ids: Known<Vec<u32>>| match ids {
            Known::Value { value, source } => match value.get(1) {
                Some(id) => Known::value(*id, source),
                None => read::malformed(&source, "", "a list of numbers"),
            },
            Known::Unknown { unknown, because } => Known::unknown(because, unknown),
        };
        let user = effective(ids("Uid"));
        let mut own = ids("Groups");
        if let (Known::Value { value, .. }, Some(group)) =
            (&mut own, effective(ids("Gid")).copied())
            && !value.contains(&group)
        {
            value.insert(0, group);
        }
        let text = root.text_up_to(GROUPS, GROUPS_BYTES_MAX);
        let names = text.as_deref().map(group_names).unwrap_or_default();
        let who = Who {
            user: user.copied(),
            groups: own.get().cloned(),
            names,
        };
        let mut render: Vec<String> =
            read::files(root, "/dev/dri", |name| name.starts_with("renderD"));
        if let Some(minor) = render_minor {
            let first = format!("renderD{minor}");
            render.sort_by_key(|name| *name != first);
        }
        Self {
            kfd: who.node(root, "/dev/kfd"),
            render: who.nodes(root, &render),
            accel: who.node(root, "/dev/accel/accel0"),
            user,
            groups: own.map(|ids| ids.into_iter().map(|id| who.name(id)).collect()),
            render_group_exists: match &text {
                Ok(_) => {
                    let exists = who.names.values().any(|name| name == "render");
                    Known::value(exists, GROUPS)
                }
                Err(error) => error.clone().into(),
            },
            open_rules: open_rules(root),
        }
    }
}

/// The process that looked.
struct Who {
    user: Option<u32>,
    groups: Option<Vec<u32>>,
    names: BTreeMap<u32, String>,
}

impl Who {
    fn name(&self, group: u32) -> String {
        let name = self.names.get(&group).cloned();
        name.unwrap_or_else(|| group.to_string())
    }

    fn node(&self, root: &Root, path: &str) -> Known<DeviceNode> {
        match root.node(path) {
            Ok(node) if node.kind == NodeKind::Device => {
                let told = DeviceNode {
                    path: path.to_owned(),
                    mode: format!("{:04o}", node.mode),
                    group: self.name(node.group),
                    usable: node.usable.or_else(|| self.may_use(&node)),
                };
                Known::value(told, path)
            }
            Ok(_) => Known::unknown(Because::Malformed, format!("{path} is no device")),
            Err(error) => error.into(),
        }
    }

    fn nodes(&self, root: &Root, names: &[String]) -> Known<Vec<DeviceNode>> {
        let mut nodes = Vec::new();
        let mut refused = None;
        for name in names.iter().take(64) {
            match self.node(root, &format!("/dev/dri/{name}")) {
                Known::Value { value, .. } => nodes.push(value),
                Known::Unknown { unknown, because } => refused = Some((because, unknown)),
            }
        }
        match refused {
            Some((because, why)) if nodes.is_empty() => Known::unknown(because, why),
            None if nodes.is_empty() => Known::unknown(Because::Absent, "no /dev/dri/renderD*"),
            _ => Known::value(nodes, "/dev/dri"),
        }
    }

    /// What the permission bits say.
    fn may_use(&self, node: &Node) -> Option<bool> {
        let user = self.user?;
        let both = |shift: u32| node.mode >> shift & 0o6 == 0o6;
        if user == 0 || both(0) {
            return Some(true);
        }
        if user == node.owner {
            return Some(both(6));
        }
        let groups = self.groups.as_ref()?;
        Some(groups.contains(&node.group) && both(3))
    }
}

/// `render:x:105:owner`.
fn group_names(text: &str) -> BTreeMap<u32, String> {
    let lines = text.lines().take(8192);
    let pairs = lines.filter_map(|line| {
        let mut parts = line.split(':');
        let name = parts.next().filter(|name| !name.is_empty())?;
        Some((parts.nth(1)?.parse().ok()?, name.to_owned()))
    });
    pairs.collect()
}

/// Rules that give AMD's nodes to everybody. Only those of the administrator: what a distribution does is its own business.
fn open_rules(root: &Root) -> Known<Vec<String>> {
    let names = match root.names(RULES) {
        Ok(names) => names,
        Err(error) => return read::absent_is(error.into(), Vec::new()),
    };
    let mut rules = Vec::new();
    for name in names
        .iter()
        .filter(|name| name.strip_suffix(".rules").is_some())
        .take(256)
    {
        let path = format!("{RULES}/{name}");
        let Ok(text) = root.text(&path) else { continue };
        let opens = |line: &str| {
            let nodes = ["kfd", "renderD", "\"drm\"", "accel"];
            let all = line.contains("MODE=\"0666\"") || line.contains("MODE=\"666\"");
            all && !line.trim_start().starts_with('#')
                && nodes.iter().any(|node| line.contains(node))
        };
        if text.lines().any(opens) {
            rules.push(path);
        }
    }
    Known::value(rules, RULES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(mode: u32, owner: u32, group: u32) -> Node {
        Node {
            kind: NodeKind::Device,
            mode,
            owner,
            group,
            usable: None,
        }
    }

    #[test]
    fn permission_bits_are_read_as_the_kernel_reads_them() {
        let who = |user, groups: &[u32]| Who {
            user: Some(user),
            groups: Some(groups.to_vec()),
            names: BTreeMap::new(),
        };
        assert_eq!(who(7, &[105]).may_use(&node(0o660, 0, 105)), Some(true));
        assert_eq!(who(7, &[39]).may_use(&node(0o660, 0, 105)), Some(false));
        assert_eq!(who(7, &[]).may_use(&node(0o666, 0, 105)), Some(true));
        assert_eq!(who(0, &[]).may_use(&node(0o600, 5, 5)), Some(true));
        assert_eq!(who(7, &[105]).may_use(&node(0o060, 7, 105)), Some(false));
        let nobody = Who {
            user: None,
            groups: None,
            names: BTreeMap::new(),
        };
        assert_eq!(nobody.may_use(&node(0o660, 0, 0)), None);
    }
}
