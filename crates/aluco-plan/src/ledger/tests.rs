use aluco_proto::{Backend, CacheOptions, FlashAttention, KvType};
use proptest::prelude::*;

use super::*;
use crate::{Attention, Layer, Pressure, pool::Limit};

/// A dense model of this many billion parameters, more or less, at 8.5 bits.
fn shape(billions: u64) -> Shape {
    let layers = 32;
    let weights = Bytes(billions * 1_062_500_000);
    Shape {
        architecture: "llama".to_owned(),
        layers: vec![
            Layer {
                weights: Bytes(weights.0 / layers),
                attention: Some(Attention {
                    heads: 32,
                    kv_heads: 8,
                    key_length: 128,
                    value_length: 128,
                    is_windowed: false,
                    is_compressed: false,
                    has_cells: true,
                }),
                state: None,
                feed_forward: 14_336,
                experts: None,
            };
            layers as usize
        ],
        embedding: 4096,
        vocabulary: 128_256,
        context_train: 131_072,
        window: 0,
        input: Bytes::MIB.times(500),
        output: Bytes::MIB.times(500),
        tied: None,
        is_tied_repacked: false,
        parameters: billions * 1_000_000_000,
        unknown: Vec::new(),
    }
}

fn options(context_tokens: u32) -> LoadOptions {
    LoadOptions {
        context_tokens: Some(context_tokens),
        ..LoadOptions::default()
    }
}

fn without_store(context_tokens: u32) -> LoadOptions {
    LoadOptions {
        cache: CacheOptions {
            ram_bytes: Some(0),
            ..CacheOptions::default()
        },
        ..options(context_tokens)
    }
}

const CPU: Setting = Setting {
    backend: Backend::Cpu,
    store: Bytes(2 << 30),
};

const GPU: Setting = Setting {
    backend: Backend::Vulkan,
    store: Bytes(8 << 30),
};

fn candidate<'a>(name: &'a str, shape: &'a Shape, options: &'a LoadOptions) -> Candidate<'a> {
    Candidate {
        name,
        shape,
        options,
        setting: CPU,
    }
}

/// A machine with so much to give, without a GPU.
fn plain(gib: u64) -> Pool {
    let budget = Bytes::GIB.times(gib);
    Pool {
        budget: Budget {
            host: budget,
            device: Bytes::ZERO,
            together: budget,
        },
        reserve: Bytes::GIB.times(2),
        others: Bytes::GIB.times(3),
        machine: Bytes::GIB.times(gib + 5),
        unified: false,
        host_limits: vec![Limit {
            name: "memory of the machine".to_owned(),
            source: "/proc/meminfo".to_owned(),
            total: Bytes::GIB.times(gib + 5),
            free: Bytes::GIB.times(gib + 2),
        }],
        device_limits: Vec::new(),
    }
}

/// A Strix Halo whose GPU may map most of what there is.
fn shared(gib: u64, device_gib: u64) -> Pool {
    let mut pool = plain(gib);
    pool.unified = true;
    pool.budget.device = Bytes::GIB.times(device_gib);
    pool.device_limits = vec![Limit {
        name: "GTT and carve-out of the GPU".to_owned(),
        source: "/sys/class/drm/card1/device".to_owned(),
        total: Bytes::GIB.times(device_gib),
        free: Bytes::GIB.times(device_gib),
    }];
    pool
}

fn refusal(ledger: &Ledger, candidate: &Candidate<'_>) -> Refusal {
    let refusal = *ledger.check(candidate).expect_err("it is too large");
    let text = refusal.to_string();
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    refusal
}

#[test]
fn a_model_that_does_not_fit_is_told_what_would_help() {
    let mut ledger = Ledger::new(plain(24));
    let (small, large) = (shape(3), shape(14));
    let admitted = ledger.admit(&candidate("owl:3b", &small, &options(8192)));
    ledger.set_idle(admitted.unwrap(), true);
    let options = options(32_768);
    insta::assert_snapshot!(refusal(&ledger, &candidate("eagle:14b", &large, &options)));
}

#[test]
fn a_model_that_fits_is_told_in_the_same_words() {
    let ledger = Ledger::new(shared(64, 60));
    let (shape, options) = (shape(8), options(8192));
    let candidate = Candidate {
        setting: GPU,
        ..candidate("owl:8b", &shape, &options)
    };
    insta::assert_snapshot!(ledger.check(&candidate).unwrap());
}

#[test]
fn without_idle_models_the_cache_and_the_context_give_way() {
    let ledger = Ledger::new(plain(20));
    let large = shape(14);
    let options = without_store(65_536);
    insta::assert_snapshot!(refusal(&ledger, &candidate("eagle:14b", &large, &options)));
}

#[test]
fn a_model_far_too_large_is_offered_fewer_bits() {
    let ledger = Ledger::new(plain(24));
    let large = shape(32);
    let options = options(8192);
    insta::assert_snapshot!(refusal(&ledger, &candidate("eagle:32b", &large, &options)));
}

#[test]
fn nothing_is_offered_where_nothing_helps() {
    let ledger = Ledger::new(plain(24));
    let huge = shape(400);
    let options = options(8192);
    let refusal = refusal(&ledger, &candidate("roc:400b", &huge, &options));
    assert_eq!(refusal.ways_out, []);
    insta::assert_snapshot!(refusal);
}

#[test]
fn a_gpu_that_may_map_too_little_is_named() {
    let ledger = Ledger::new(shared(110, 60));
    let (large, options) = (shape(70), options(32_768));
    let candidate = Candidate {
        setting: GPU,
        ..candidate("eagle:70b", &large, &options)
    };
    let refusal = refusal(&ledger, &candidate);
    assert_eq!(refusal.tight, Tight::Device);
    insta::assert_snapshot!(refusal);
}

#[test]
fn every_way_that_is_offered_leads_out() {
    let (large, idle) = (shape(14), shape(7));
    for gib in (4..40).step_by(2) {
        for context in [2048, 32_768, 131_072] {
            let mut ledger = Ledger::new(plain(gib));
            if let Ok(reservation) = ledger.admit(&candidate("idle", &idle, &without_store(2048))) {
                ledger.set_idle(reservation, true);
            }
            let options = options(context);
            let Err(refusal) = ledger.check(&candidate("large", &large, &options)) else {
                continue;
            };
            assert!(refusal.ways_out.len() <= 3);
            for way in refusal.ways_out {
                let (mut ledger, mut options) = (ledger.clone(), options.clone());
                let mut shape = large.clone();
                match &way {
                    WayOut::Evict { models } => {
                        assert_eq!(models.len(), 1);
                        ledger = Ledger::new(plain(gib));
                    }
                    WayOut::SmallerStore { store } => options.cache.ram_bytes = Some(store.0),
                    WayOut::KvType { kv_type, .. } => {
                        (options.kv_type_k, options.kv_type_v) = (*kv_type, *kv_type);
                    }
                    WayOut::SmallerContext { tokens, .. } => options.context_tokens = Some(*tokens),
                    WayOut::Quantisation { weights, .. } => {
                        let rest = shape.input + shape.output;
                        shape.input = Bytes(shape.input.0 * weights.0 / shape.weights().0);
                        shape.output = Bytes(shape.output.0 * weights.0 / large.weights().0);
                        let each = weights
                            .less(Bytes(rest.0 * weights.0 / large.weights().0))
                            .0
                            / 32;
                        shape
                            .layers
                            .iter_mut()
                            .for_each(|layer| layer.weights = Bytes(each));
                    }
                    WayOut::Least { kv_type, tokens } => {
                        options.cache.ram_bytes = Some(0);
                        options.context_tokens = Some(*tokens);
                        (options.kv_type_k, options.kv_type_v) = (*kv_type, *kv_type);
                    }
                }
                let fits = ledger.check(&candidate("large", &shape, &options));
                assert!(fits.is_ok(), "{gib} GiB, {context} tokens: {way:?}");
            }
        }
    }
}

#[test]
fn values_are_not_quantised_without_fused_attention() {
    let large = shape(14);
    let options = LoadOptions {
        flash_attention: FlashAttention::Off,
        ..without_store(65_536)
    };
    let ledger = Ledger::new(plain(20));
    let refusal = ledger.check(&candidate("eagle:14b", &large, &options));
    let ways = refusal.expect_err("it is too large").ways_out;
    assert!(
        !ways.iter().any(|way| matches!(way, WayOut::KvType { .. })),
        "{ways:?}"
    );
    assert!(
        !ways
            .iter()
            .any(|way| matches!(way, WayOut::Least { kv_type, .. } if *kv_type != KvType::F16)),
        "{ways:?}"
    );
}

#[test]
fn what_was_measured_takes_the_place_of_what_was_predicted() {
    let mut ledger = Ledger::new(shared(64, 60));
    let (shape, options) = (shape(8), options(8192));
    let candidate = Candidate {
        setting: GPU,
        ..candidate("owl:8b", &shape, &options)
    };
    let reservation = ledger.admit(&candidate).unwrap();
    let device = |name: &str, weights_bytes, context_bytes, compute_bytes| DeviceMemory {
        device: name.to_owned(),
        weights_bytes,
        context_bytes,
        compute_bytes,
        ..DeviceMemory::default()
    };
    let measured = [
        device("Vulkan0", 8 << 30, 1 << 30, 300 << 20),
        device("Vulkan_Host", 0, 0, 20 << 20),
        device("CPU", 500 << 20, 0, 0),
    ];
    ledger.settle(reservation, &measured).unwrap();
    ledger.resize_store(reservation, Bytes::GIB).unwrap();
    assert_eq!(ledger.held_on_device(), Bytes((9 << 30) + (300 << 20)));
    let report = ledger.report(Pressure::Calm);
    insta::assert_snapshot!(report);
    let json = serde_json::to_string(&report).unwrap();
    let read: LedgerReport = serde_json::from_str(&json).unwrap();
    assert_eq!(read, report);
    assert_eq!(read.ledger().report(Pressure::Calm), report);
    assert_eq!(ledger.find("owl:8b"), [reservation]);
    ledger.release(reservation);
    assert_eq!(ledger.held(), Bytes::ZERO);
}

#[test]
fn a_pool_that_shrinks_shows_how_much_is_too_much() {
    let mut ledger = Ledger::new(plain(24));
    let (shape, options) = (shape(8), without_store(8192));
    let reservation = ledger
        .admit(&candidate("owl:8b", &shape, &options))
        .unwrap();
    let held = ledger.held();
    ledger.look(plain(8));
    assert_eq!(ledger.excess(), held.less(Bytes::GIB.times(8)));
    assert!(ledger.check(&candidate("wren", &shape, &options)).is_err());
    insta::assert_snapshot!(ledger.report(Pressure::EvictIdle));
    ledger.release(reservation);
    assert_eq!(ledger.excess(), Bytes::ZERO);
}

/// What is done to a ledger.
#[derive(Debug, Clone)]
enum Deed {
    Admit {
        billions: u64,
        context: u32,
        is_gpu: bool,
    },
    /// The share of the prediction that was measured, in percent.
    Settle {
        which: usize,
        percent: u64,
    },
    Shrink {
        which: usize,
        mib: u64,
    },
    Release {
        which: usize,
    },
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        3 => (1_u64..40, 512_u32..100_000, any::<bool>())
            .prop_map(|(billions, context, is_gpu)| Deed::Admit { billions, context, is_gpu }),
        2 => (any::<usize>(), 80_u64..115).prop_map(|(which, percent)| Deed::Settle { which, percent }),
        1 => (any::<usize>(), 0_u64..2048).prop_map(|(which, mib)| Deed::Shrink { which, mib }),
        2 => any::<usize>().prop_map(|which| Deed::Release { which }),
    ]
}

proptest! {
    /// Whoever heeds the errors never goes beyond the budget.
    #[test]
    fn the_sum_never_exceeds_the_budget(
        deeds in prop::collection::vec(deed(), 0..60),
        gib in 4_u64..120,
        device_gib in 1_u64..100,
    ) {
        let budget = shared(gib, device_gib.min(gib)).budget;
        let mut ledger = Ledger::new(shared(gib, device_gib.min(gib)));
        let mut reservations: Vec<(Reservation, MemoryPlan)> = Vec::new();
        for deed in deeds {
            let chosen = |which: usize, count: usize| which.checked_rem(count);
            match deed {
                Deed::Admit { billions, context, is_gpu } => {
                    let (shape, options) = (shape(billions), options(context));
                    let candidate = Candidate {
                        setting: if is_gpu { GPU } else { CPU },
                        ..candidate("model", &shape, &options)
                    };
                    let before = ledger.held();
                    match ledger.admit(&candidate) {
                        Ok(reservation) => {
                            prop_assert_eq!(ledger.held(), before + candidate.plan().total());
                            reservations.push((reservation, candidate.plan()));
                        }
                        Err(refusal) => {
                            prop_assert_eq!(ledger.held(), before);
                            prop_assert!(refusal.needed_bytes > refusal.free_bytes);
                        }
                    }
                }
                Deed::Settle { which, percent } => {
                    if let Some(index) = chosen(which, reservations.len()) {
                        let (reservation, plan) = &reservations[index];
                        let weights = |place| Bytes(plan.at(place).0 / 100 * percent).0;
                        let memory = [("Vulkan0", Place::Device), ("CPU", Place::Host)].map(|(name, place)| DeviceMemory {
                            device: name.to_owned(),
                            weights_bytes: weights(place),
                            ..DeviceMemory::default()
                        });
                        let reservation = *reservation;
                        if let Err(over) = ledger.settle(reservation, &memory) {
                            prop_assert_eq!(over.excess, ledger.excess());
                            ledger.release(reservation);
                            let _ = reservations.remove(index);
                        }
                    }
                }
                Deed::Shrink { which, mib } => {
                    if let Some(index) = chosen(which, reservations.len()) {
                        let reservation = reservations[index].0;
                        if ledger.resize_store(reservation, Bytes::MIB.times(mib)).is_err() {
                            ledger.resize_store(reservation, Bytes::ZERO).unwrap();
                        }
                    }
                }
                Deed::Release { which } => {
                    if let Some(index) = chosen(which, reservations.len()) {
                        ledger.release(reservations.remove(index).0);
                    }
                }
            }
            prop_assert_eq!(ledger.excess(), Bytes::ZERO);
            prop_assert!(ledger.held() <= budget.together);
            prop_assert!(ledger.held_on_device() <= budget.device);
        }
        for (reservation, _) in reservations {
            ledger.release(reservation);
        }
        prop_assert_eq!(ledger.held(), Bytes::ZERO);
    }
}
