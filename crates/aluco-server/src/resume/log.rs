//! The events of one stream, as many of the latest as fit. Pure.

use std::collections::VecDeque;

use bytes::Bytes;

/// What an event costs beside its bytes: its handle and its allocation, in bytes.
pub(super) const EVENT_OVERHEAD_BYTES: usize = 64;

/// Numbered events, the first of which is 1. When they no longer fit, the oldest go.
#[derive(Debug)]
pub(super) struct EventLog {
    events: VecDeque<Bytes>,
    /// Events that are gone.
    dropped: u64,
    bytes: usize,
    bytes_max: usize,
}

/// Why events cannot be read from a place on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// The event after the one that was named is gone; `oldest` is the first that is left.
    Gone { oldest: u64 },
    /// There was no such event yet; `last` is the latest.
    Ahead { last: u64 },
}

impl EventLog {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            events: VecDeque::new(),
            dropped: 0,
            bytes: 0,
            bytes_max,
        }
    }

    /// Number of the latest event; 0 before the first.
    pub(super) fn last(&self) -> u64 {
        self.dropped + self.events.len() as u64
    }

    /// What it costs, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds the next event, whose number is then [`EventLog::last`]. The latest event stays, however large it is.
    pub(super) fn push(&mut self, event: Bytes) {
        self.bytes += cost(&event);
        self.events.push_back(event);
        self.shrink_to(self.bytes_max);
    }

    /// Drops the oldest events until the rest costs no more than that, or only the latest is left.
    pub(super) fn shrink_to(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max && self.events.len() > 1 {
            let event = self.events.pop_front().expect("there are several");
            self.bytes -= cost(&event);
            self.dropped += 1;
        }
    }

    /// Whether events can be read from behind that number on.
    pub(super) fn check(&self, after: u64) -> Result<(), Unreadable> {
        if after < self.dropped {
            let oldest = self.dropped + 1;
            return Err(Unreadable::Gone { oldest });
        }
        let last = self.last();
        if after > last {
            return Err(Unreadable::Ahead { last });
        }
        Ok(())
    }

    /// The event behind that number, if there is one already.
    pub(super) fn next(&self, after: u64) -> Result<Option<Bytes>, Unreadable> {
        self.check(after)?;
        Ok(self.events.get((after - self.dropped) as usize).cloned())
    }
}

fn cost(event: &Bytes) -> usize {
    event.len() + EVENT_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(number: u64, bytes: usize) -> Bytes {
        let mut event = number.to_string().into_bytes();
        event.resize(event.len() + bytes, b'.');
        event.into()
    }

    proptest! {
        #[test]
        fn what_is_left_is_the_latest_in_order_and_within_the_bound(
            sizes in prop::collection::vec(0_usize..400, 0..60),
            bytes_max in 0_usize..3000,
            shrink in prop::option::of((0_usize..60, 0_usize..3000)),
        ) {
            let mut log = EventLog::new(bytes_max);
            let mut all = Vec::new();
            for (index, size) in sizes.iter().enumerate() {
                let event = event(index as u64 + 1, *size);
                all.push(event.clone());
                log.push(event);
                if let Some((at, to)) = shrink && at == index {
                    log.shrink_to(to);
                    let single = all.last().unwrap().len() + EVENT_OVERHEAD_BYTES;
                    prop_assert!(log.bytes() <= to.max(single));
                }
                let single = all.last().unwrap().len() + EVENT_OVERHEAD_BYTES;
                prop_assert!(log.bytes() <= bytes_max.max(single));
            }
            prop_assert_eq!(log.last(), all.len() as u64);
            let mut kept = 0;
            for after in 0..=log.last() {
                match log.next(after) {
                    Ok(Some(event)) => {
                        prop_assert_eq!(&event, &all[after as usize]);
                        kept += event.len() + EVENT_OVERHEAD_BYTES;
                    }
                    Ok(None) => prop_assert_eq!(after, log.last()),
                    Err(Unreadable::Gone { oldest }) => prop_assert!(oldest > after + 1),
                    Err(error) => prop_assert!(false, "{:?}", error),
                }
            }
            prop_assert_eq!(kept, log.bytes());
            let last = log.last();
            prop_assert_eq!(log.next(last + 1), Err(Unreadable::Ahead { last }));
        }
    }

    #[test]
    fn an_event_over_the_bound_is_kept_until_the_next() {
        let mut log = EventLog::new(100);
        log.push(event(1, 1000));
        assert_eq!(log.next(0).unwrap().unwrap().len(), 1001);
        log.push(event(2, 0));
        assert_eq!(log.next(0), Err(Unreadable::Gone { oldest: 2 }));
        assert_eq!(log.next(1), Ok(Some(event(2, 0))));
        assert_eq!(log.next(2), Ok(None));
    }
}
