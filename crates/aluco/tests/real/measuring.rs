//! `aluco bench`.

use serde_json::Value;

use crate::served::{aluco, empty_home, model, output_of};

#[test]
#[ignore = "needs the worker and a model: make test"]
fn a_measurement_has_llama_benchs_fields() {
    let home = empty_home();
    let model = model();
    let args = [
        "bench", &model, "-p", "16", "-n", "4", "-pg", "8,2", "-d", "32", "-r", "2", "--json",
    ];
    let records = output_of(aluco(home.path(), &args));
    let records: Vec<Value> = serde_json::from_str(&records).unwrap();
    let tests: Vec<_> = records
        .iter()
        .map(|it| [&it["n_prompt"], &it["n_gen"], &it["n_depth"]].map(|it| it.as_u64().unwrap()))
        .collect();
    assert_eq!(tests, [[16, 0, 32], [0, 4, 32], [8, 2, 32]]);
    for record in &records {
        assert_eq!(record["samples_ns"].as_array().unwrap().len(), 2);
        let speeds = record["samples_ts"].as_array().unwrap();
        let mean = speeds.iter().map(|it| it.as_f64().unwrap()).sum::<f64>() / 2.0;
        assert!((record["avg_ts"].as_f64().unwrap() - mean).abs() < 1e-6 * mean);
        assert!(mean > 0.0);
        for name in [
            "build_commit",
            "build_number",
            "cpu_info",
            "gpu_info",
            "backends",
            "model_filename",
            "model_type",
            "model_size",
            "model_n_params",
            "n_batch",
            "n_ubatch",
            "n_threads",
            "type_k",
            "type_v",
            "n_gpu_layers",
            "flash_attn",
            "test_time",
            "avg_ns",
            "stddev_ns",
            "stddev_ts",
        ] {
            assert!(!record[name].is_null(), "{name}");
        }
        assert_eq!(record["model_n_params"], 134_515_008);
    }
}

#[test]
#[ignore = "needs the worker and a model: make test"]
fn the_version_names_the_worker_and_its_processor() {
    let home = empty_home();
    let version = output_of(aluco(home.path(), &["version", "--json"]));
    let version: Value = serde_json::from_str(&version).unwrap();
    let hello = &version["worker"]["hello"];
    assert_eq!(hello["version"], version["version"]);
    let features = hello["cpu_features"].as_array().unwrap();
    // llama-cpp-sys-4 by itself stops at SSE4.2, which is five times slower.
    if cfg!(target_arch = "x86_64") {
        assert!(features.contains(&"AVX2".into()), "{features:?}");
    }
}
