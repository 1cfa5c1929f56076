//! Which CPU this build is for, and whether this one is it.

use crate::ffi::CpuBuild;

/// Instruction-set levels of the x86-64 psABI, named by what ggml was compiled with; on other processors the architecture.
pub fn level(build: &CpuBuild) -> &'static str {
    if !cfg!(target_arch = "x86_64") {
        return std::env::consts::ARCH;
    }
    let has = |wanted: &[&str]| {
        wanted
            .iter()
            .all(|feature| build.features.contains(feature))
    };
    if has(&["AVX512", "AVX2", "FMA", "F16C", "BMI2"]) {
        "x86-64-v4"
    } else if has(&["AVX2", "FMA", "F16C", "BMI2"]) {
        "x86-64-v3"
    } else {
        "x86-64-v2"
    }
}

/// Features that the build needs and this CPU lacks, in ggml's spelling. Empty: it can run.
pub fn missing(build: &CpuBuild) -> Vec<&'static str> {
    build
        .features
        .iter()
        .copied()
        .filter(|feature| !present(feature))
        .collect()
}

#[cfg(target_arch = "x86_64")]
fn present(feature: &str) -> bool {
    use std::arch::is_x86_feature_detected as has;
    match feature {
        "SSE3" => has!("sse3"),
        "SSSE3" => has!("ssse3"),
        "AVX" => has!("avx"),
        "AVX2" => has!("avx2"),
        "FMA" => has!("fma"),
        "F16C" => has!("f16c"),
        "BMI2" => has!("bmi2"),
        "AVX_VNNI" => has!("avxvnni"),
        "AVX512" => {
            has!("avx512f")
                && has!("avx512bw")
                && has!("avx512cd")
                && has!("avx512dq")
                && has!("avx512vl")
        }
        "AVX512_VBMI" => has!("avx512vbmi"),
        "AVX512_VNNI" => has!("avx512vnni"),
        "AVX512_BF16" => has!("avx512bf16"),
        // AMX tiles fault on machines that only advertise them; no build of ours uses them, so one that does is refused.
        _ => false,
    }
}

#[cfg(target_arch = "aarch64")]
fn present(feature: &str) -> bool {
    use std::arch::is_aarch64_feature_detected as has;
    match feature {
        "NEON" | "ARM_FMA" => has!("neon"),
        "FP16_VA" => has!("fp16"),
        "DOTPROD" => has!("dotprod"),
        "MATMUL_INT8" => has!("i8mm"),
        "SVE" => has!("sve"),
        _ => false,
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn present(_feature: &str) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// llama-cpp-sys-4 stops at SSE4.2 unless it is told otherwise, and that is five times slower.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_engine_is_compiled_for_at_least_x86_64_v3_and_without_amx() {
        let build = CpuBuild::compiled();
        assert!(
            matches!(level(&build), "x86-64-v3" | "x86-64-v4"),
            "compiled with {:?} only",
            build.features
        );
        assert!(!build.features.contains(&"AMX_INT8"));
    }

    #[test]
    fn this_machine_has_what_the_build_needs() {
        assert_eq!(missing(&CpuBuild::compiled()), [""; 0]);
    }

    #[test]
    fn an_unknown_need_counts_as_missing() {
        let build = CpuBuild {
            features: vec!["AMX_INT8"],
        };
        if cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
            assert_eq!(missing(&build), ["AMX_INT8"]);
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn levels_follow_the_features() {
        let level_of = |features: &[&'static str]| {
            level(&CpuBuild {
                features: features.to_vec(),
            })
        };
        assert_eq!(level_of(&["SSE3", "SSSE3"]), "x86-64-v2");
        assert_eq!(level_of(&["AVX", "AVX2", "FMA"]), "x86-64-v2");
        assert_eq!(
            level_of(&["AVX", "AVX2", "FMA", "F16C", "BMI2"]),
            "x86-64-v3"
        );
        assert_eq!(
            level_of(&["AVX", "AVX2", "FMA", "F16C", "BMI2", "AVX512"]),
            "x86-64-v4"
        );
    }
}
