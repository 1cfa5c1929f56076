//! Requests that kill workers, which are refused for a while. Pure.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, Instant},
};

use aluco_proto::GenerationSpec;

/// How long a request is refused.
const TERM: Duration = Duration::from_secs(10 * 60);

/// Requests that are remembered.
const ENTRIES_MAX: usize = 256;

/// Names a request by what it asks of which model, whoever asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RequestPrint(u64);

impl RequestPrint {
    pub(crate) fn of(model: &str, spec: &GenerationSpec) -> Self {
        let mut hasher = DefaultHasher::new();
        model.hash(&mut hasher);
        let nobody = GenerationSpec {
            client: String::new(),
            ..spec.clone()
        };
        // What cannot be written cannot be sent to a worker either.
        serde_json::to_string(&nobody)
            .unwrap_or_default()
            .hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// Who is refused, and why.
#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    entries: HashMap<RequestPrint, (Instant, String)>,
}

impl Quarantine {
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Refuses a request from now on.
    pub(crate) fn add(&mut self, request: RequestPrint, reason: String, now: Instant) {
        self.entries.retain(|_, (until, _)| *until > now);
        if self.entries.len() >= ENTRIES_MAX {
            let first = self.entries.iter().min_by_key(|(_, (until, _))| *until);
            if let Some(first) = first.map(|(request, _)| *request) {
                self.entries.remove(&first);
            }
        }
        self.entries.insert(request, (now + TERM, reason));
    }

    /// Why a request is refused, and for how long yet.
    pub(crate) fn refusal(&self, request: RequestPrint, now: Instant) -> Option<(&str, Duration)> {
        let (until, reason) = self.entries.get(&request)?;
        let left = until.checked_duration_since(now)?;
        (!left.is_zero()).then_some((reason, left))
    }

    /// Forgives all: workers are run in another way from now on.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_refused_for_ten_minutes() {
        let mut quarantine = Quarantine::default();
        let (now, request) = (Instant::now(), RequestPrint(7));
        quarantine.add(request, "it aborts".to_owned(), now);
        let later = now + Duration::from_secs(60);
        let left = Duration::from_secs(9 * 60);
        assert_eq!(
            quarantine.refusal(request, later),
            Some(("it aborts", left))
        );
        assert_eq!(quarantine.refusal(RequestPrint(8), later), None);
        assert_eq!(quarantine.refusal(request, now + TERM), None);
        quarantine.clear();
        assert_eq!(quarantine.refusal(request, later), None);
    }

    #[test]
    fn the_list_does_not_grow_without_end() {
        let mut quarantine = Quarantine::default();
        let now = Instant::now();
        for index in 0..1000 {
            let at = now + Duration::from_millis(index);
            quarantine.add(RequestPrint(index), String::new(), at);
        }
        assert_eq!(quarantine.entries.len(), ENTRIES_MAX);
        assert!(quarantine.refusal(RequestPrint(999), now).is_some());
        assert!(quarantine.refusal(RequestPrint(0), now).is_none());
    }
}
