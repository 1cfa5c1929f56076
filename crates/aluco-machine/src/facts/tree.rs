//! Facts by name, for rules and for the curious: `kernel.version.minor`, `gpu.gtt_total_bytes`, `modules.ttm.pages_limit`.

use serde_json::Value;

use super::{Because, Facts};

/// A snapshot as a tree of JSON, in which facts are looked up by dotted path. Build it once and ask it often.
///
/// The wrapper of [`Known`](super::Known) is seen through: `kernel.version.minor` goes through the value of `kernel.version`. A number in a path is
/// a place in a list: `gpus.0.driver`. `gpu` is short for the [GPU that matters](Facts::primary_gpu), `kfd_gpu` for its node in the KFD topology.
#[derive(Debug, Clone)]
pub struct FactTree {
    root: Value,
    gpu: Option<usize>,
    kfd_gpu: Option<usize>,
}

/// What a [`FactTree`] says of a path.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fact<'a> {
    /// It is known.
    Value {
        /// What it is; never the wrapper of a [`Known`](super::Known), though what is inside may hold some.
        value: &'a Value,
        /// The nearest source above it; `None` for lists and groups of facts.
        source: Option<&'a str>,
    },
    /// It, or what it is part of, is not known.
    Unknown {
        /// Why, in words.
        why: &'a str,
        /// Why, for programs.
        because: Because,
    },
    /// There is no such entry: a list without that place, a map without that key, or a name that no fact has.
    Missing,
}

impl<'a> Fact<'a> {
    /// The value, if it is known.
    pub fn value(self) -> Option<&'a Value> {
        match self {
            Self::Value { value, .. } => Some(value),
            Self::Unknown { .. } | Self::Missing => None,
        }
    }
}

impl FactTree {
    /// The tree of this snapshot.
    pub fn new(facts: &Facts) -> Self {
        Self {
            root: serde_json::to_value(facts).expect("facts have text keys and finite numbers"),
            gpu: facts.primary_gpu_index(),
            kfd_gpu: facts.kfd.gpu_index(),
        }
    }

    /// The whole tree, as `aluco machine --json` writes it.
    pub fn json(&self) -> &Value {
        &self.root
    }

    /// What is known of this path.
    pub fn lookup(&self, path: &str) -> Fact<'_> {
        let (mut at, rest) = match self.beginning(path) {
            Ok(beginning) => beginning,
            Err(why) => {
                return Fact::Unknown {
                    why,
                    because: Because::Absent,
                };
            }
        };
        let mut source = None;
        for step in rest.split('.').filter(|step| !step.is_empty()) {
            at = match through(at, &mut source) {
                Ok(inner) => inner,
                Err(unknown) => return unknown,
            };
            let next = match at {
                Value::Object(entries) => entries.get(step),
                Value::Array(items) => step.parse().ok().and_then(|place: usize| items.get(place)),
                _ => None,
            };
            match next {
                Some(next) => at = next,
                None => return Fact::Missing,
            }
        }
        match through(at, &mut source) {
            Ok(value) => Fact::Value { value, source },
            Err(unknown) => unknown,
        }
    }

    fn beginning<'p>(&self, path: &'p str) -> Result<(&Value, &'p str), &'static str> {
        let (first, rest) = path.split_once('.').unwrap_or((path, ""));
        match first {
            "gpu" => self
                .gpu
                .and_then(|index| self.root.get("gpus")?.get(index))
                .map(|gpu| (gpu, rest))
                .ok_or("no GPU was found below /sys/class/drm"),
            "kfd_gpu" => self
                .kfd_gpu
                .and_then(|index| self.root.pointer(&format!("/kfd/nodes/value/{index}")))
                .map(|node| (node, rest))
                .ok_or("no GPU was found below /sys/class/kfd"),
            _ => Ok((&self.root, path)),
        }
    }
}

/// Goes through the wrapper of a `Known`, if this is one.
fn through<'a>(at: &'a Value, source: &mut Option<&'a str>) -> Result<&'a Value, Fact<'a>> {
    let Value::Object(entries) = at else {
        return Ok(at);
    };
    if entries.len() == 2 {
        if let (Some(value), Some(Value::String(from))) =
            (entries.get("value"), entries.get("source"))
        {
            *source = Some(from);
            return Ok(value);
        }
        if let (Some(Value::String(why)), Some(because)) =
            (entries.get("unknown"), entries.get("because"))
            && let Ok(because) = serde::Deserialize::deserialize(because)
        {
            return Err(Fact::Unknown { why, because });
        }
    }
    Ok(at)
}
