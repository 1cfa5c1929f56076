//! What went wrong in a fleet and was made good, in numbers.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::cause::CauseKind;

/// What went wrong since the fleet began.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Mishaps {
    /// Workers that ended while they were needed, by the kind of their end, such as `killed` or `device_lost`.
    pub worker_deaths: BTreeMap<&'static str, u64>,
    /// How often a stream went on in another worker.
    pub streams_resumed: u64,
    /// Steps down the ladder of safer ways to run a model.
    pub fallback_steps: u64,
}

/// Counts mishaps.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<Mishaps>);

impl Tally {
    pub(crate) fn died(&self, kind: CauseKind) {
        if let Some(name) = name(kind) {
            *self.lock().worker_deaths.entry(name).or_default() += 1;
        }
    }

    pub(crate) fn resumed(&self) {
        self.lock().streams_resumed += 1;
    }

    pub(crate) fn fell_back(&self) {
        self.lock().fallback_steps += 1;
    }

    /// The numbers so far.
    pub(crate) fn read(&self) -> Mishaps {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Mishaps> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The kind of a death in one word; `None` if the end was wanted.
fn name(kind: CauseKind) -> Option<&'static str> {
    Some(match kind {
        CauseKind::Unneeded => return None,
        CauseKind::Killed => "killed",
        CauseKind::Stopped => "stopped",
        CauseKind::Silent => "silent",
        CauseKind::Stalled => "stalled",
        CauseKind::OutOfMemory => "out_of_memory",
        CauseKind::DeviceLost => "device_lost",
        CauseKind::DeviceFault => "device_fault",
        CauseKind::DeviceError => "device_error",
        CauseKind::Assertion => "assertion",
        CauseKind::Crash => "crash",
        CauseKind::Exited => "exited",
        CauseKind::Protocol => "protocol",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_that_was_wanted_is_no_mishap() {
        let tally = Tally::default();
        for kind in [CauseKind::Killed, CauseKind::Unneeded, CauseKind::Killed] {
            tally.died(kind);
        }
        assert_eq!(tally.read().worker_deaths, BTreeMap::from([("killed", 2)]));
    }
}
