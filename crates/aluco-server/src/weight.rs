//! What clients make the server hold in memory: the bodies of the requests that run.
//!
//! One body is bounded by itself; without a bound over all of them, a few hundred clients that wait with large prompts would take the
//! memory that models need.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Largest bodies that may be held at once.
const BODIES_MAX: usize = 8;

/// The bytes of one request's body, counted among all until the last copy is dropped. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Weight {
    share: Arc<Share>,
}

#[derive(Debug)]
struct Share {
    mine: AtomicUsize,
    all: Arc<AtomicUsize>,
}

impl Weight {
    /// That of a request without a body, `all` being what all requests weigh together.
    pub(crate) fn new(all: Arc<AtomicUsize>) -> Self {
        Self {
            share: Arc::new(Share {
                mine: AtomicUsize::new(0),
                all,
            }),
        }
    }

    /// Adds bytes, if all requests together are then within their bound. `body_bytes_max` is what one of them may have.
    pub(crate) fn add(&self, bytes: usize, body_bytes_max: usize) -> bool {
        let bound = body_bytes_max.saturating_mul(BODIES_MAX);
        let within = |all: usize| all.checked_add(bytes).filter(|all| *all <= bound);
        let all = &self.share.all;
        let is_within = all
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, within)
            .is_ok();
        if is_within {
            self.share.mine.fetch_add(bytes, Ordering::Relaxed);
        }
        is_within
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mine = *self.mine.get_mut();
        self.all.fetch_sub(mine, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_together_stay_within_their_bound_and_give_back_what_they_took() {
        let all = Arc::new(AtomicUsize::new(0));
        let (first, second) = (Weight::new(all.clone()), Weight::new(all.clone()));
        assert!(first.add(300, 100));
        assert!(second.add(500, 100));
        assert!(!second.add(1, 100));
        assert_eq!(all.load(Ordering::Relaxed), 800);
        let copy = first.clone();
        drop(first);
        assert!(!second.add(1, 100));
        drop(copy);
        assert!(second.add(300, 100));
        assert!(!second.add(usize::MAX, 100));
        drop(second);
        assert_eq!(all.load(Ordering::Relaxed), 0);
    }
}
