//! Messages, one after the other, as events. A fault is told over several messages; what follows completes the event that it
//! belongs to.

use std::{
    collections::VecDeque,
    time::{Duration, SystemTime},
};

use super::{
    classify::{classify, fault_client, fault_status, process},
    event::{KernelEvent, KernelEventKind},
};

/// Older events are forgotten: a storm of faults must not fill memory.
const EVENTS_MAX: usize = 1024;
/// Messages of one fault come within this time…
const TOGETHER_MAX: Duration = Duration::from_secs(2);
/// …and with no more than so many others between them.
const MESSAGES_BETWEEN_MAX: u32 = 12;

/// Turns messages into events and keeps the last of them.
#[derive(Debug, Default)]
pub struct Tracker {
    events: VecDeque<KernelEvent>,
    /// Messages since the last event.
    since_last: u32,
}

impl Tracker {
    /// Takes a message; whether it is a new event.
    pub fn take(&mut self, at: SystemTime, text: &str) -> bool {
        self.since_last = self.since_last.saturating_add(1);
        if let Some(kind) = classify(text) {
            let (pid, process) = process(text).unzip();
            if self.events.len() == EVENTS_MAX {
                self.events.pop_front();
            }
            self.events.push_back(KernelEvent {
                at,
                kind,
                pid,
                process,
                line: text.to_owned(),
            });
            self.since_last = 0;
            return true;
        }
        self.complete(at, text);
        false
    }

    /// The events that happened at this moment or later, oldest first.
    pub fn recent(&self, since: SystemTime) -> Vec<KernelEvent> {
        self.events
            .iter()
            .filter(|event| event.at >= since)
            .cloned()
            .collect()
    }

    /// Adds to the last event what a message tells of it.
    fn complete(&mut self, at: SystemTime, text: &str) {
        if self.since_last > MESSAGES_BETWEEN_MAX {
            return;
        }
        let Some(last) = self.events.back_mut() else {
            return;
        };
        if at
            .duration_since(last.at)
            .is_ok_and(|passed| passed > TOGETHER_MAX)
        {
            return;
        }
        let of_gpu = matches!(
            last.kind,
            KernelEventKind::RingTimeout { .. } | KernelEventKind::PageFault { .. }
        );
        if of_gpu
            && last.pid.is_none()
            && let Some((pid, name)) = process(text)
        {
            last.pid = Some(pid);
            last.process = Some(name);
        }
        if let KernelEventKind::PageFault { status, client } = &mut last.kind {
            *status = status.or_else(|| fault_status(text));
            if client.is_none() {
                *client = fault_client(text).map(str::to_owned);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::parse_monotonic_line;

    /// From ROCm/legacy-rocm-build#5724: the scheduler firmware fails.
    const MES_BLOCK: &str = "\
[  950.818166] amdgpu 0000:c5:00.0: amdgpu: MES failed to respond to msg=REMOVE_QUEUE
[  950.818171] amdgpu 0000:c5:00.0: amdgpu: failed to remove hardware queue from MES, doorbell=0x1802
[  950.818174] amdgpu 0000:c5:00.0: amdgpu: MES might be in unrecoverable state, issue a GPU reset
[  950.818199] amdgpu 0000:c5:00.0: amdgpu: GPU reset begin!. Source:  3
[  953.391196] amdgpu: Freeing queue vital buffer 0x7f2e70800000, queue evicted
";
    /// From ROCm/legacy-rocm-build#6139; the times are made.
    const FAULT_BLOCK: &str = "\
[  100.000001] amdgpu 0000:c5:00.0: amdgpu: [gfxhub] page fault (src_id:0 ring:153 vmid:8 pasid:32770)
[  100.000002] amdgpu 0000:c5:00.0: amdgpu:  Process llama-cli pid 10890 thread llama-cli pid 10890
[  100.000003] amdgpu 0000:c5:00.0: amdgpu:   in page starting at address 0x00007f2fe7922000 from client 10
[  100.000004] amdgpu 0000:c5:00.0: amdgpu: GCVM_L2_PROTECTION_FAULT_STATUS:0x00800932
[  100.000005] amdgpu 0000:c5:00.0: amdgpu: \t Faulty UTCL2 client ID: CPF (0x4)
[  100.000006] amdgpu 0000:c5:00.0: amdgpu: \t MORE_FAULTS: 0x0
[  100.000007] amdgpu 0000:c5:00.0: amdgpu: \t WALKER_ERROR: 0x1
";

    fn tracked(block: &str) -> Vec<KernelEvent> {
        let mut tracker = Tracker::default();
        for line in block.lines() {
            let line = parse_monotonic_line(line.as_bytes()).expect("a line");
            tracker.take(SystemTime::UNIX_EPOCH + line.at, &line.text);
        }
        tracker.recent(SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn a_failing_scheduler_is_told_step_by_step() {
        let events = tracked(MES_BLOCK);
        let rules: Vec<_> = events
            .iter()
            .filter_map(|event| event.kind.rule())
            .collect();
        assert_eq!(rules, ["LOG-02", "LOG-05", "LOG-02", "LOG-04", "LOG-05"]);
        assert!(events.iter().all(|event| event.kind.loses_gpu_work()));
    }

    #[test]
    fn a_page_fault_is_one_event_with_all_that_follows() {
        let events = tracked(FAULT_BLOCK);
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(
            events[0].kind,
            KernelEventKind::PageFault {
                status: Some(0x0080_0932),
                client: Some("CPF".to_owned())
            }
        );
        assert_eq!(events[0].pid, Some(10890));
        assert_eq!(events[0].process.as_deref(), Some("llama-cli"));
    }

    #[test]
    fn what_comes_much_later_belongs_to_something_else() {
        let late = FAULT_BLOCK.replace("[  100.000002]", "[  103.000002]");
        assert_eq!(tracked(&late)[0].pid, None);
    }

    #[test]
    fn a_storm_is_forgotten_from_its_beginning() {
        let mut tracker = Tracker::default();
        for second in 0..2000 {
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
            assert!(tracker.take(
                at,
                "AMD-Vi: Event logged [IO_PAGE_FAULT device=0000:c6:00.1]"
            ));
        }
        assert_eq!(tracker.recent(SystemTime::UNIX_EPOCH).len(), EVENTS_MAX);
        let since = SystemTime::UNIX_EPOCH + Duration::from_secs(1998);
        assert_eq!(tracker.recent(since).len(), 2);
    }
}
