use aluco_proto::KvType;
use proptest::prelude::*;

use super::*;
use crate::speed::work::Part;

const GB: u64 = 1_000_000_000;

/// A model that reads 10 GB for each token, and nothing of the context.
fn work() -> Work {
    Work {
        layers: 40,
        dense: Part {
            bytes: Bytes(10 * GB),
            parameters: 20 * GB,
        },
        output: Part::default(),
        experts: Part::default(),
        file: Bytes(11 * GB),
        state: Bytes::ZERO,
        has_unknown_caches: false,
        attention: Vec::new(),
        window: 0,
    }
}

fn rates(backend: Backend) -> Rates {
    Rates {
        backend,
        memory: Some(BytesPerSecond(200e9)),
        matrix: Some(FlopsPerSecond(30e12)),
        disk: Some(BytesPerSecond(2e9)),
    }
}

fn plan(work: &Work, rates: &Rates) -> SpeedPlan {
    SpeedPlan::of(work, &LoadOptions::default(), rates, 8192)
}

#[test]
fn decoding_goes_as_fast_as_weights_are_read() {
    let plan = plan(&work(), &rates(Backend::Vulkan));
    let decode = plan.decode.unwrap();
    assert!(decode.holds(&TokensPerSecond(20.0)), "{decode:?}");
    assert!(!decode.holds(&TokensPerSecond(15.0)), "{decode:?}");
    assert!(!decode.holds(&TokensPerSecond(21.0)), "{decode:?}");
    let limit = decode_limit(&work(), BytesPerSecond(256e9));
    assert_eq!(limit, TokensPerSecond(25.6));
    let load = plan.load.unwrap();
    assert!(load.holds(&Seconds(5.5)) && !load.holds(&Seconds(12.0)));
}

#[test]
fn experts_are_less_certain_than_what_every_token_needs() {
    let dense = plan(&work(), &rates(Backend::Vulkan)).decode.unwrap();
    let work = Work {
        dense: Part::default(),
        experts: work().dense,
        ..work()
    };
    let experts = plan(&work, &rates(Backend::Vulkan)).decode.unwrap();
    assert!(experts.band.low < dense.band.low);
}

#[test]
fn what_was_not_measured_is_not_predicted() {
    let bare = Rates {
        backend: Backend::Vulkan,
        memory: None,
        matrix: None,
        disk: None,
    };
    let plan = plan(&work(), &bare);
    assert_eq!((plan.decode, plan.decode_full), (None, None));
    assert_eq!((plan.prefill, plan.load), (None, None));
    assert_eq!(plan.unpredictable, None);
}

#[test]
fn a_model_between_cpu_and_gpu_is_not_predicted() {
    let options = |gpu_layers| LoadOptions {
        gpu_layers: Some(gpu_layers),
        ..LoadOptions::default()
    };
    let plan = |layers| SpeedPlan::of(&work(), &options(layers), &rates(Backend::Rocm), 4096);
    assert!(plan(40).decode.is_none() && plan(40).unpredictable.is_some());
    assert!(plan(40).load.is_some());
    assert!(plan(41).decode.is_some() && plan(41).unpredictable.is_none());
}

#[test]
fn a_cpu_whose_arithmetic_is_slow_decodes_no_faster_than_that() {
    let slow = Rates {
        matrix: Some(FlopsPerSecond(100e9)),
        ..rates(Backend::Cpu)
    };
    let decode = plan(&work(), &slow).decode.unwrap();
    assert!(decode.band.high <= TokensPerSecond(5.0), "{decode:?}");
    let unknown = Rates {
        matrix: None,
        ..slow
    };
    assert_eq!(plan(&work(), &unknown).decode, None);
}

#[test]
fn caches_of_an_unknown_size_leave_the_depth_open() {
    let work = Work {
        has_unknown_caches: true,
        ..work()
    };
    let plan = plan(&work, &rates(Backend::Vulkan));
    assert!(plan.decode.is_some() && plan.decode_full.is_none());
}

#[test]
fn figures_are_told_with_the_digits_that_they_are_good_for() {
    let told = |low, high| Predicted::between(Seconds(low), Seconds(high)).to_string();
    assert_eq!(told(6.12, 7.38), "6.1 to 7.4");
    assert_eq!(told(9.96, 27.4), "10 to 27");
    assert_eq!(told(123.0, 1_234.0), "120 to 1,200");
    assert_eq!(told(9.0, 9.01), "9.0");
    assert_eq!(told(1_009.0, 45_678.0), "1,000 to 46,000");
}

fn rate() -> impl Strategy<Value = f64> {
    prop_oneof![Just(0.0), 1.0..1e15_f64, Just(f64::MAX)]
}

proptest! {
    #[test]
    fn no_numbers_make_a_band_that_is_none(
        dense in any::<u64>(), experts in any::<u64>(), state in any::<u64>(), layers in 0_u64..600,
        memory in rate(), matrix in rate(), disk in rate(), depth in any::<u64>(),
        kv_heads in any::<u64>(), is_compressed in any::<bool>(),
    ) {
        let attention = crate::Attention {
            heads: 1, kv_heads, key_length: 128, value_length: 128,
            is_windowed: false, is_compressed, has_cells: true,
        };
        let work = Work {
            dense: Part { bytes: Bytes(dense), parameters: dense },
            experts: Part { bytes: Bytes(experts), parameters: experts },
            state: Bytes(state),
            layers,
            attention: vec![attention],
            ..work()
        };
        let options = LoadOptions { kv_type_k: KvType::Q8_0, ..LoadOptions::default() };
        for backend in [Backend::Cpu, Backend::Vulkan, Backend::Rocm] {
            let rates = Rates {
                backend,
                memory: Some(BytesPerSecond(memory)),
                matrix: Some(FlopsPerSecond(matrix)),
                disk: Some(BytesPerSecond(disk)),
            };
            let plan = SpeedPlan::of(&work, &options, &rates, depth);
            for speed in [plan.decode, plan.decode_full, plan.prefill].into_iter().flatten() {
                prop_assert!(speed.band.low <= speed.band.high, "{speed:?}");
                prop_assert!(speed.band.low.0 >= 0.0);
                let _ = speed.to_string();
            }
            if let (Some(begin), Some(full)) = (plan.decode, plan.decode_full) {
                prop_assert!(full.band.low <= begin.band.low && full.band.high <= begin.band.high);
            }
        }
    }
}
