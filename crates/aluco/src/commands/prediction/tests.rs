use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, UNIX_EPOCH},
};

use aluco_machine::measure::{Arithmetic, Bandwidth, DeviceSpeed, DiskRead, Versions};
use aluco_model::{ModelSource, Store, StoreConfig};
use aluco_proto::DeviceMemory;
use aluco_tiny_models::Kind;
use tempfile::TempDir;

use super::*;

/// 20 November 2026.
const THEN: u64 = 1_795_132_800;

fn report(folder: &Path) -> MachineReport {
    MachineReport {
        at: THEN,
        versions: Versions {
            aluco: "0.1.0".to_owned(),
            kernel: "6.17.1".to_owned(),
            cpu: "unknown".to_owned(),
            gpu: None,
            engines: BTreeMap::from([("vulkan".to_owned(), "b12000".to_owned())]),
        },
        bandwidth: Bandwidth {
            threads: 16,
            array_bytes: 256 << 20,
            read: 108.6e9,
            copy: 100.4e9,
            triad: 101.5e9,
        },
        bandwidth_limit: None,
        arithmetic: Arithmetic {
            threads: 16,
            instructions: "AVX-512".to_owned(),
            one_thread: 163e9,
            all_threads: 2300e9,
        },
        disk: Ok(DiskRead {
            file: folder.join("a.gguf"),
            bytes: 4 << 30,
            direct: Some(6.9e9),
            buffered: 5.1e9,
            cached: 21e9,
        }),
        devices: vec![DeviceSpeed {
            backend: "vulkan".to_owned(),
            device: "Vulkan0".to_owned(),
            description: "Radeon 8060S Graphics".to_owned(),
            upload: 30e9,
            download: 28e9,
            copy: 212.6e9,
            matrix: 25e12,
        }],
        device_failures: Vec::new(),
    }
}

/// A prediction with the figures of a model of 27 billion parameters.
fn prediction(speeds: SpeedPlan, changes: Vec<Change>) -> Prediction {
    Prediction {
        backend: Backend::Vulkan,
        speeds: Some(speeds),
        decode_at_most: None,
        origin: Origin::Measured(Measured {
            at: "2026-11-20T00:00:00Z".to_owned(),
            device: Some("Vulkan0".to_owned()),
            memory: Some(BytesPerSecond(212.6e9)),
            changes,
            no_load: None,
        }),
    }
}

fn speeds() -> SpeedPlan {
    let plan = serde_json::json!({
        "decode": {"band": {"low": 21.2, "high": 26.9}},
        "decode_full": {"band": {"low": 15.1, "high": 19.4}},
        "full_tokens": 32_768,
        "prefill": {"band": {"low": 412.0, "high": 1_480.0}},
        "load": {"band": {"low": 2.9, "high": 6.4}},
    });
    serde_json::from_value(plan).unwrap()
}

fn told(prediction: &Prediction) -> String {
    let text = prediction.to_string();
    let widest = text.lines().map(|line| line.chars().count()).max();
    assert!(widest <= Some(80), "{text}");
    text
}

#[test]
fn figures_are_told_with_where_they_come_from() {
    insta::assert_snapshot!(told(&prediction(speeds(), Vec::new())));
}

#[test]
fn what_has_changed_since_is_told() {
    let change = |what: &str, then: &str, now: &str| Change {
        what: what.to_owned(),
        then: then.to_owned(),
        now: now.to_owned(),
    };
    let changes = vec![
        change("kernel", "6.17.1-300.fc43.x86_64", "7.1.3-200.fc44.x86_64"),
        change("llama.cpp", "b12000", "b12032"),
    ];
    insta::assert_snapshot!(told(&prediction(speeds(), changes)));
}

#[test]
fn what_cannot_be_predicted_is_left_out_with_the_reason() {
    let mut bare = speeds();
    (bare.decode, bare.decode_full, bare.prefill) = (None, None, None);
    bare.unpredictable = Some("its layers would be split between the CPU and the GPU".to_owned());
    let mut split = prediction(bare, Vec::new());
    insta::assert_snapshot!(told(&split));
    split.speeds.as_mut().unwrap().unpredictable = None;
    split.speeds.as_mut().unwrap().load = None;
    split.origin = Origin::Measured(Measured {
        at: "2026-11-20T00:00:00Z".to_owned(),
        device: None,
        memory: None,
        changes: Vec::new(),
        no_load: Some("another disk was measured".to_owned()),
    });
    insta::assert_snapshot!(told(&split));
}

#[test]
fn without_a_measurement_only_a_bound_is_told() {
    let nothing = Prediction {
        backend: Backend::Vulkan,
        speeds: None,
        decode_at_most: Some(AtMost {
            tokens_per_second: TokensPerSecond(25.6),
            bytes_per_second: BytesPerSecond(256e9),
            source: "/sys/class/drm/card0/device/pp_dpm_mclk".to_owned(),
        }),
        origin: Origin::NotMeasured,
    };
    insta::assert_snapshot!(told(&nothing));
}

/// A model in a folder, and the settings of a home with these reports.
fn home(reports: &[MachineReport]) -> (TempDir, Settings, StoredModel) {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings::for_home(folder.path());
    for report in reports {
        let records = Records::new(&settings.measurements_folder);
        records.add(report).unwrap();
    }
    let path = folder.path().join("model.gguf");
    aluco_tiny_models::write(Kind::Moe, &path).unwrap();
    let store = Store::new(StoreConfig {
        hub_cache: settings.hub_cache.clone(),
        models: settings.models_folder.clone(),
    });
    let model = store.find(path.to_str().unwrap()).unwrap();
    assert!(matches!(model.source, ModelSource::File));
    (folder, settings, model)
}

fn predicted(settings: &Settings, model: &StoredModel, backend: Backend) -> Prediction {
    let subject = Subject {
        model,
        options: &settings.load_options(),
        context_tokens: 8192,
        backend,
        worker: None,
    };
    predict(&subject, settings, None)
}

#[test]
fn nothing_is_guessed_from_nothing() {
    let (_home, settings, model) = home(&[]);
    let prediction = predicted(&settings, &model, Backend::Cpu);
    assert_eq!(prediction.origin, Origin::NotMeasured);
    assert_eq!(prediction.speeds, None);
    assert_eq!(disk_rate(&settings), None);
}

#[test]
fn the_newest_report_counts_that_knows_the_backend() {
    let folder = tempfile::tempdir().unwrap();
    let mut without_gpu = report(folder.path());
    without_gpu.at = THEN + 86_400;
    without_gpu.devices.clear();
    let (_home, settings, model) = home(&[report(folder.path()), without_gpu]);
    let date = |backend| {
        let prediction = predicted(&settings, &model, backend);
        match prediction.origin {
            Origin::Measured(measured) => (measured.at, measured.device),
            other => panic!("{other:?}"),
        }
    };
    let vulkan = (
        "2026-11-20T00:00:00Z".to_owned(),
        Some("Vulkan0".to_owned()),
    );
    assert_eq!(date(Backend::Vulkan), vulkan);
    let cpu = (
        "2026-11-21T00:00:00Z".to_owned(),
        Some("16 threads".to_owned()),
    );
    assert_eq!(date(Backend::Cpu), cpu);
    let rocm = ("2026-11-21T00:00:00Z".to_owned(), None);
    assert_eq!(date(Backend::Rocm), rocm);
    assert_eq!(disk_rate(&settings), Some(BytesPerSecond(5.1e9)));
}

#[test]
fn a_report_of_another_kernel_is_said_to_be_one() {
    let folder = tempfile::tempdir().unwrap();
    let (_home, settings, model) = home(&[report(folder.path())]);
    let prediction = predicted(&settings, &model, Backend::Vulkan);
    let text = told(&prediction);
    assert!(text.contains("Measured with kernel 6.17.1, now "), "{text}");
    let speeds = prediction.speeds.unwrap();
    assert!(speeds.decode.is_some() && speeds.decode_full.is_some() && speeds.load.is_some());
}

#[test]
fn another_gpu_or_llama_cpp_under_the_same_name_is_said_to_be_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut report = report(folder.path());
    report.versions.kernel = "unknown".to_owned();
    let (_home, settings, model) = home(&[report]);
    let worker = WorkerHello {
        protocol: 1,
        version: "0.1.0".to_owned(),
        backend: Backend::Vulkan,
        engine_build: "b12032".to_owned(),
        cpu_level: String::new(),
        cpu_features: Vec::new(),
        pid: 1,
        devices: vec![DeviceMemory {
            device: "Vulkan0".to_owned(),
            description: "Radeon AI PRO R9700".to_owned(),
            ..DeviceMemory::default()
        }],
    };
    let subject = Subject {
        model: &model,
        options: &settings.load_options(),
        context_tokens: 8192,
        backend: Backend::Vulkan,
        worker: Some(&worker),
    };
    let text = told(&predict(&subject, &settings, None));
    let text = text.replace('\n', " ");
    for part in [
        "llama.cpp b12000, now b12032",
        "GPU Radeon 8060S Graphics, now Radeon AI PRO R9700",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn another_disk_than_the_models_tells_nothing_of_its_load() {
    let mut report = report(Path::new("/"));
    let disk = report.disk.as_mut().unwrap();
    // A file system that is never the one of temporary files.
    disk.file = PathBuf::from("/proc/self");
    let (_home, settings, model) = home(&[report]);
    let prediction = predicted(&settings, &model, Backend::Vulkan);
    assert_eq!(prediction.speeds.as_ref().unwrap().load, None);
    assert!(told(&prediction).contains("another disk was measured"));
}

#[test]
fn a_damaged_date_is_no_reason_to_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut report = report(folder.path());
    report.at = u64::MAX;
    let (_home, settings, model) = home(&[report]);
    assert!(told(&predicted(&settings, &model, Backend::Cpu)).contains("9999-12-31"));
    assert!(UNIX_EPOCH + Duration::from_secs(LAST_SECOND) > UNIX_EPOCH);
}
